import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.contract.messages import SlotReport
from fleet.errors import ConflictError, NotFoundError, RegistryError
from fleet.monitor.health import Standing, tally
from fleet.registry.sqlite import Registry, open_registry
from fleet.rollout import journal
from fleet.rollout.events import AbortAsked, PauseAsked, ResumeAsked
from fleet.rollout.gate import Gate
from fleet.rollout.plan import Count, Plan, Share, make_plan
from fleet.rollout.roster import Roster
from fleet.rollout.selector import parse_selector
from tests.small_fleet import (
    BOOT,
    NOW,
    a_release,
    a_reported,
    add_device,
    an_event,
    assigned,
    device_id,
    new_registry,
)

_, BASE, BASE_DIGEST = a_release(1)
MANIFEST, NEXT, NEXT_DIGEST = a_release(2, back_to=(BASE_DIGEST,))
OLD, NEW = assigned(BASE, BASE_DIGEST), assigned(NEXT, NEXT_DIGEST)
GATE = Gate(
    min_completed=1, max_failed_percent=40, silence_seconds=60, patience_seconds=600, soak_seconds=5
)


def a_fleet(tmp_path: Path, devices: int) -> Registry:
    registry = new_registry(tmp_path, devices)
    for number in range(devices):
        registry.devices.want(device_id(number), "motion", OLD, at_ms=NOW)
        registry.devices.saw(device_id(number), NOW)
    return registry


def a_plan(registry: Registry, name: str = "rollout-1", **changes: object) -> Plan:
    known: dict[str, object] = {
        "rollout": name,
        "release": NEXT,
        "assigned": NEW,
        "selector": parse_selector("all"),
        "devices": registry.devices.listing(),
        "desired": registry.devices.desired_by_device(),
        "at_ms": NOW,
        "canary": Count(1),
        "waves": [Share(50)],
        "gate": GATE,
    }
    return make_plan(**(known | changes))


def having(registry: Registry) -> list[str]:
    wanted = registry.devices.desired_by_device()
    return [device for device, slots in wanted.items() if slots["motion"] == NEW]


def says(registry: Registry, device: str, outcome: str, at_ms: int, **more: object):
    said = an_event(at_ms % 2**40, release=NEXT_DIGEST, outcome=outcome, why="so", **more)
    return journal.hear_update(registry, device, said, at_ms=at_ms)


def test_a_good_release_reaches_everybody_wave_by_wave(tmp_path):
    registry = a_fleet(tmp_path, 4)
    plan = a_plan(registry)
    now = NOW

    state = journal.begin(registry, plan, at_ms=now)
    for wave in range(len(plan.waves)):
        asked = {device for wave in plan.waves[: wave + 1] for device in wave}
        assert set(having(registry)) == asked
        for device in plan.waves[wave]:
            now += 1
            assert says(registry, device, "succeeded", now) == ("rollout-1",)
        now += 5001
        journal.tick(registry, at_ms=now)

    state = journal.load(registry, "rollout-1")
    assert (state.status, len(having(registry))) == ("done", 4)
    assert registry.rollouts.listing(active=True) == []
    (concluded,) = registry.events.read(kinds=("rollout.concluded",))
    assert concluded.body["status"] == "done"


def test_a_bad_release_is_stopped_at_the_canary_and_everybody_is_taken_back(tmp_path):
    registry = a_fleet(tmp_path, 4)
    plan = a_plan(registry)
    journal.begin(registry, plan, at_ms=NOW)
    (canary,) = plan.waves[0]

    says(registry, canary, "failed_rolled_back", NOW + 1)

    state = journal.load(registry, "rollout-1")
    assert state.status == "halted"
    assert "100% of 1 finished device" in state.phase.why
    assert having(registry) == []
    assert registry.devices.desired(canary) == {"motion": OLD}


