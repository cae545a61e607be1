"""``kill -9`` of real processes in the middle of a federated run changes nothing of its end."""

from collections import Counter

import msgspec
import pytest

from fleet.registry.sqlite import open_registry
from fleet.rounds.events import Answered, decode_event
from fleet.service.views import CandidateView
from tests.killed_manager import ASKED, Kill
from tests.live_fleet import LiveFleet

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]
DEVICES = 2
POINTS = (
    ("manager", Kill("before Pushed")),
    ("manager", Kill("train is offered")),
    ("manager", Kill("spooled")),
    ("manager", Kill("after Answered", 1)),
    ("manager", Kill("after Answered", 2)),
    ("manager", Kill("replies are delivered")),
    ("manager", Kill("the final weights are spooled")),
    ("manager", Kill("after ChildFinished")),
    ("manager", Kill("after Evaluated")),
    ("broker", Kill("train is offered", 2)),
    ("broker", Kill("after Answered", 3)),
    ("broker", Kill("evaluate is offered")),
    ("device", Kill("train is offered", 2)),
    ("device", Kill("after Answered", 1)),
    ("device", Kill("evaluate is offered", 2)),
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    with LiveFleet(folder, DEVICES, program="tests.killed_manager") as made:
        made.roll_out_motion()
        yield made


def a_run(fleet: LiveFleet):
    """Run two rounds; returns what came of them that must always be the same."""
    run = fleet.start_run(rounds=2, epochs=20, seed=7)
    view = fleet.ended_run(run)
    assert (view.status, view.rounds_completed, view.replies) == ("finished", 2, 4), view
    with fleet.client as client:
        candidate = client.get(f"/runs/{run}/candidate", CandidateView)
    judged = [(j.device, j.decide_after, j.withheld_after) for j in view.judged]
    return run, (candidate.model, judged)


def journal(fleet: LiveFleet, run: str):
    registry = open_registry(fleet.config.registry, create=False)
    try:
        return [decode_event(event) for event in registry.runs.journal(run)]
    finally:
        registry.close()


def test_a_part_killed_in_the_middle_of_a_run_costs_no_round_and_changes_no_bit(
    fleet, record_property
):
    _, undisturbed = a_run(fleet)
    victim = next(iter(fleet.agents))
    kill = fleet.home / ASKED
    for part, asked in POINTS:
        pid = 0 if part == "manager" else fleet.pid_of(victim if part == "device" else part)
        kill.write_bytes(msgspec.json.encode(msgspec.structs.replace(asked, pid=pid)))
        run, outcome = a_run(fleet)
        where = f"{part} killed when {asked.step}, time {asked.nth}"
        assert not kill.exists(), f"never came to: {where}"
        assert outcome == undisturbed, where
        folded = Counter(e.task for e in journal(fleet, run) if isinstance(e, Answered))
        assert sorted(folded.values()) == [1, 1, 1, 1], where
        record_property("kills", {f"{part} process": 1})
