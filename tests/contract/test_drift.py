"""The figure of prediction drift, where the answer is known."""

import numpy as np
import pytest

from agent.contract.drift import prediction_drift

SHARES = np.array([0.4, 0.3, 0.2, 0.05, 0.03, 0.01, 0.01])


def drawn(rng: np.random.Generator, number: int, shares: np.ndarray = SHARES) -> list[int]:
    return rng.multinomial(number, shares).tolist()


def test_without_drift_the_figure_stays_near_nothing_even_for_few_answers():
    rng = np.random.default_rng(1)
    few = [prediction_drift(drawn(rng, 2000), drawn(rng, 50)) for _ in range(400)]
    many = [prediction_drift(drawn(rng, 2000), drawn(rng, 2000)) for _ in range(400)]
    assert np.mean(few) < 0.1  # uncorrected it averages 0.13 and more
    assert np.mean(many) < 0.005


def test_another_mix_of_classes_shows():
    rng = np.random.default_rng(2)
    moved = SHARES[::-1]
    assert prediction_drift(drawn(rng, 2000), drawn(rng, 500, moved)) > 1


def test_a_class_that_was_never_answered_before_is_finite():
    assert 0 < prediction_drift([1000, 0], [500, 500]) < 10


def test_classes_that_nobody_answers_do_not_count():
    assert prediction_drift([50, 50, 0, 0, 0], [40, 60, 0, 0, 0]) == prediction_drift(
        [50, 50], [40, 60]
    )


@pytest.mark.parametrize(
    ("first", "newest"), [([1], [1, 2]), ([], []), ([0, 0], [1, 1]), ([1, 1], [0, 0]), ([2], [-1])]
)
def test_what_cannot_be_compared_is_refused(first, newest):
    with pytest.raises(ValueError, match=r"drift|compared"):
        prediction_drift(first, newest)
