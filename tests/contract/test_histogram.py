import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.codec import decode, encode
from agent.contract.histogram import HIGHEST, LOWEST, RELATIVE_ERROR, LogHistogram, merged
from agent.contract.telemetry import Histogram
from agent.errors import ContractError, MalformedError

FROZEN = Histogram(buckets=(-345, -172, -17, 0, 116, 369, 519), counts=(1, 1, 1, 2, 1, 1, 1))
values = st.lists(st.floats(LOWEST, HIGHEST), max_size=80)


@given(values, values, values)
def test_merging_is_associative_and_the_same_as_adding_everything_to_one(a, b, c):
    left = merged([merged([LogHistogram.of(a), LogHistogram.of(b)]), LogHistogram.of(c)])
    right = merged([LogHistogram.of(a), merged([LogHistogram.of(c), LogHistogram.of(b)])])
    assert left.written() == right.written() == LogHistogram.of(a + b + c).written()


@given(values.filter(bool), st.floats(0, 1))
def test_a_quantile_is_within_the_relative_error_of_the_exact_one(numbers, share):
    exact = sorted(numbers)[int(share * (len(numbers) - 1))]
    found = LogHistogram.of(numbers).quantile(share)
    assert found == pytest.approx(exact, rel=RELATIVE_ERROR * (1 + 1e-6))


@given(values.filter(bool))
def test_the_mean_is_within_the_relative_error(numbers):
    assert LogHistogram.of(numbers).mean() == pytest.approx(
        np.mean(numbers), rel=RELATIVE_ERROR * 1.001
    )


@given(values)
def test_what_is_written_is_read_back_after_a_journey_as_json(numbers):
    histogram = LogHistogram.of(numbers)
    journey = decode(Histogram, encode(histogram.written()))
    assert LogHistogram.read(journey).written() == histogram.written()
    assert histogram.total == len(numbers)


def test_the_bucket_numbers_of_version_1_never_change():
    written = LogHistogram.of([0.0, 1e-3, 0.5, 1.0, 1.0, 100.0, 2.5e6, 1e12]).written()
    assert written == FROZEN


def test_an_empty_histogram_has_no_quantile_and_no_mean():
    assert LogHistogram().quantile(0.5) is None
    assert LogHistogram().mean() is None
    assert LogHistogram().written() == Histogram()


def test_zero_and_enormous_values_fall_into_the_outer_buckets():
    histogram = LogHistogram.of([0.0, 1e300])
    assert histogram.total == 2
    assert histogram.quantile(0.0) == pytest.approx(LOWEST, rel=0.05)
    assert histogram.quantile(1.0) == pytest.approx(HIGHEST, rel=0.05)


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_a_value_that_is_no_magnitude_is_refused(bad):
    with pytest.raises(ValueError, match="counts values from 0"):
        LogHistogram.of([1.0, bad])


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Histogram(buckets=(1, 2), counts=(1,)), id="a count is missing"),
        pytest.param(Histogram(buckets=(2, 1), counts=(1, 1)), id="buckets fall"),
        pytest.param(Histogram(buckets=(1, 1), counts=(1, 1)), id="a bucket twice"),
        pytest.param(Histogram(buckets=(10**9,), counts=(1,)), id="a bucket out of bounds"),
        pytest.param(Histogram(buckets=(-(10**30),), counts=(1,)), id="a bucket far below"),
        pytest.param(Histogram(buckets=(1,), counts=(-1,)), id="a negative count"),
        pytest.param(Histogram(buckets=(1, 2), counts=(2**53, 2**53)), id="too many in all"),
        pytest.param(Histogram(buckets=tuple(range(5000)), counts=(1,) * 5000), id="too wide"),
    ],
)
def test_a_histogram_that_cannot_be_is_refused(message):
    with pytest.raises(MalformedError, match="histogram"):
        LogHistogram.read(message)


@given(st.lists(st.integers()), st.lists(st.integers()))
def test_no_numbers_from_the_wire_raise_anything_but_a_contract_error(buckets, counts):
    try:
        histogram = LogHistogram.read(Histogram(buckets=tuple(buckets), counts=tuple(counts)))
    except ContractError:
        return
    assert histogram.total == sum(counts)
