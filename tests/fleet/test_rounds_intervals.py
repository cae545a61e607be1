"""Intervals of accuracies and of their changes."""

import numpy as np
import pytest

from agent.contract.messages import Quality
from fleet.rounds.intervals import change_of, is_sound, mean_accuracy, wilson, worst_decile


def of(right: int, windows: int = 40) -> Quality:
    return Quality(right=right, windows=windows)


@pytest.mark.parametrize(
    ("right", "windows", "low", "high"),
    [(0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilsons_interval_is_that_of_newcombes_tables(right, windows, low, high):
    found = wilson(of(right, windows))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_of_no_windows_nothing_is_known():
    assert (wilson(of(0, 0)).low, wilson(of(0, 0)).high) == (0.0, 1.0)


def test_a_device_alone_is_as_uncertain_as_its_few_windows():
    few, many = change_of([(of(30), of(28))]), change_of([(of(3000, 4000), of(2800, 4000))])
    assert [few.mean, many.mean] == pytest.approx([-0.05, -0.05])
    assert few.low < -0.2 < few.high > 0
    assert -0.08 < many.low < many.high < 0


def test_devices_that_disagree_widen_the_interval_beyond_that_of_their_windows():
    alike = change_of([(of(2000, 4000), of(2200, 4000))] * 6)
    apart = change_of([(of(2000, 4000), of(2000 + d, 4000)) for d in (1400, -1000) * 3])
    assert [alike.mean, apart.mean] == pytest.approx([0.05, 0.05])
    assert alike.low > 0
    assert apart.low < 0 < apart.high


def test_the_interval_of_a_change_holds_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        right = chance.binomial(60, (0.8, 0.72), size=(12, 2))
        found = change_of([(of(int(b), 60), of(int(a), 60)) for b, a in right])
        held += found.low <= -0.08 <= found.high
    assert 0.93 <= held / 400 <= 1


def test_one_device_counts_as_one_however_many_windows_it_has():
    mean, _ = mean_accuracy([of(10_000, 10_000), of(0, 10)])
    assert mean == 0.5


def test_the_worst_tenth_is_one_device_at_least():
    pairs = [(of(30), of(30 + gain)) for gain in range(-2, 18)]
    assert worst_decile(pairs[:3]) == pytest.approx(-2 / 40)
    assert worst_decile(pairs) == pytest.approx(-1.5 / 40)


@pytest.mark.parametrize(
    "pair",
    [(of(30), of(41)), (of(41), of(30)), (of(0, 0), of(0, 0)), (of(30), of(30, 39))],
    ids=["more right than windows", "running too", "no windows", "other windows"],
)
def test_figures_that_cannot_be_are_known_as_such(pair):
    assert not is_sound(pair)
