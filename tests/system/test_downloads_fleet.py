"""A device behind a proxy gets its release over HTTPS from the manager, and pays for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.link.route import default_interface
from fleet.service.founding import Ports, found_dev
from tests.agents import RunningAgent, command, read_status, write_config, write_recording
from tests.brokers import accepts, eventually, free_port
from tests.fleet.test_fleet_cli import Command, serving
from tests.manager_home import MODEL, ROOT
from tests.proxies import HttpProxy

pytestmark = [pytest.mark.broker, pytest.mark.system]
SETTINGS = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }

[budget.any]
interfaces = ["*"]
bytes_per_day = 4000000
"""


def test_a_release_is_fetched_over_https_through_a_proxy_and_its_bytes_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ports = Ports(devices=free_port(), enrolment=free_port(), downloads=free_port())
    config = found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)
    fieldfare, folder = Command(config.home, capsys), tmp_path / "device"
    folder.mkdir()
    write_recording(folder / "recording.npz", channels=6)
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with (
        HttpProxy() as proxy,
        subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as broker,
    ):
        file = write_config(folder, SETTINGS)
        file.write_text(file.read_text().replace("[link]", f'[link]\nproxy = "{proxy.url}"'))
        try:
            eventually(lambda: accepts(ports.devices) and accepts(ports.enrolment))
            with serving(config):
                made = fieldfare("token", "create", "--file", str(tmp_path / "enrol"))
                assert made[0] == 0, made
                joined = command("enrol", tmp_path / "enrol", "--state-dir", folder / "state")
                assert joined.returncode == 0, joined.stderr
                assert fieldfare("model", "publish", str(MODEL))[0] == 0
                with RunningAgent(folder) as agent:
                    eventually(lambda: "event=probed" in agent.said(), 30)
                    assert fieldfare("rollout", "create", "motion/v1")[0] == 0
                    eventually(lambda: agent.said().count("event=fetched") >= 2, 60)
                    assert agent.stop() == 0
                    said = agent.said()
        finally:
            broker.terminate()
    assert said.count("event=downloading") >= 1, said
    assert "event=download-failed" not in said
    assert f"127.0.0.1:{ports.downloads}" in proxy.asked
    if default_interface() is not None:
        spent = read_status(folder).budget["any"]
        assert MODEL.stat().st_size / 2 < spent.spent < 2 * MODEL.stat().st_size