def test_a_failure_in_a_later_wave_takes_back_those_that_succeeded(tmp_path):
    registry = a_fleet(tmp_path, 4)
    plan = a_plan(registry)
    journal.begin(registry, plan, at_ms=NOW)
    says(registry, plan.waves[0][0], "succeeded", NOW + 1)
    journal.tick(registry, at_ms=NOW + 6000)

    says(registry, plan.waves[1][0], "failed_rolled_back", NOW + 7000)

    assert journal.load(registry, "rollout-1").status == "halted"
    assert having(registry) == []


def test_a_device_that_somebody_wants_elsewhere_meanwhile_is_left_there(tmp_path):
    registry = a_fleet(tmp_path, 2)
    plan = a_plan(registry, canary=Count(2))
    journal.begin(registry, plan, at_ms=NOW)
    moved, stays = plan.waves[0]
    _, third, digest = a_release(3)
    registry.devices.want(moved, "motion", assigned(third, digest), at_ms=NOW)

    journal.advance(
        registry, "rollout-1", [AbortAsked(why="no", revert=True, at_ms=NOW)], at_ms=NOW
    )

    assert registry.devices.desired(moved)["motion"].digest == digest
    assert registry.devices.desired(stays) == {"motion": OLD}


@pytest.mark.parametrize(
    ("seen_after", "standing", "status"),
    [
        pytest.param(True, Standing.SILENT, "halted", id="seen since, and silent"),
        pytest.param(False, Standing.ABSENT, "asking", id="never seen since"),
    ],
)
def test_silence_counts_after_the_deadline_only_of_devices_seen_since(
    tmp_path, seen_after, standing, status
):
    registry = a_fleet(tmp_path, 3)
    plan = a_plan(registry)
    (canary,) = plan.waves[0]
    journal.begin(registry, plan, at_ms=NOW)
    if seen_after:
        registry.devices.saw(canary, NOW + 1000)
        assert journal.tick(registry, at_ms=NOW + 1000) == ("rollout-1",)

    assert journal.tick(registry, at_ms=NOW + 59_000) == ()
    journal.tick(registry, at_ms=NOW + (61_000 if seen_after else 60_000))

    state = journal.load(registry, "rollout-1")
    assert (state.members[canary].standing, state.status) == (standing, status)


def test_the_time_of_a_device_that_was_away_begins_when_it_is_there(tmp_path):
    registry = a_fleet(tmp_path, 3)
    plan = a_plan(registry)
    (canary,) = plan.waves[0]
    journal.begin(registry, plan, at_ms=NOW)
    back = NOW + 59_000
    registry.devices.saw(canary, back)

    journal.tick(registry, at_ms=back)
    assert journal.tick(registry, at_ms=back + 59_000) == ()
    assert journal.load(registry, "rollout-1").members[canary].standing is Standing.ASKED
    journal.tick(registry, at_ms=back + 60_000)
    assert journal.load(registry, "rollout-1").status == "halted"
    assert journal.load(registry, "rollout-1") == journal.replay(registry, "rollout-1")


def test_a_clock_that_was_put_back_neither_holds_a_rollout_up_nor_convicts_anybody(tmp_path):
    registry = a_fleet(tmp_path, 2)
    plan = a_plan(registry)
    (canary,) = plan.waves[0]
    year = 365 * 86_400_000
    journal.begin(registry, plan, at_ms=NOW + year)
    registry.devices.saw(canary, NOW + year + 1)

    journal.tick(registry, at_ms=NOW)
    assert journal.load(registry, "rollout-1").members[canary].asked_ms == NOW
    reopened = open_registry(tmp_path / "registry.db", create=False)
    assert journal.load(reopened, "rollout-1") == journal.load(registry, "rollout-1")
    reopened.close()
    journal.tick(registry, at_ms=NOW + 60_000)
    assert journal.load(registry, "rollout-1").members[canary].standing is Standing.ABSENT
    says(registry, canary, "succeeded", NOW + 61_000)
    assert journal.load(registry, "rollout-1").status == "soaking"
    journal.tick(registry, at_ms=NOW)
    state = journal.load(registry, "rollout-1")
    assert state.phase.until_ms == NOW + round(plan.gate.soak_seconds * 1000)
    assert state == journal.replay(registry, "rollout-1")


