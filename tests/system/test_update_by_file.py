"""A device whose broker is gone is updated, and taken back, by files that the fleet wrote."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.contract.bundle import read_bundle
from fleet.service.founding import Ports, found_dev
from tests.agents import RunningAgent, command, read_status, write_config, write_recording
from tests.brokers import eventually, free_port
from tests.fleet.test_fleet_cli import Command, serving
from tests.manager_home import MODEL, ROOT

pytestmark = [pytest.mark.broker, pytest.mark.system]
PIPELINE = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }
"""


def runs(folder: Path) -> str | None:
    """The release that the device runs, as family and version."""
    status = read_status(folder)
    slot = status.slots.get("motion")
    return status.releases.get(slot.current) if slot and slot.current else None


def test_an_encrypted_release_is_carried_to_a_device_and_the_one_before_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ports = Ports(devices=free_port(), enrolment=free_port())
    config = found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)
    fieldfare, folder = Command(config.home, capsys), tmp_path / "device"
    folder.mkdir()
    write_config(folder, PIPELINE)
    write_recording(folder / "recording.npz", channels=6)
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with serving(config):
        with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as broker:
            try:
                eventually(lambda: fieldfare.json("fleet", "status")["broker_connected"], 30)
                made = fieldfare("token", "create", "--file", str(tmp_path / "enrol"))
                assert made[0] == 0, made
                joined = command("enrol", tmp_path / "enrol", "--state-dir", folder / "state")
                assert joined.returncode == 0, joined.stderr
            finally:
                broker.terminate()
        (device,) = fieldfare.json("device", "list")
        first, second = tmp_path / "first.ffb", tmp_path / "second.ffb"
        for name, file in (("motion/v1", first), ("motion/v2", second)):
            published = fieldfare("model", "publish", str(MODEL), "--encrypt")
            assert published[0] == 0, published
            made = fieldfare("model", "bundle", name, "--all", "--output", str(file))
            assert made[0] == 0, made
            assert "for 1 devices, until " in made[1]
            assert MODEL.read_bytes()[1000:1200] not in file.read_bytes()
        with second.open("rb") as written:
            assert read_bundle(written, device["id"]).assignment is not None
        with RunningAgent(folder) as agent:
            eventually(lambda: "event=probed" in agent.said(), 30)
            applied = command("apply", second, "--state-dir", folder / "state")
            assert (applied.returncode, applied.stdout) == (
                0,
                "motion runs models/motion/v2.json\n",
            ), applied.stderr
            assert runs(folder) == "motion v2"
            older = command("apply", first, "--state-dir", folder / "state")
            assert older.returncode == 5
            assert "rollback]" in older.stderr
            back = ("model", "bundle", "motion/v1", "--device", device["id"])
            made = fieldfare(*back, "--output", str(first))
            assert made[0] == 0, made
            returned = command("apply", first, "--state-dir", folder / "state")
            assert returned.returncode == 0, returned.stderr
            assert runs(folder) == "motion v1"
            assert agent.stop() == 0
