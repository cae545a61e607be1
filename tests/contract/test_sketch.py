import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.contract.codec import decode, encode
from agent.contract.sketch import (
    HIGHEST,
    LAST,
    LOWEST,
    MAX_BUCKETS,
    MAX_LEVEL,
    RELATIVE_ERROR,
    WIDTH,
    SignedSketch,
    merged,
    places,
    written,
)
from agent.contract.telemetry import Sketch
from agent.errors import MalformedError

FROZEN = Sketch(buckets=(-346, -185, -70, 0, 93, 139, 161), counts=(1, 1, 1, 2, 1, 2, 1))
sizes = st.floats(LOWEST * 1.001, HIGHEST)
values = st.lists(st.one_of(st.just(0.0), sizes, sizes.map(lambda x: -x)), max_size=200)


@given(values, values, values)
def test_merging_sketches_is_the_same_in_any_order(a, b, c):
    one, two, three = (SignedSketch.of(part) for part in (a, b, c))
    left, right = merged([merged([one, two]), three]), merged([three, merged([two, one])])
    assert left.written() == right.written()
    assert left.total == len(a + b + c)


@given(values, values)
def test_a_merged_sketch_is_that_of_all_values_at_the_coarser_of_the_levels(a, b):
    whole, joined = SignedSketch.of(a + b), merged([SignedSketch.of(a), SignedSketch.of(b)])
    joined = SignedSketch.read(joined.written())
    level = max(whole.level, joined.level)
    whole.coarsen(level)
    joined.coarsen(level)
    assert whole.written() == joined.written()


@given(values.filter(bool), st.floats(0, 1))
def test_a_quantile_of_either_sign_is_within_the_error_of_its_level(numbers, share):
    exact = sorted(numbers)[int(share * (len(numbers) - 1))]
    sketch = SignedSketch.of(numbers)
    ratio = ((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)) ** (2**sketch.level)
    error = (ratio - 1) / (ratio + 1) * (1 + 1e-6)
    assert sketch.quantile(share) == pytest.approx(exact, rel=error, abs=LOWEST)


@given(values)
def test_a_sketch_on_the_wire_is_bounded_and_read_back_the_same(numbers):
    sketch = SignedSketch.of(numbers)
    journey = decode(Sketch, encode(sketch.written()))
    assert SignedSketch.read(journey).written() == sketch.written()
    assert len(journey.buckets) <= MAX_BUCKETS
    assert sketch.total == len(numbers)


def test_the_bucket_numbers_of_sketches_of_version_1_never_change():
    seen = [-1e12, -100.0, -1e-3, 0.0, 1e-9, 1e-2, 1.0, 1.0, 9.81]
    assert SignedSketch.of(seen).written() == FROZEN


def test_the_widest_spread_of_values_is_written_in_few_bytes():
    rng = np.random.default_rng(1)
    spread = rng.choice([-1, 1], 100_000) * np.exp(rng.uniform(-13, 20, 100_000))
    counts = np.bincount(places(spread), minlength=WIDTH)
    message = written(counts)
    assert sum(message.counts) == 100_000
    assert 0 < message.level <= 5
    assert len(encode(message)) < 700


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_quantile_of_widely_spread_values_is_within_the_error_of_its_level(sign):
    spread = np.sort(sign * np.exp(np.random.default_rng(3).uniform(-12, 19, 5000)))
    sketch = SignedSketch.of(spread)
    assert sketch.level == 3
    ratio = ((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)) ** (2**sketch.level)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        exact = spread[int(share * (len(spread) - 1))]
        assert sketch.quantile(share) == pytest.approx(exact, rel=(ratio - 1) / (ratio + 1) * 1.001)


def test_a_sensor_around_one_value_keeps_the_finest_level():
    felt = SignedSketch.of(np.random.default_rng(2).normal(9.81, 0.5, 10_000))
    assert felt.level == 0
    assert felt.quantile(0.5) == pytest.approx(9.81, rel=0.05)
    assert len(encode(felt.written())) < 250


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Sketch(level=MAX_LEVEL + 1), "the highest is"),
        (Sketch(buckets=(1,)), "one count a bucket"),
        (Sketch(buckets=tuple(range(65)), counts=(1,) * 65), "at most 64"),
        (Sketch(buckets=(2, 1), counts=(1, 1)), "do not rise"),
        (Sketch(buckets=(LAST + 1,), counts=(1,)), "lie outside"),
        (Sketch(level=4, buckets=(-100,), counts=(1,)), "lie outside"),
        (Sketch(buckets=(1,), counts=(-1,)), "below 0"),
        (Sketch(buckets=(1, 2), counts=(2**53, 1)), "pass 2"),
    ],
)
def test_a_sketch_that_cannot_be_is_refused(message, why):
    with pytest.raises(MalformedError, match=why):
        SignedSketch.read(message)


def test_an_empty_sketch_has_no_quantile():
    assert SignedSketch().quantile(0.5) is None
    assert SignedSketch().written() == Sketch()
    with pytest.raises(ValueError, match="between 0 and 1"):
        SignedSketch().quantile(2)
