"""What a bundle is made of, for whom, and when there is none."""

from pathlib import Path

import pytest

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.belief import believe_assignment
from agent.contract.bundle import read_bundle
from agent.contract.manifest import decode_release
from agent.contract.topics import ASSIGNMENT
from fleet.cli.client import ManagerClient, RefusedByManagerError
from fleet.errors import ConflictError, NotFoundError, RefusedError
from fleet.registry.devices import DeviceState
from fleet.service import bundling, releases, rollouts
from fleet.service.desk import Desk
from fleet.service.publication import read_described, sign_release
from fleet.service.wishes import BundleWish, RolloutWish
from fleet.signing.ceremony import load_targets_keys
from fleet.signing.metadata import next_targets
from tests.fleet.test_fleet_cli import Command, command
from tests.manager_home import MODEL, make_desk

__all__ = ["command"]  # a fixture
DAY_MS = 86_400_000


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = make_desk(tmp_path)
    publish(made)
    return made


def publish(desk: Desk) -> str:
    keys = load_targets_keys(desk.config.keys, "", dev=True)[:1]
    described = read_described(MODEL, MODEL.with_suffix(".json"))
    built, publication = sign_release(described, releases.targets(desk), keys, version=None)
    for content in built.artifacts.values():
        desk.artifacts.put(content)
    return releases.publish(desk, publication).digest


def add(desk: Desk, number: int, **changes: object) -> str:
    device = f"d-{number:016}"
    known = {
        "key": f"{number:064x}", "group": "demo", "hardware": "generic-linux",
        "state": DeviceState.ENROLLED, "at_ms": 1,
    }  # fmt: skip
    desk.registry.devices.add(device, **(known | changes))
    return device


def make(desk: Desk, *devices: str, release: str = "motion/v1"):
    wish = BundleWish(release=release, devices=devices, every=not devices)
    return bundling.create(desk, wish)


def test_each_device_gets_an_assignment_that_it_would_believe_and_the_fleet_says_the_same(desk):
    devices = [add(desk, number) for number in (1, 2)]
    view = make(desk)
    published = releases.find(desk, "motion/v1")
    for device in devices:
        believed = believe_assignment(
            view.assignments[device],
            authority=desk.repository.authority(),
            fleet="demo",
            device=device,
            accepted=None,
            now_ms=desk.now_ms(),
        )
        assert believed.assignment.slots == {"motion": published.assigned}
        assert desk.registry.devices.desired(device) == {"motion": published.assigned}
        assert desk.registry.devices.assignment(device).payload == view.assignments[device]
    sent = {out.address.who for out in desk.outgoing if out.address.channel is ASSIGNMENT}
    assert sent == set(devices)
    assert view.metadata[published.release.target] == published.manifest
    assert AUTHORITY_TARGET in view.metadata
    assert {f.digest for f in view.files} == {a.digest for a in published.release.artifacts}
    assert 6 * DAY_MS < view.until_ms - desk.now_ms() <= 7 * DAY_MS


def test_the_next_bundle_is_newer_and_lasts_as_long(desk):
    device = add(desk, 1)
    first, later_ms = make(desk), desk.now_ms() + 3 * DAY_MS
    desk.now_ms = lambda: later_ms
    second = make(desk)
    assert first.assignments[device] != second.assignments[device]
    assert desk.registry.devices.assignment(device).sequence == 2
    assert second.until_ms - later_ms > 6 * DAY_MS


def test_what_else_a_device_is_wanted_to_run_and_does_not_yet_is_carried_too(desk):
    device = add(desk, 1)
    publish(desk)
    old = releases.find(desk, "motion/v1")
    desk.registry.devices.want(device, "gesture", old.assigned, at_ms=1)
    view = make(desk, device, release="motion/v2")
    manifests = [n for n in view.metadata if n.startswith("models/motion/")]
    assert manifests == ["models/motion/v2.json", "models/motion/v1.json"]


def test_a_device_that_cannot_run_it_is_passed_over_or_refused_by_name(desk):
    good, revoked, apart = add(desk, 1), add(desk, 2), add(desk, 3)
    desk.registry.devices.revoke(revoked, at_ms=2)
    desk.registry.devices.quarantine(apart, "two live boots", at_ms=2)
    view = make(desk)
    assert list(view.assignments) == [good]
    assert view.passed_over == {
        revoked: "it is revoked",
        apart: "it is quarantined: two live boots",
    }
    with pytest.raises(RefusedError, match=f"{revoked} cannot be given .* it is revoked"):
        make(desk, good, revoked)
    with pytest.raises(NotFoundError):
        make(desk, "d-9999999999999999")
    assert desk.registry.devices.assignment(good).sequence == 1