def test_a_rollout_goes_on_without_a_device_that_left_and_stops_when_nobody_is_left(tmp_path):
    registry = a_fleet(tmp_path, 3)
    plan = a_plan(registry)
    (canary,) = plan.waves[0]
    journal.begin(registry, plan, at_ms=NOW)

    (waiting,) = plan.waves[1][:1]
    assert journal.hear_left(registry, waiting, "revoked", at_ms=NOW) == ("rollout-1",)
    assert journal.load(registry, "rollout-1").status == "asking"
    journal.hear_left(registry, canary, "revoked", at_ms=NOW)

    state = journal.load(registry, "rollout-1")
    assert (state.status, state.members[canary].standing) == ("aborted", Standing.LEFT)
    assert "nothing is proven" in state.phase.why
    assert registry.devices.desired(canary).get("motion") != plan.release
    assert state == journal.replay(registry, "rollout-1")


def test_a_wave_without_a_verdict_pauses_and_goes_on_when_resumed_and_answered(tmp_path):
    registry = a_fleet(tmp_path, 2)
    plan = a_plan(registry)
    journal.begin(registry, plan, at_ms=NOW)

    journal.tick(registry, at_ms=NOW + 600_000)

    state = journal.load(registry, "rollout-1")
    assert state.status == "paused"
    assert "no verdict in time: 0 of 1 devices" in state.phase.why
    later = NOW + 700_000
    says(registry, plan.waves[0][0], "succeeded", later)
    assert journal.load(registry, "rollout-1").status == "paused"
    journal.advance(registry, "rollout-1", [ResumeAsked(at_ms=later)], at_ms=later)
    assert journal.load(registry, "rollout-1").status == "soaking"


def test_a_retryable_failure_is_not_the_end(tmp_path):
    registry = a_fleet(tmp_path, 1)
    journal.begin(registry, a_plan(registry), at_ms=NOW)

    says(registry, device_id(0), "failed_no_change", NOW + 1, retryable=True)
    assert journal.load(registry, "rollout-1").status == "asking"
    says(registry, device_id(0), "succeeded", NOW + 2)

    assert journal.load(registry, "rollout-1").status == "done"


def test_a_device_that_runs_the_release_already_counts_at_once(tmp_path):
    registry = a_fleet(tmp_path, 1)
    runs = a_reported(motion=SlotReport(current=NEXT_DIGEST))
    registry.devices.reported(device_id(0), BOOT, runs, at_ms=NOW)

    state = journal.begin(registry, a_plan(registry), at_ms=NOW)

    assert state.status == "done"


def test_two_active_rollouts_of_a_slot_share_no_device(tmp_path):
    registry = a_fleet(tmp_path, 2)
    journal.begin(registry, a_plan(registry), at_ms=NOW)
    add_device(registry, 7)
    other = a_plan(registry, "rollout-2", selector=parse_selector("id=d-0007"))

    with pytest.raises(ConflictError, match="rollout-1 is active for slot motion"):
        journal.begin(registry, a_plan(registry, "rollout-3", canary=Count(2)), at_ms=NOW)

    journal.begin(registry, other, at_ms=NOW)
    assert [row.id for row in registry.rollouts.listing()] == ["rollout-1", "rollout-2"]


def test_news_of_other_releases_and_unknown_outcomes_move_nothing(tmp_path):
    registry = a_fleet(tmp_path, 1)
    journal.begin(registry, a_plan(registry), at_ms=NOW)
    other = an_event(1, release=BASE_DIGEST, outcome="succeeded")
    strange = an_event(2, release=NEXT_DIGEST, outcome="asked")

    assert journal.hear_update(registry, device_id(0), other, at_ms=NOW) == ()
    assert journal.hear_update(registry, device_id(0), strange, at_ms=NOW) == ()
    assert says(registry, "d-nobody", "succeeded", NOW) == ()
    with pytest.raises(NotFoundError):
        journal.advance(registry, "rollout-9", [], at_ms=NOW)


