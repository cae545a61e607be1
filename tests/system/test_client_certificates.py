"""A fleet comes to ask for client certificates: real broker, manager and agents."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleet.config import FleetConfig
from fleet.ingest.mosquitto import find_client_authority
from fleet.service.founding import Ports, found_dev
from tests.agents import RunningAgent, write_config
from tests.agents import command as agent
from tests.brokers import accepts, eventually, free_port
from tests.fleet.test_fleet_cli import Command, serving
from tests.manager_home import ROOT

pytestmark = [pytest.mark.broker, pytest.mark.system]


@contextmanager
def running(config: FleetConfig, ports: Ports) -> Iterator[None]:
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        try:
            eventually(lambda: accepts(ports.devices) and accepts(ports.enrolment))
            yield
        finally:
            child.terminate()


def join(command: Command, folder: Path) -> None:
    """Enrol a device."""
    folder.mkdir()
    settings, file = write_config(folder), folder / "one.enrol"
    assert command("token", "create", "--file", str(file))[0] == 0
    joined = agent("enrol", file, "--config", settings)
    assert joined.returncode == 0, joined.stderr


def is_online(command: Command, device: str) -> bool:
    return any(
        d["id"] == device and d["presence"] == "online" for d in command.json("device", "list")
    )


def kept(folder: Path) -> dict[str, str]:
    credentials: dict[str, str] = json.loads((folder / "state/enrolled.json").read_text())
    return credentials


def test_a_fleet_comes_to_ask_for_certificates_and_a_revoked_one_is_shut_out(
    tmp_path: Path, capsys
):
    ports = Ports(devices=free_port(), enrolment=free_port())
    config = found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)
    command = Command(config.home, capsys)
    early, late, newest = (tmp_path / name for name in ("early", "late", "newest"))
    setup = ("broker", "setup", "--client-certificates")
    with running(config, ports), serving(config):
        join(command, early)
    assert not (early / "state/certificate.json").exists()
    status, _, said = command(*setup, "require")
    assert status != 0
    assert "have no certificate yet" in said
    assert command(*setup, "offer")[0] == 0
    with running(config, ports), serving(config):
        join(command, late)
        assert (late / "state/certificate.json").exists()
        authority = find_client_authority(config.broker_folder)
        assert authority is not None
        with RunningAgent(early), RunningAgent(late):
            for place in (early, late):
                device = kept(place)["device"]
                eventually(lambda d=device: authority.holds(d, datetime.now(UTC)), 60)
    assert command(*setup, "require")[0] == 0
    with running(config, ports), serving(config), RunningAgent(early) as lost, RunningAgent(late):
        for place in (early, late):
            device = kept(place)["device"]
            eventually(lambda d=device: is_online(command, d), 60)
        join(command, newest)
        credentials = kept(newest)
        assert (credentials["username"], credentials["password"]) == (None, None)
        with RunningAgent(newest):
            eventually(lambda: is_online(command, credentials["device"]), 60)
        assert command("device", "revoke", kept(early)["device"], "--yes")[0] == 0
        eventually(lambda: "hung up during the login" in lost.said(), 60)
        assert is_online(command, kept(late)["device"])