def test_there_is_no_bundle_for_nobody_of_nothing_or_of_a_withdrawn_release(desk):
    with pytest.raises(RefusedError, match="no device that can be given"):
        make(desk)
    device = add(desk, 1)
    with pytest.raises(NotFoundError, match="motion/v9"):
        make(desk, device, release="motion/v9")
    with pytest.raises(RefusedError, match="which devices"):
        bundling.create(desk, BundleWish(release="motion/v1"))
    with pytest.raises(RefusedError, match="which devices"):
        bundling.create(desk, BundleWish(release="motion/v1", devices=(device,), every=True))
    artifact = releases.find(desk, "motion/v1").release.golden.digest
    (desk.config.artifacts / artifact).rename(desk.config.home / "lost")
    with pytest.raises(RefusedError, match=f"{artifact[:16]} is not kept here"):
        make(desk)
    withdraw(desk, "models/motion/v1.json")
    with pytest.raises(RefusedError, match="was withdrawn"):
        make(desk)


def withdraw(desk: Desk, target: str) -> None:
    from datetime import UTC, datetime

    keys = load_targets_keys(desk.config.keys, "", dev=True)[:1]
    now = datetime.now(UTC)
    held = desk.repository.published().targets_bytes
    targets = next_targets(held, additions={}, removals=(target,), signers=keys, now=now)
    desk.repository.publish(targets, {}, now)


def test_a_device_of_an_active_rollout_is_left_to_it(desk):
    from tests.small_fleet import BOOT

    device = add(desk, 1)
    desk.registry.devices.presence(device, BOOT, 1, "online", at_ms=2)
    rollouts.create(desk, RolloutWish(release="motion/v1", one_way=True))
    with pytest.raises(ConflictError, match="rollout-1 is active"):
        make(desk, device)
    rollouts.command(desk, "rollout-1", "keep")
    assert make(desk, device).assignments


def test_too_many_devices_for_one_bundle_are_refused(desk, monkeypatch):
    monkeypatch.setattr(bundling, "MAX_DEVICES", 1)
    add(desk, 1)
    add(desk, 2)
    with pytest.raises(RefusedError, match="at most 1 devices, not 2"):
        make(desk)


def test_the_command_writes_one_whole_file_or_none(command: Command, tmp_path: Path):
    assert command("model", "publish", str(MODEL))[0] == 0
    file = tmp_path / "up.ffb"
    status, _, err = command("model", "bundle", "motion/v1", "--all", "--output", str(file))
    assert (status, file.exists()) == (4, False)
    assert "no device that can be given" in err
    assert command("model", "bundle", "motion/v1", "--output", str(file))[0] == 2
    both = ("--all", "--device", "d-1")
    assert command("model", "bundle", "motion/v1", *both, "--output", str(file))[0] == 2


def test_bytes_that_the_manager_lost_leave_no_file(command: Command, tmp_path: Path, monkeypatch):
    assert command("model", "publish", str(MODEL))[0] == 0
    file = tmp_path / "up.ffb"
    (view,) = command.json("model", "list")
    with ManagerClient(command.home / "fieldfare.sock") as client:
        release = decode_release(client.get_bytes(f"/artifacts/{view['digest']}"))
        with pytest.raises(RefusedByManagerError):
            list(client.blocks("/artifacts/" + "ab" * 32))
        kept = b"".join(client.blocks(f"/artifacts/{release.golden.digest}"))
    assert len(kept) == release.golden.size

    def short(self: ManagerClient, path: str):
        del self, path
        yield b"too few"

    monkeypatch.setattr(ManagerClient, "blocks", short)
    enrol(command)
    status, _, err = command("model", "bundle", "motion/v1", "--all", "--output", str(file))
    assert status == 5
    assert "are not its bytes" in err
    assert list(tmp_path.glob("up.ffb*")) == []
    monkeypatch.undo()
    assert command("model", "bundle", "motion/v1", "--all", "--output", str(file))[0] == 0
    with file.open("rb") as written:
        assert set(read_bundle(written, "nobody").files) == {a.digest for a in release.artifacts}


def enrol(command: Command) -> None:
    import sqlite3

    with sqlite3.connect(command.home / "registry.db") as database:
        database.execute(
            "INSERT INTO devices (id, key, state, group_name, hardware, created_ms) VALUES "
            "('d-0000000000000001', ?, 'enrolled', 'demo', 'generic-linux', 1)",
            (f"{1:064x}",),
        )