def test_time_that_changes_nothing_is_not_journalled(tmp_path):
    registry = a_fleet(tmp_path, 2)
    journal.begin(registry, a_plan(registry), at_ms=NOW)
    before = registry.events.head()

    for second in range(50):
        journal.tick(registry, at_ms=NOW + second)

    assert registry.events.head() == before


HAPPENINGS = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([1, 5001, 60_001, 600_001])),
    st.tuples(
        st.sampled_from(["succeeded", "failed_rolled_back", "rejected", "failed_no_change"]),
        st.integers(0, 4),
    ),
    st.tuples(st.sampled_from(["pause", "resume", "abort", "seen"]), st.integers(0, 4)),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.slow
@given(happenings=st.lists(HAPPENINGS, max_size=25))
def test_replaying_the_journal_gives_the_state_after_any_story(tmp_path_factory, happenings):
    registry = a_fleet(tmp_path_factory.mktemp("story"), 4)
    journal.begin(registry, a_plan(registry), at_ms=NOW)
    now = NOW
    for word, number in happenings:
        now += 1
        match word:
            case "tick":
                now += number
                journal.tick(registry, at_ms=now)
            case "pause":
                event = PauseAsked(why="x" * 3000, at_ms=now)
                journal.advance(registry, "rollout-1", [event], at_ms=now)
            case "resume":
                journal.advance(registry, "rollout-1", [ResumeAsked(at_ms=now)], at_ms=now)
            case "abort":
                event = AbortAsked(why="no", revert=number > 2, at_ms=now)
                journal.advance(registry, "rollout-1", [event], at_ms=now)
            case "seen":
                registry.devices.saw(device_id(number), now)
            case outcome:
                says(registry, device_id(number), outcome, now, retryable=outcome.endswith("nge"))
        held = journal.load(registry, "rollout-1")
        assert journal.replay(registry, "rollout-1") == held
        counted = Roster.of(held.members.values())
        for wave in range(len(held.plan.waves)):
            only = {"first": wave, "last": wave}
            assert tally(held.members.standings(**only)) == tally(counted.standings(**only))
        assert held.members.latest_ms >= counted.latest_ms
    registry.events.verify_chain()
    state = journal.load(registry, "rollout-1")
    if state.status == "halted":
        assert having(registry) == []
    registry.close()


def test_a_failure_at_any_write_leaves_the_moment_before_or_after(tmp_path):
    """The disk gives up at each write of one busy step in turn; repeated, it succeeds."""
    writes = 0
    while True:
        folder = tmp_path / str(writes)
        folder.mkdir()
        registry = a_fleet(folder, 4)
        journal.begin(registry, a_plan(registry), at_ms=NOW)
        canary = journal.load(registry, "rollout-1").plan.waves[0][0]
        before = (registry.events.head(), registry.devices.desired_by_device())
        fail_after(registry, writes)
        try:
            says(registry, canary, "failed_rolled_back", NOW + 1)
        except RegistryError:
            registry.close()
            registry = open_registry(folder / "registry.db", create=False)
            assert (registry.events.head(), registry.devices.desired_by_device()) == before
            says(registry, canary, "failed_rolled_back", NOW + 1)
            finished = False
        else:
            finished = True
        assert journal.load(registry, "rollout-1").status == "halted"
        assert having(registry) == []
        registry.close()
        if finished:
            break
        writes += 1
    print(f"{writes} writes failed in turn")
    assert writes >= 5


def fail_after(registry: Registry, writes: int) -> None:
    """Let SQLite itself refuse the statement after so many changes, as a full disk does."""
    connection = registry._database.connection
    left = [writes]

    def refuse() -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError
        return 0

    connection.create_function("refuse", 0, refuse)
    for table in ("events", "desired", "rollouts", "devices"):
        for verb in ("INSERT", "UPDATE"):
            if (table, verb) != ("events", "UPDATE"):
                connection.execute(
                    f"CREATE TEMP TRIGGER cut_{table}_{verb} AFTER {verb} ON main.{table} "
                    "BEGIN SELECT refuse(); END"
                )


