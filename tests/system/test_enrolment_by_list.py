"""A listed device joins a fleet whose accounts lie in files, and is shut out again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.contract.broker_url import BrokerUrl
from fleet.config import FleetConfig
from fleet.ingest.knock import ADMITTED, Listener, knock
from fleet.service.founding import Ports, found_dev
from tests.brokers import accepts, eventually, free_port
from tests.fleet.test_fleet_cli import Command, serving
from tests.manager_home import ROOT

pytestmark = [pytest.mark.broker, pytest.mark.system]


def agent(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "agent", *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, check=False, cwd=ROOT)


def lets_in(config: FleetConfig, credentials: dict[str, str]) -> bool:
    at = Listener(
        address="127.0.0.1",
        port=BrokerUrl.parse(config.broker.url).port,
        name="127.0.0.1",
        ca=config.broker_ca(),
    )
    name = credentials["username"]
    return knock(at, name, credentials["password"], name) == ADMITTED


def test_a_listed_device_joins_an_unlisted_one_does_not_and_a_revoked_one_is_shut_out(
    tmp_path: Path, capsys
):
    ports = Ports(devices=free_port(), enrolment=free_port())
    config = found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)
    command = Command(config.home, capsys)
    assert command("broker", "setup", "--devices", "3000")[0] == 0
    listed, file = tmp_path / "devices.csv", tmp_path / "many.enrol"
    listed.write_text(agent("key", "--state-dir", tmp_path / "one", "-o", "csv").stdout)
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as broker:
        try:
            eventually(lambda: accepts(ports.devices) and accepts(ports.enrolment))
            with serving(config):
                made = command("token", "create", "--devices", str(listed), "--file", str(file))
                assert made[0] == 0, made
                joined = agent("enrol", file, "--state-dir", tmp_path / "one")
                assert joined.returncode == 0, joined.stderr
                other = agent("enrol", file, "--state-dir", tmp_path / "two")
                assert other.returncode == 9
                assert "not among them" in other.stderr
                credentials = json.loads((tmp_path / "one" / "enrolled.json").read_text())
                assert lets_in(config, credentials)
                (device,) = command.json("device", "list")
                command("device", "revoke", device["id"], "--yes")
                eventually(lambda: not lets_in(config, credentials))
        finally:
            broker.terminate()
