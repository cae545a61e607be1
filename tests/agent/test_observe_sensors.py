import numpy as np
import pytest

from agent.contract.sketch import SignedSketch
from agent.contract.telemetry import Channel, Window
from agent.observe.inputs import Held
from agent.observe.sensors import BEGUN, ENDED, Felt, SensorLimits, Sensors

CLOSED_MS = 1_700_000_100_000
ONES = SignedSketch.of(np.ones(1000)).written()


def felt(*, looked=5, held=None, channel=None, samples=3000, seconds=60.0, rate_hz=50.0):
    window = Window(
        slot="motion",
        release="a" * 64,
        number=0,
        opened_ms=0,
        closed_ms=CLOSED_MS,
        looked=looked,
        samples=samples,
        inputs=(Channel(name="gyro_x", **(channel or {})),),
    )
    holds = Held(channel="gyro_x", **({"seen": looked} | (held or {})))
    return Felt(window=window, held=(holds,), rate_hz=rate_hz, seconds=seconds)


def walk(*steps: Felt, limits=None):
    sensors = Sensors("motion", limits or SensorLimits())
    return [sensors.look(step) for step in steps]


STUCK = felt(held={"value": 0.0, "seconds": 100.0, "windows": 50})
WELL = felt()


def test_a_stuck_channel_is_told_once_with_since_when_and_once_more_when_it_moves():
    first, again, well, quiet = walk(STUCK, STUCK, WELL, WELL)
    assert first == (
        (BEGUN, "channel gyro_x of motion is stuck at 0 since 2023-11-14 22:13:20 UTC"),
    )
    assert (again, quiet) == ((), ())
    assert well == ((ENDED, "channel gyro_x of motion is well again: it moves"),)


@pytest.mark.parametrize(
    "held",
    [
        pytest.param({"seconds": 59.0, "windows": 50}, id="not for long"),
        pytest.param({"seconds": 600.0, "windows": 2}, id="in two windows only"),
        pytest.param(
            {"seconds": 600.0, "windows": 50, "longest": 300.0}, id="it stood still for long before"
        ),
    ],
)
def test_a_channel_that_may_stand_still_is_no_trouble(held):
    assert walk(felt(held=held)) == [()]


def test_standing_still_can_be_allowed_for_ever():
    assert walk(STUCK, limits=SensorLimits(stuck_seconds=0)) == [()]


def test_a_new_release_that_has_not_seen_the_channel_move_does_not_call_it_well():
    beginning = felt(held={"value": 0.0, "seconds": 1.0, "windows": 1})
    _, unseen, little, still = walk(STUCK, felt(looked=0), beginning, STUCK)
    assert (unseen, little, still) == ((), (), ())


def test_a_channel_that_holds_nan_is_told_with_what_it_cost():
    bad = felt(looked=0, channel={"not_finite": 12})
    first, again, well = walk(bad, bad, WELL)
    assert first == (
        (BEGUN, "channel gyro_x of motion holds NaN or infinity: 12 windows were refused for it"),
    )
    assert again == ()
    assert well == ((ENDED, "channel gyro_x of motion is well again: it holds numbers"),)


def test_a_channel_outside_of_its_declared_range_is_told():
    wild = felt(channel={"values": ONES, "outside": 100})
    first, few, well = walk(wild, felt(), felt(channel={"values": ONES, "outside": 10}))
    assert few == ()
    assert first == (
        (BEGUN, "channel gyro_x of motion is outside of its declared range in 10% of values"),
    )
    assert well[0][0] == ENDED


def test_samples_that_come_too_slowly_or_not_at_all_are_told():
    slow, well, silent = felt(samples=1800), felt(samples=2900), felt(samples=0)
    told = walk(WELL, slow, slow, well, silent)
    assert told[1] == ((BEGUN, "motion gets 30 samples a second; its model wants 50"),)
    assert told[2] == ()
    assert told[3] == ((ENDED, "motion is well again: its samples come as fast as they should"),)
    assert told[4] == ((BEGUN, "motion gets 0 samples a second; its model wants 50"),)


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(felt(samples=10, rate_hz=None), id="any rate will do"),
        pytest.param(felt(samples=10, seconds=5.0), id="too short to tell"),
    ],
)
def test_a_rate_that_cannot_be_judged_is_no_trouble(step):
    assert walk(WELL, step)[1] == ()


def test_the_first_part_of_a_stream_is_not_judged_by_its_rate():
    assert walk(felt(samples=0), felt(samples=100), WELL) == [(), (), ()]
    assert walk(felt(samples=0, looked=0), limits=SensorLimits(rate_tolerance=0)) == [()]
