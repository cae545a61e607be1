"""Who receives a candidate: decided by decide windows, whatever withheld ones say."""

import pytest

from agent.contract.messages import Quality
from fleet.rounds.engine import Evaluating, RunState
from fleet.rounds.events import Evaluated
from fleet.service.run_views import judge
from tests.small_rounds import DEVICES, plan


def figures(decide: int, decide_running: int, withheld: int) -> Evaluated:
    def of(right: int) -> Quality:
        return Quality(right=right, windows=40)

    return Evaluated(
        device="d-one",
        decide=of(decide),
        decide_running=of(decide_running),
        withheld=of(withheld),
        withheld_running=of(20),
        at_ms=1,
    )


@pytest.mark.parametrize("withheld", [0, 20, 40])
@pytest.mark.parametrize(("decide", "receives"), [(31, True), (30, False), (29, False)])
def test_only_a_better_candidate_on_decide_windows_is_received(decide, receives, withheld):
    told = figures(decide, 30, withheld)
    (judged,), _ = judge(plan(), RunState(phase=Evaluating(1), figures={"d-one": told}), {})
    assert judged.receives is receives
    assert (judged.decide_before.right, judged.decide_after.right) == (30, decide)
    assert (judged.withheld_before.right, judged.withheld_after.right) == (20, withheld)


def test_who_gave_no_figures_does_not_receive_and_is_named_with_the_reason():
    silent = {"d-two": "it declined", "d-three": "it did not answer in time"}
    judged, _ = judge(plan(), RunState(phase=Evaluating(1), silent=silent), {})
    assert [(j.device, j.receives, j.trained, j.why) for j in judged] == [
        ("d-three", False, False, "it did not answer in time"),
        ("d-two", False, DEVICES[1] in plan().participants, "it declined"),
    ]
