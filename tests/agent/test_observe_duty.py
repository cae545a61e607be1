import pytest

from agent.observe.duty import Duty, HeatLimits, step

LIMITS = HeatLimits(hot_celsius=80, critical_celsius=90, cool_by=5, slowest=8)


def walk(readings, limits=LIMITS):
    """Return the duty after each look at a temperature, or at what holds the machine back."""
    duty, seen = Duty(), []
    for reading in readings:
        at = None if isinstance(reading, str) or reading is None else ("cpu-thermal", reading)
        duty = step(duty, limits, at, (reading,) if isinstance(reading, str) else ())
        seen.append(duty.every)
    return seen


@pytest.mark.parametrize(
    ("readings", "duties"),
    [
        pytest.param([20, 60, 79.9], [1, 1, 1], id="cool is whole"),
        pytest.param([80, 81, 82, 83], [2, 4, 8, 8], id="hot is half as much at each look"),
        pytest.param([95], [8], id="critical is little at once"),
        pytest.param([80, 78, 76, 80], [2, 2, 2, 4], id="nothing changes in between"),
        pytest.param([95, 75, 74, 70], [8, 4, 2, 1], id="cool again is twice as much at a time"),
        pytest.param([80, 75.1, 75, 79], [2, 2, 1, 1], id="just above and at cool"),
        pytest.param(["throttled", "throttled", 50], [2, 4, 2], id="the machine knows better"),
        pytest.param(["soft-temperature-limit"], [2], id="a soft limit"),
        pytest.param(["under-voltage", "frequency-capped"], [1, 1], id="a weak supply is no heat"),
        pytest.param([None, None], [1, 1], id="no thermometer"),
        pytest.param([85, None], [2, 1], id="a thermometer that went away"),
    ],
)
def test_the_duty_follows_the_heat_with_a_gap_between_hot_and_cool(readings, duties):
    assert walk(readings) == duties


def test_an_operator_can_forbid_to_leave_windows_out():
    never = HeatLimits(hot_celsius=80, critical_celsius=90, slowest=1)
    assert walk([85, 99, "throttled"], never) == [1, 1, 1]


def test_each_duty_says_why():
    hot = step(Duty(), LIMITS, ("cpu-thermal", 83.4), ())
    assert hot.why == "cpu-thermal is at 83 °C"
    assert step(hot, LIMITS, ("cpu-thermal", 91), ()).why == (
        "cpu-thermal is at 91 °C, which is critical"
    )
    assert step(Duty(), LIMITS, None, ("throttled",)).why == "the machine says throttled"
    assert step(hot, LIMITS, ("cpu-thermal", 20), ()) == Duty()
