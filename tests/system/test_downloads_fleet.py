"""A device behind a proxy gets its release over HTTPS from the manager, and pays for it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from shutil import copy
from urllib.parse import urlsplit

import onnx
import pytest

from agent.link.route import default_interface
from fleet.config import FleetConfig
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
bytes_per_day = 40000000
"""


@contextmanager
def device_of_a_fleet(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: Callable[[str], str],
    **downloads: float,
) -> Iterator[tuple[Command, Path]]:
    """A fleet with HTTPS downloads, and the folder of a device that has joined it."""
    ports = Ports(devices=free_port(), enrolment=free_port(), downloads=free_port())
    config = found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)
    config = replace(config, downloads=replace(config.downloads, **downloads))
    (config.home / "fleet.toml").write_text(config.render())
    fieldfare, folder = Command(config.home, capsys), tmp_path / "device"
    folder.mkdir()
    write_recording(folder / "recording.npz", channels=6)
    file = write_config(folder, SETTINGS)
    file.write_text(changes(file.read_text()))
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as broker:
        try:
            eventually(lambda: accepts(ports.devices) and accepts(ports.enrolment))
            with serving(FleetConfig.load(config.home)):
                made = fieldfare("token", "create", "--file", str(tmp_path / "enrol"))
                assert made[0] == 0, made
                joined = command("enrol", tmp_path / "enrol", "--state-dir", folder / "state")
                assert joined.returncode == 0, joined.stderr
                yield fieldfare, folder
        finally:
            broker.terminate()


def test_a_release_is_fetched_over_https_through_a_proxy_and_its_bytes_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with HttpProxy() as proxy:

        def behind_proxy(text: str) -> str:
            return text.replace("[link]", f'[link]\nproxy = "{proxy.url}"')

        with device_of_a_fleet(tmp_path, capsys, behind_proxy) as (fieldfare, folder):
            assert fieldfare("model", "publish", str(MODEL))[0] == 0
            with RunningAgent(folder) as agent:
                eventually(lambda: "event=probed" in agent.said(), 30)
                assert fieldfare("rollout", "create", "motion/v1")[0] == 0
                eventually(lambda: agent.said().count("event=fetched") >= 2, 60)
                assert agent.stop() == 0
                said = agent.said()
            port = urlsplit(FleetConfig.load(tmp_path / "home").downloads.url).port
    assert said.count("event=downloading") >= 1, said
    assert "event=download-failed" not in said
    assert f"127.0.0.1:{port}" in proxy.asked
    if default_interface() is not None:
        spent = read_status(folder).budget["any"]
        assert MODEL.stat().st_size / 2 < spent.spent < 2 * MODEL.stat().st_size


@pytest.mark.timeout(600)
def test_an_agent_that_is_killed_in_the_middle_of_a_download_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    large = onnx.load(MODEL)
    large.doc_string = Random(3).randbytes(4_000_000).hex()  # 8 MB, 4 MB compressed
    onnx.save(large, tmp_path / "large.onnx")
    copy(MODEL.with_suffix(".json"), tmp_path / "large.json")
    copy(MODEL.parent / "motion-golden.npz", tmp_path)
    rate = 700_000.0
    with device_of_a_fleet(tmp_path, capsys, lambda text: text, device_bytes_per_second=rate) as (
        fieldfare,
        folder,
    ):
        published = fieldfare("model", "publish", str(tmp_path / "large.onnx"))
        assert published[0] == 0, published
        with RunningAgent(folder) as agent:
            eventually(lambda: "event=probed" in agent.said(), 100)
            assert fieldfare("rollout", "create", "motion/v1")[0] == 0
            eventually(lambda: in_part(folder) > 1_500_000, 200)
            before = in_part(folder)
            agent.kill()
        first = read_status(folder).budget
        with RunningAgent(folder) as again:
            eventually(lambda: again.said().count("event=fetched") >= 2, 200)
            assert again.stop() == 0
            said = again.said()
    assert said.count("event=downloading") >= 2, said
    assert "event=download-failed" not in said
    if default_interface() is not None:
        second = read_status(folder).budget["any"].spent - first["any"].spent
        assert 0 < second < 4_300_000 - before
    assert before > 1_500_000


def in_part(folder: Path) -> int:
    """How many bytes of the largest transfer are written."""
    parts = (folder / "state" / "store").glob("*.part")
    return max((512 * part.stat().st_blocks for part in parts), default=0)
