"""A real device follows what people sign: other keys, another director, a permitted way back."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.config import FleetConfig
from fleet.service.desk import Desk
from tests.agents import RunningAgent, command, read_status, write_config, write_recording
from tests.brokers import PROGRAM, accepts, eventually, free_port
from tests.ceremonies import Person, found_fleet, running
from tests.manager_home import MODEL

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(300)]
PIPELINE = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }
"""


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path, capsys)


@pytest.fixture
def home(person: Person) -> Iterator[Path]:
    """A fleet founded by people, on a mosquitto of its own."""
    port, enrol = free_port(), free_port()
    home = found_fleet(person, broker=("--port", port, "--enrol-port", enrol))
    folder = FleetConfig.load(home).broker_folder
    with (folder / "broker.log").open("ab") as log:
        broker = subprocess.Popen(
            [str(PROGRAM), "-c", str(folder / "mosquitto.conf")], stdout=log, stderr=log
        )
    eventually(lambda: accepts(port))
    yield home
    broker.kill()
    broker.wait()


def enrol(person: Person, home: Path) -> Path:
    """Enrol a device, and return its folder."""
    folder = person.folder / "device"
    folder.mkdir()
    write_config(folder, PIPELINE)
    write_recording(folder / "recording.npz", channels=6)
    token = person.folder / "device.enrol"
    person("token", "create", "--file", token, "--home", home)
    done = command("enrol", token, "--state-dir", folder / "state")
    assert done.returncode == 0, done.stderr
    return folder


def online(desk: Desk) -> bool:
    """Whether the device is there."""
    return any(device.presence == "online" for device in desk.registry.devices.listing())


def runs(folder: Path) -> str | None:
    """The release that the device runs, as family and version."""
    status = read_status(folder)
    slot = status.slots.get("motion")
    return status.releases.get(slot.current) if slot and slot.current else None


def rotate(person: Person, home: Path, role: str, *signers: str) -> None:
    """Make another key for a role, and have it signed and published."""
    secret = ("--passphrase-file", person.secret)
    new = home / f"keys/online/{role}-2.json"
    person("keys", "new", new, *secret)
    keys = [word for name in signers for word in ("--key", person.key(name))]
    person("keys", "rotate", role, "--to", new, *keys, *secret, "--home", home, "--yes")


def test_a_device_follows_rotations_and_goes_back_by_permit(person, home):
    targets = ("--key", person.key("targets-1"), "--passphrase-file", person.secret)
    with running(home) as manager:
        for _ in range(2):  # neither lists the other as a way back: no device runs one yet
            person("model", "publish", MODEL, *targets, "--home", home)
        folder = enrol(person, home)
        with RunningAgent(folder) as agent:
            eventually(lambda: manager.ask(online))
            person("rollout", "create", "motion/v1", "--home", home)
            eventually(lambda: runs(folder) == "motion v1", seconds=60)
            rotate(person, home, "timestamp", "root-1", "root-2")
            rotate(person, home, "director", "targets-1")
            person("rollout", "create", "motion/v2", "--one-way", "--home", home)
            eventually(lambda: runs(folder) == "motion v2", seconds=60)
            status = read_status(folder)
            assert status.root_version == 2
            assert status.accepted is not None
            assert status.accepted.director_epoch == 2
            person("model", "permit", "motion/v1", *targets, "--home", home, "--yes")
            person("rollout", "create", "motion/v1", "--one-way", "--home", home)
            eventually(lambda: runs(folder) == "motion v1", seconds=60)
            assert json.loads(person("fleet", "alarms", "-o", "json", "--home", home)) == []
            assert agent.stop() == 0
