"""What a manager forgets: nothing that a device, a release in force, a rollout or a run needs."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from agent.contract.codec import encode
from agent.contract.envelope import Boot
from agent.contract.messages import SlotReport
from fleet.config import RetentionConfig
from fleet.errors import ConfigError, ConflictError, DiskFullError
from fleet.registry.devices import DeviceState
from fleet.rounds.engine import FINAL, task_name
from fleet.rounds.events import (
    Answered,
    ChildFinished,
    EvaluationClosed,
    Posted,
    Pushed,
    RunPlan,
    Stopped,
    encode_event,
)
from fleet.service import publication, releases, retention, rollouts, run_candidates, runs
from fleet.service.desk import Desk
from fleet.service.views import ReleaseView
from fleet.service.wishes import RolloutWish
from fleet.signing.ceremony import load_targets_keys
from fleet.signing.metadata import next_targets
from tests.manager_home import MODEL, make_desk
from tests.small_fleet import a_reported

DAY_MS = 86_400_000
DESCRIPTION = MODEL.with_suffix(".json")
LONG_AGO = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def publish(desk: Desk) -> ReleaseView:
    built, made = publication.sign_release(
        publication.read_described(MODEL, DESCRIPTION),
        releases.targets(desk),
        load_targets_keys(desk.config.keys, "", dev=True)[:1],
        version=None,
    )
    for content in built.artifacts.values():
        desk.artifacts.put(content)
    return releases.publish(desk, made)


def withdraw(desk: Desk, view: ReleaseView) -> None:
    now = datetime.now(UTC)
    targets = next_targets(
        desk.repository.targets_metadata(),
        additions={},
        removals=(view.target,),
        signers=load_targets_keys(desk.config.keys, "", dev=True)[:1],
        now=now,
    )
    desk.repository.publish(targets, {}, now)


def age(desk: Desk) -> set[str]:
    """Let every file be old, and return their names."""
    names = {path.name for path in desk.config.artifacts.iterdir()}
    for name in names:
        os.utime(desk.config.artifacts / name, LONG_AGO)
    return names


def a_device(desk: Desk, **report: str | None) -> str:
    devices, now = desk.registry.devices, desk.now_ms()
    devices.add(
        "d-0000", key="00" * 32, group="demo", hardware="x", state=DeviceState.ENROLLED, at_ms=now
    )
    boot = Boot(1, "00ff00ff00ff00ff")
    devices.presence("d-0000", boot, 1, "online", at_ms=now)
    told = a_reported(motion=SlotReport(**report))
    devices.reported("d-0000", boot, told, at_ms=now)
    return "d-0000"


def manifests(desk: Desk, *views: ReleaseView) -> set[str]:
    return {view.digest for view in views if desk.artifacts.has(view.digest)}


def test_what_is_in_force_stays_however_old_it_is(desk: Desk):
    publish(desk)
    kept = age(desk)

    view = retention.prune(desk, dry_run=False)

    assert (view.artifacts, view.artifact_bytes) == ((), 0)
    assert {path.name for path in desk.config.artifacts.iterdir()} == kept
    assert kept <= retention.needed(desk)


def test_a_withdrawn_release_that_nobody_has_goes_and_a_dry_run_only_says_so(desk: Desk):
    first, second = publish(desk), publish(desk)
    withdraw(desk, first)
    age(desk)

    said = retention.prune(desk, dry_run=True)
    assert said.artifacts == (first.digest,)  # its model is the second's as well
    assert manifests(desk, first, second) == {first.digest, second.digest}
    done = retention.prune(desk, dry_run=False)

    assert (done.artifacts, done.dry_run) == (said.artifacts, False)
    assert manifests(desk, first, second) == {second.digest}
    withdraw(desk, second)
    age(desk)
    assert len(retention.prune(desk, dry_run=False).artifacts) > 1
    assert list(desk.config.artifacts.iterdir()) == []
    assert releases.find(desk, first.digest).digest == first.digest


@pytest.mark.parametrize("place", ["current", "candidate", "last_good"])
def test_what_a_device_runs_tries_or_keeps_is_never_removed(desk: Desk, place: str):
    view = publish(desk)
    withdraw(desk, view)
    a_device(desk, **{place: view.digest})
    kept = age(desk)

    assert retention.prune(desk, dry_run=False).artifacts == ()
    assert {path.name for path in desk.config.artifacts.iterdir()} == kept


def test_what_a_device_is_wanted_to_run_is_never_removed(desk: Desk):
    view = publish(desk)
    device = a_device(desk)
    wanted = releases.find(desk, view.digest).assigned
    desk.registry.devices.want(device, "motion", wanted, at_ms=desk.now_ms())
    withdraw(desk, view)
    age(desk)

    assert retention.prune(desk, dry_run=False).artifacts == ()


def test_what_an_active_rollout_may_take_devices_back_to_stays_until_it_ends(desk: Desk):
    old = publish(desk)
    device = a_device(desk)
    before = releases.find(desk, old.digest).assigned
    desk.registry.devices.want(device, "motion", before, at_ms=desk.now_ms())
    new = publish(desk)
    rollouts.create(desk, RolloutWish(release=new.name))
    withdraw(desk, old)
    age(desk)

    assert retention.prune(desk, dry_run=False).artifacts == ()
    rollouts.command(desk, "rollout-1", "keep")
    assert retention.prune(desk, dry_run=False).artifacts == (old.digest,)


def test_a_release_in_force_that_a_crash_kept_from_the_registry_stays(desk: Desk):
    view = publish(desk)
    desk.registry._database.write("DELETE FROM models")
    kept = age(desk)

    assert retention.prune(desk, dry_run=False).artifacts == ()
    assert view.digest in kept


def test_an_upload_waits_for_its_release_some_days(desk: Desk):
    young, old = desk.artifacts.put(b"young"), desk.artifacts.put(b"old")
    os.utime(desk.config.artifacts / old, LONG_AGO)

    assert retention.prune(desk, dry_run=False).artifacts == (old,)
    assert desk.artifacts.has(young)


def test_nothing_goes_where_the_operator_keeps_it_for_ever(desk: Desk):
    desk.config = replace(
        desk.config, retention=RetentionConfig(artifacts_days=0, events_days=0, runs_days=0)
    )
    desk.artifacts.put(b"an old upload")
    age(desk)
    desk.now_ms = lambda: 10**15

    view = retention.prune(desk, dry_run=False)

    assert (view.artifacts, view.events, view.runs) == ((), 0, ())


def a_run(desk: Desk, backbone: str, *, active: bool) -> None:
    now = desk.now_ms()
    plan = RunPlan(
        run="run-1", slot="motion", backbone=backbone, rounds=1, seed=1, started_ms=now,
        deadline_seconds=10, minimum_replies=1, participants=("d-0000",), evaluators=(),
    )  # fmt: skip
    kept = desk.registry.runs
    kept.create("run-1", plan=encode(plan), state=b"{}", status="training", at_ms=now)
    kept.blob_keep("run-1", "task-1", b"a reply" * 1000, at_ms=now)
    kept.blob_keep("run-1", FINAL, b"the weights", at_ms=now)
    if not active:
        stop = encode_event(Stopped(why="enough", at_ms=now))
        kept.advance("run-1", events=[stop], state=b"{}", status="stopped", active=False, at_ms=now)


def test_replies_go_when_their_run_has_ended_and_its_weights_later(desk: Desk):
    backbone = publish(desk)
    a_run(desk, backbone.digest, active=True)
    withdraw(desk, backbone)
    age(desk)
    blobs = desk.registry.runs.blob

    assert retention.prune(desk, dry_run=False).runs == ()
    desk.registry.runs.save_state(
        "run-1", b"{}", status="finished", active=False, at_ms=desk.now_ms()
    )
    view = retention.prune(desk, dry_run=True)
    assert (view.runs, view.candidates, view.run_bytes) == (("run-1",), (), 7000)
    retention.prune(desk, dry_run=False)
    assert (blobs("run-1", "task-1"), blobs("run-1", FINAL)) == (None, b"the weights")
    assert desk.artifacts.has(backbone.digest), "its candidate may yet be published"

    later = desk.now_ms() + 91 * DAY_MS
    desk.now_ms = lambda: later
    assert retention.prune(desk, dry_run=False).candidates == ("run-1",)
    assert blobs("run-1", FINAL) is None
    assert not desk.artifacts.has(backbone.digest)
    assert retention.prune(desk, dry_run=False).runs == ()


def test_an_ended_run_is_shown_when_all_that_it_was_made_of_is_gone(desk: Desk):
    backbone = publish(desk)
    a_run(desk, backbone.digest, active=False)
    withdraw(desk, backbone)
    age(desk)
    later = desk.now_ms() + 91 * DAY_MS
    desk.now_ms = lambda: later
    assert len(retention.prune(desk, dry_run=False).artifacts) > 1

    shown = runs.show(desk, "run-1")

    assert (shown.status, shown.why, shown.backbone) == ("stopped", "enough", "motion v1")
    with pytest.raises(ConflictError, match="no candidate: it is stopped"):
        run_candidates.candidate(desk, "run-1")


def test_a_candidate_whose_weights_are_gone_is_refused_with_the_reason(desk: Desk):
    backbone = publish(desk)
    a_run(desk, backbone.digest, active=True)
    task, digest = task_name("run-1", 1, "d-0000"), "ab" * 32
    posted = Posted(task=task, device="d-0000", kind="train", digest=digest)
    ended = [
        Pushed(ordinal=1, tasks=(posted,), at_ms=1),
        Answered(task=task, outcome="done", why="", at_ms=2),
        ChildFinished(digest=digest, at_ms=3),
        EvaluationClosed(at_ms=4),
    ]
    desk.registry.runs.advance(
        "run-1",
        events=[encode_event(event) for event in ended],
        state=b"{}",
        status="finished",
        active=False,
        at_ms=desk.now_ms(),
    )
    assert runs.show(desk, "run-1").status == "finished"
    later = desk.now_ms() + 91 * DAY_MS
    desk.now_ms = lambda: later
    retention.prune(desk, dry_run=False)

    with pytest.raises(ConflictError, match=r"removed 90 days after its end"):
        run_candidates.candidate(desk, "run-1")


def test_the_spool_of_an_active_run_cannot_be_forgotten(desk: Desk):
    a_run(desk, publish(desk).digest, active=True)

    desk.registry.runs.forget_spool("run-1", but="")

    assert desk.registry.runs.blob("run-1", FINAL) == b"the weights"


def test_old_events_move_to_the_archive_and_the_manager_goes_on(desk: Desk):
    publish(desk)
    head = desk.registry.events.head()
    later = desk.now_ms() + 366 * DAY_MS
    desk.now_ms = lambda: later
    desk.registry.events.record("a.new", "thing", {}, at_ms=later)

    said = retention.prune(desk, dry_run=True)
    assert (said.events, said.archive) == (head[0], "")
    assert retention.prune(desk, dry_run=False, fewest_events=1000).events == 0
    done = retention.prune(desk, dry_run=False)

    assert done.events == head[0]
    assert [path.name for path in desk.config.archive.iterdir()] == [done.archive]
    assert desk.registry.events.head()[0] == head[0] + 1
    assert desk.registry.events.verify_chain(desk.config.archive) == 0
    assert retention.prune(desk, dry_run=False).events == 0


def test_a_long_log_is_archived_in_passes(desk: Desk, monkeypatch):
    monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 40)
    with desk.registry.transaction():
        for number in range(70):
            desk.registry.events.record("a.kind", "s", {"n": number}, at_ms=1000)
    desk.registry.events.record("the.last", "s", {}, at_ms=desk.now_ms())
    # what founded the fleet is young, and stands before them
    later = desk.now_ms() + 366 * DAY_MS
    desk.now_ms = lambda: later

    views = [retention.prune(desk, dry_run=False) for _ in range(3)]

    assert [view.more for view in views] == [True, False, False]
    assert views[0].events == 40
    assert desk.registry.events.verify_chain(desk.config.archive) == 0


def test_without_room_nothing_is_archived_but_room_is_made(desk: Desk):
    desk.artifacts.put(b"an old upload")
    age(desk)
    desk.config = replace(desk.config, retention=RetentionConfig(reserve_mb=10**12))
    later = desk.now_ms() + 366 * DAY_MS
    desk.now_ms = lambda: later

    with pytest.raises(DiskFullError, match="stay in reserve"):
        retention.prune(desk, dry_run=False)

    assert not desk.artifacts.has(sha256(b"an old upload").hexdigest())
    assert not desk.config.archive.exists()


def test_a_setting_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"retention\.runs_days -1 is below 0"):
        RetentionConfig(runs_days=-1)
