"""What one device says twice: a failure outweighs a success, in either order."""

import pytest

from agent.contract.messages import Assigned
from fleet.monitor.health import Standing
from fleet.rollout.engine import State, initial, step
from fleet.rollout.events import Completed, Given, Silent, Started
from fleet.rollout.gate import Gate
from fleet.rollout.plan import Plan

RELEASE = Assigned(target="models/motion/02.json", digest="02" * 32, counter=2)
PATIENT = Gate(min_completed=3, max_failed_percent=99)


def asked() -> State:
    """Three devices of one wave, asked a moment ago; the gate waits for all of them."""
    plan = Plan(
        id="a-rollout", slot="motion", release=RELEASE, selector="all",
        waves=(("d-a", "d-b", "d-c"),), gate=PATIENT, created_ms=0,
    )  # fmt: skip
    state, effects = step(initial(plan), Started(at_ms=1))
    assert len(effects) == 3
    return step(state, Given(previous=dict.fromkeys(plan.devices), at_ms=1))[0]


def said(outcome: Standing, *, retryable: bool = False) -> Completed:
    return Completed(device="d-a", outcome=outcome, why="so", at_ms=2, retryable=retryable)


GOOD, BAD = said(Standing.SUCCEEDED), said(Standing.FAILED_ROLLED_BACK)
PASSING = said(Standing.FAILED_NO_CHANGE, retryable=True)
SILENT = Silent(device="d-a", absent=False, at_ms=2)
ABSENT = Silent(device="d-a", absent=True, at_ms=2)


@pytest.mark.parametrize(
    ("news", "standing"),
    [
        pytest.param((GOOD, BAD), Standing.FAILED_ROLLED_BACK, id="good, then bad"),
        pytest.param((BAD, GOOD), Standing.FAILED_ROLLED_BACK, id="bad, then good"),
        pytest.param(
            (BAD, said(Standing.REJECTED)), Standing.FAILED_ROLLED_BACK, id="the first of two"
        ),
        pytest.param((GOOD, SILENT), Standing.SUCCEEDED, id="silence after an answer"),
        pytest.param((SILENT, GOOD), Standing.SUCCEEDED, id="an answer after silence"),
        pytest.param((ABSENT, BAD), Standing.FAILED_ROLLED_BACK, id="a failure after absence"),
        pytest.param((PASSING,), Standing.ASKED, id="a failure that passes is not the end"),
        pytest.param((PASSING, GOOD), Standing.SUCCEEDED, id="and may end well"),
        pytest.param((GOOD, PASSING), Standing.SUCCEEDED, id="or have ended well before"),
    ],
)
def test_the_weightiest_word_of_a_device_stands(news, standing):
    state = asked()
    for event in news:
        state, _ = step(state, event)
    assert state.members["d-a"].standing is standing


def test_who_was_not_asked_completes_nothing():
    plan = Plan(
        id="a-rollout", slot="motion", release=RELEASE, selector="all",
        waves=(("d-a",), ("d-b",)), gate=PATIENT, created_ms=0,
    )  # fmt: skip
    state, _ = step(initial(plan), Started(at_ms=1))
    early = Completed(device="d-b", outcome=Standing.SUCCEEDED, why="", at_ms=2)
    assert step(state, early)[0] == state