STORY = """
import sys
from pathlib import Path
from fleet.registry.sqlite import open_registry
from fleet.rollout import journal
from tests.fleet.test_rollout_journal import NOW, a_plan, says
registry = open_registry(Path(sys.argv[1]), create=False)
plan = a_plan(registry)
journal.begin(registry, plan, at_ms=NOW)
now = NOW
while registry.rollouts.listing(active=True):
    for device in plan.devices:
        now += 1
        says(registry, device, "succeeded", now)
        print("said", flush=True)
    now += 5001
    journal.tick(registry, at_ms=now)
print("done", flush=True)
"""


@pytest.mark.parametrize("lines", [1, 4, 9])
def test_a_manager_killed_in_the_middle_goes_on_where_it_was(tmp_path, lines):
    a_fleet(tmp_path, 6).close()
    path = tmp_path / "registry.db"
    with subprocess.Popen(
        [sys.executable, "-c", STORY, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as child:
        for _ in range(lines):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()

    registry = open_registry(path, create=False)
    registry.events.verify_chain()
    state = journal.load(registry, "rollout-1")
    assert journal.replay(registry, "rollout-1") == state
    assert set(having(registry)) == {
        m.device for m in state.members.values() if m.wave <= state.wave
    }
    now = NOW + 20_000
    for _ in state.plan.waves:
        for device in state.plan.devices:
            now += 1
            says(registry, device, "succeeded", now)
        now += 5001
        journal.tick(registry, at_ms=now)
    assert journal.load(registry, "rollout-1").status == "done"
    assert len(having(registry)) == 6


def test_an_outcome_among_many_devices_writes_only_what_it_changes(tmp_path):
    registry = a_fleet(tmp_path, 200)
    plan = a_plan(registry, canary=Count(200), gate=Gate(min_completed=200))
    journal.begin(registry, plan, at_ms=NOW)
    before = registry._database.connection.total_changes

    says(registry, plan.waves[0][7], "succeeded", NOW + 1)

    assert registry._database.connection.total_changes - before == 3  # log, member, rollout
    registry.close()
    reopened = open_registry(tmp_path / "registry.db", create=False)
    state = journal.load(reopened, "rollout-1")
    assert state.of_wave().succeeded == 1
    assert state == journal.replay(reopened, "rollout-1")


def test_a_state_that_was_held_goes_with_the_transaction_that_is_undone(tmp_path):
    registry = a_fleet(tmp_path, 3)
    plan = a_plan(registry, canary=Count(3))
    other, again = (a_plan(registry, "rollout-2", canary=Count(n)) for n in (1, 3))
    begun = journal.begin(registry, plan, at_ms=NOW)

    def cut_short(act):
        with registry.transaction():
            act()
            raise KeyboardInterrupt

    def undone(act):
        with pytest.raises(KeyboardInterrupt):
            cut_short(act)

    undone(lambda: says(registry, device_id(0), "succeeded", NOW + 1))
    assert journal.load(registry, "rollout-1") == begun
    says(registry, device_id(1), "succeeded", NOW + 2)
    state = journal.load(registry, "rollout-1")
    assert [str(m.standing) for m in state.members.values()].count("asked") == 2
    assert state == journal.replay(registry, "rollout-1")

    stop = AbortAsked(why="no", revert=True, at_ms=NOW + 3)
    journal.advance(registry, "rollout-1", [stop], at_ms=NOW + 3)
    undone(lambda: journal.begin(registry, other, at_ms=NOW + 4))
    assert journal.begin(registry, again, at_ms=NOW + 5).plan == again


def test_the_plan_in_the_registry_is_readable_json(tmp_path):
    registry = a_fleet(tmp_path, 1)
    journal.begin(registry, a_plan(registry), at_ms=NOW)

    row = registry.rollouts.find("rollout-1")

    assert msgspec.json.decode(registry.rollouts.plan("rollout-1"))["v"] == 1
    assert msgspec.json.decode(row.phase) == {"type": "Asking", "since_ms": NOW}
    assert (row.slot, row.release, row.status, row.active) == (
        "motion",
        NEXT_DIGEST,
        "asking",
        True,
    )
