"""A manager that forgot what it signed is obeyed again, and the fleet goes on.

Real: mosquitto, the manager with its registry, signing and command line, and of each device
everything but the process; see ``many_agents``.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.accepted import ACCEPTED, AcceptedAssignment
from agent.disk import read_versioned
from agent.link.ledger import read_totals
from tests.agents import write_recording
from tests.brokers import eventually
from tests.ceremonies import running
from tests.home_fleet import HomeFleet, home_fleet
from tests.manager_home import MODEL
from tests.many_agents import ThreadedAgent, jobs_on_threads, running_all

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(400)]
DEVICES = 4
PIPELINE = """
[pipeline.motion]
source = {{ kind = "replay", path = "{recording}", speed = 20, loop = true }}
"""
ALL_AT_ONCE = ("--canary", DEVICES, "--soak", 0, "--one-way")


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[HomeFleet]:
    with home_fleet(tmp_path, capsys) as made:
        yield made


def copy_state(home: Path, to: Path) -> None:
    """Copy all that the manager owns; the broker's folder is the broker's."""
    ignored = shutil.ignore_patterns("broker", "*.sock")
    shutil.copytree(home, to, ignore=ignored)


def restore_state(home: Path, copy: Path) -> None:
    for path in home.iterdir():
        if path.name == "broker":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(copy, home, dirs_exist_ok=True)


def sequence(agent: ThreadedAgent) -> int:
    found = read_versioned(agent.disk, ACCEPTED, AcceptedAssignment)
    return found.accepted.sequence if found else 0


def all_run(fleet: HomeFleet, name: str) -> bool:
    shown = fleet.asks("device", "list")
    return all([s["runs"] for s in device["slots"]] == [name] for device in shown)


def publish_and_roll_out(fleet: HomeFleet, version: str) -> None:
    fleet("model", "publish", MODEL, "--version", version)
    fleet("rollout", "create", f"motion/{version}", *ALL_AT_ONCE)
    eventually(lambda: all_run(fleet, f"motion {version}"), 120)
    eventually(lambda: all(r["status"] == "done" for r in fleet.asks("rollout", "list")), 60)


def test_a_manager_restored_from_a_copy_before_the_last_assignments_is_obeyed_by_every_device(
    fleet, monkeypatch
):
    recording = write_recording(fleet.folder / "recording.npz", channels=6)
    copy = fleet.folder / "copy"
    with jobs_on_threads(monkeypatch):
        with running(fleet.home, ""):
            agents = fleet.enrol(DEVICES, PIPELINE.format(recording=recording))
        with running_all(agents):
            with running(fleet.home, ""):
                eventually(lambda: fleet.online() == DEVICES, 60)
                publish_and_roll_out(fleet, "v1")
            copy_state(fleet.home, copy)
            with running(fleet.home, ""):
                for _ in range(3):
                    fleet("repo", "refresh")
                publish_and_roll_out(fleet, "v2")
                before = {agent.id: sequence(agent) for agent in agents}
                eventually(lambda: read_settled(agents[0]) > 0, 60)
            restore_state(fleet.home, copy)
            with running(fleet.home, ""):
                eventually(lambda: fleet.online() == DEVICES, 60)
                eventually(lambda: all(sequence(a) > before[a.id] for a in agents), 60)
                assert all_run(fleet, "motion v2") is False  # it has forgotten that name
                assert "devices have seen targets version 3" in fleet.tries("doctor")[1]
                said = fleet("repo", "resume", "--yes")
                assert "targets version 2 → 4" in said
                assert "after a restore; nothing else changes" in said
                publish_and_roll_out(fleet, "v3")
                assert all(sequence(a) > before[a.id] + 1 for a in agents)
                eventually(lambda: all(is_settled(a) for a in agents), 60)


def read_settled(agent: ThreadedAgent) -> int:
    return read_totals(agent.disk).acknowledged


def is_settled(agent: ThreadedAgent) -> bool:
    """Whether hardly anything waits in an outbox that gets a report every half second."""
    return read_totals(agent.disk).pending < 10
