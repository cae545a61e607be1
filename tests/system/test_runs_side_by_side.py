"""Real devices in two runs at once, one of them on hold over a ``kill -9``; and a buffered run."""

from collections.abc import Iterator

import pytest

from fleet.registry.sqlite import open_registry
from fleet.rounds.engine import replay
from fleet.rounds.events import decode_event
from fleet.service.run_views import plan_of
from fleet.service.views import RunView
from tests.brokers import eventually
from tests.live_fleet import LiveFleet

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with LiveFleet(tmp_path_factory.mktemp("fleet"), devices=2) as fleet:
        fleet.roll_out_motion()
        yield fleet


def shown(fleet: LiveFleet, run: str) -> RunView:
    with fleet.client as client:
        return client.get(f"/runs/{run}", RunView)


def test_a_run_on_hold_outlives_the_manager_while_another_one_goes_on(fleet: LiveFleet):
    first, second = sorted(fleet.folders)
    held = fleet.start_run(select=f"id={first}", rounds=2, epochs=20)
    with fleet.client as client:  # at once: its program has not even begun
        assert client.post(f"/runs/{held}/pause", None, RunView).status == "paused"
    assert "paused" in fleet("run", "list")
    other = fleet.start_run(rounds=2, epochs=20)
    assert (shown(fleet, other).participants, shown(fleet, other).elsewhere) == ((second,), 1)

    ended = fleet.ended_run(other)
    assert (ended.status, ended.replies) == ("finished", 2), ended.why
    assert shown(fleet, held).status == "paused"

    fleet._children["manager"].kill()
    fleet._children["manager"].wait(30)
    fleet.revive()
    assert shown(fleet, held).status == "paused"
    eventually(lambda: fleet.online() == len(fleet.folders), 60)
    fleet("run", "resume", held)
    ended = fleet.ended_run(held)
    assert (ended.status, ended.rounds_completed, ended.replies) == ("finished", 2, 2), ended.why
    assert ended.participants == (first,)


def test_a_buffered_run_makes_versions_of_who_is_first(fleet: LiveFleet):
    told = fleet("run", "start", "motion", "--mode", "async", "--buffer", 1, "--rounds", 5,
                 "--epochs", 20)  # fmt: skip
    run = told.partition(":")[0]
    ended = fleet.ended_run(run)
    assert (ended.status, ended.rounds_completed) == ("finished", 5), ended.why
    assert len(ended.judged) == len(fleet.folders)

    registry = open_registry(fleet.config.registry, create=False)
    try:
        row = registry.runs.find(run)
        events = [decode_event(event) for event in registry.runs.journal(run)]
    finally:
        registry.close()
    assert row is not None
    folded = [send.folded for send in replay(plan_of(row), events).sends]
    assert [len(tasks) for tasks in folded] == [1] * 5
    assert len({task for tasks in folded for task in tasks}) == 5
