import pytest

from fleet.monitor.health import Standing, Tally, tally
from fleet.rollout.gate import Gate, Verdict

GATE = Gate(min_completed=4, max_failed_percent=25)


def counted(**standings: int) -> Tally:
    return tally(Standing[word.upper()] for word, n in standings.items() for _ in range(n))


@pytest.mark.parametrize(
    ("wave", "verdict", "words"),
    [
        pytest.param(counted(asked=8), Verdict.WAIT, "0 of 8 devices", id="nobody answered"),
        pytest.param(counted(succeeded=3, asked=5), Verdict.WAIT, "4 are needed", id="few"),
        pytest.param(counted(succeeded=7, asked=1), Verdict.WAIT, "1 are still", id="one works"),
        pytest.param(counted(succeeded=8), Verdict.ADVANCE, "8 of 8 finished", id="all good"),
        pytest.param(counted(succeeded=6, rejected=2), Verdict.ADVANCE, "6 of 8", id="just within"),
        pytest.param(
            counted(succeeded=3, failed_rolled_back=2, asked=3),
            Verdict.HALT,
            "40% of 5 finished devices of this wave failed (2 failed_rolled_back)",
            id="too many of the completed",
        ),
        pytest.param(
            counted(failed_no_change=3, asked=5),
            Verdict.HALT,
            "100% of 3",
            id="too many, whatever the rest will say, before the sample is full",
        ),
        pytest.param(
            counted(failed_no_change=2, asked=6),
            Verdict.WAIT,
            "2 of 8",
            id="two failures before the sample is full may still be within",
        ),
        pytest.param(
            counted(succeeded=3, silent=2, failed_rolled_back=1),
            Verdict.HALT,
            "1 failed_rolled_back, 2 silent",
            id="silence speaks against it",
        ),
        pytest.param(
            counted(succeeded=4, absent=4), Verdict.ADVANCE, "4 of 4", id="absence does not"
        ),
        pytest.param(
            counted(succeeded=1, absent=7), Verdict.WAIT, "7 not seen", id="absence is no sample"
        ),
        pytest.param(
            counted(succeeded=2), Verdict.ADVANCE, "2 of 2", id="a wave smaller than the sample"
        ),
    ],
)
def test_the_gate_judges_completed_devices_and_says_why(wave, verdict, words):
    found, why = GATE.judge(wave, wave)

    assert (found, words in why) == (verdict, True), why


def test_all_waves_so_far_are_judged_by_their_completed_devices_too():
    so_far = counted(succeeded=3, failed_rolled_back=2, absent=15)  # 40% of 5, 10% of 20
    verdict, why = GATE.judge(counted(asked=4), so_far)
    assert verdict is Verdict.HALT
    assert "40% of 5 finished devices so far failed" in why


def test_late_failures_of_earlier_waves_stop_the_wave_of_the_moment():
    wave, so_far = counted(succeeded=1, asked=3), counted(failed_rolled_back=3, succeeded=4)

    assert GATE.judge(wave, so_far)[0] is Verdict.HALT


def test_with_no_failure_allowed_the_first_one_stops_it():
    strict = Gate(min_completed=10, max_failed_percent=0)

    wave = counted(failed_no_change=1, asked=99)

    assert strict.judge(wave, wave)[0] is Verdict.HALT
