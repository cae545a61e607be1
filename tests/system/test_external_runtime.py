"""A fleet, and a device with a vendor's runtime beside its own: under another Python, with
another numpy where ``scripts/setup numpy2`` has made that environment.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copy

import pytest

from tests.agents import RunningAgent, command, read_status, write_config, write_recording
from tests.brokers import eventually
from tests.ceremonies import running
from tests.home_fleet import HomeFleet, home_fleet
from tests.manager_home import MODEL, ROOT

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.timeout(300)]
OTHER = ROOT / ".venvs" / "numpy2" / "bin" / "python"
VENDORS = OTHER if OTHER.exists() else Path(sys.executable)
TRT = "TensorrtExecutionProvider"
SETTINGS = f"""check_seconds = 60
max_latency_ratio = 100  # how busy this machine is says nothing about a release

[pipeline.motion]
source = {{ kind = "replay", path = "recording.npz", speed = 20, loop = true }}

[runtime.vendor]
command = ["{VENDORS}", "-I", "{ROOT}/tests/vendors_worker.py", "{{onnx_worker}}"]
providers = ["{TRT}"]
"""
AT_ONCE = ("--canary", 1, "--soak", 0, "--one-way")


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[HomeFleet]:
    with home_fleet(tmp_path, capsys) as made:
        yield made


def described(folder: Path) -> Path:
    """The motion model of the demo, with an accelerator in its description."""
    for name in ("motion-int8.onnx", "motion-int8.json", "motion-golden.npz"):
        copy(MODEL.parent / name, folder)
    file = folder / "motion-int8.json"
    accelerator = f'"accelerators": [{{"name": "tensorrt", "providers": ["{TRT}"]}}]'
    file.write_text(file.read_text().rstrip().removesuffix("}") + f", {accelerator}}}")
    return folder / "motion-int8.onnx"


def workers(agent: int, program: str = "vendors_worker.py") -> dict[int, str]:
    """The workers of an agent itself, by process id, with the model they run."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(place.joinpath("stat").read_text().rsplit(")", 1)[1].split()[1])
            words = place.joinpath("cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if parent == agent and any(word.endswith(program) for word in words):
            found[int(place.name)] = words[words.index("--model") + 1]
    return found


def runs(folder: Path, version: str) -> bool:
    status = read_status(folder)
    slot = status.slots.get("motion")
    return bool(slot and slot.current and status.releases.get(slot.current) == f"motion {version}")


def reach(agent: RunningAgent, holds, seconds: float = 90.0) -> None:
    """As ``eventually``, and on failure with the agent's log."""
    try:
        eventually(holds, seconds)
    except AssertionError as late:
        raise AssertionError(f"{late}\n{agent.said()[-8000:]}") from late


def test_a_release_goes_to_the_vendors_runtime_survives_its_death_and_takes_its_engine_along(
    fleet: HomeFleet, tmp_path: Path
):
    folder = tmp_path / "device"
    folder.mkdir()
    write_config(folder, SETTINGS)
    write_recording(folder / "recording.npz", channels=6)
    model = described(tmp_path)
    with running(fleet.home):
        joined = command("enrol", fleet.token(1), "--state-dir", folder / "state")
        assert joined.returncode == 0, joined.stderr
        with RunningAgent(folder) as agent:
            reach(agent, lambda: "event=probed" in agent.said())
            fleet("model", "publish", model)
            fleet("rollout", "create", "motion/v1", *AT_ONCE)
            reach(agent, lambda: runs(folder, "v1"))
            assert "event=may-compile" in agent.said()
            ((pid, _),) = workers(agent.child.pid).items()

            os.kill(pid, signal.SIGSEGV)
            reach(agent, lambda: bool(workers(agent.child.pid).keys() - {pid}))
            reach(agent, lambda: "runtime.vendor was killed by SIGSEGV" in str(fleet.alarms()))

            (device,) = json.loads(fleet("device", "list", "-o", "json"))
            shown = fleet("device", "show", device["id"])
            assert f"in runtime.vendor ({TRT})" in shown

            fleet("model", "publish", model)
            fleet("rollout", "create", "motion/v2", *AT_ONCE)
            reach(agent, lambda: runs(folder, "v2"))
            engines = [p for p in (folder / "state" / "engines").iterdir() if p.is_dir()]
            assert len(engines) == 1  # the model file of both is the same one
            assert agent.stop() == 0
        assert not workers(agent.child.pid)
        found = command("doctor", "--config", folder / "agent.toml")
        assert "in runtime.vendor made an inference" in found.stdout


def test_a_slot_in_a_process_of_its_own_answers_again_after_each_death(
    fleet: HomeFleet, tmp_path: Path
):
    folder = tmp_path / "device"
    folder.mkdir()
    own = SETTINGS.partition("[runtime")[0] + "own_process = true\n"
    write_config(folder, own)
    write_recording(folder / "recording.npz", channels=6)
    with running(fleet.home):
        joined = command("enrol", fleet.token(1), "--state-dir", folder / "state")
        assert joined.returncode == 0, joined.stderr
        with RunningAgent(folder) as agent:
            reach(agent, lambda: "event=probed" in agent.said())
            fleet("model", "publish", MODEL)
            fleet("rollout", "create", "motion/v1", *AT_ONCE)
            reach(agent, lambda: runs(folder, "v1"))
            seen = set()
            for number in (signal.SIGKILL, signal.SIGABRT):
                ((pid, _),) = workers(agent.child.pid, "own_worker").items()
                seen.add(pid)
                os.kill(pid, number)
                reach(agent, lambda: bool(workers(agent.child.pid, "own_worker").keys() - seen))
                reach(agent, lambda number=number: f"killed by {number.name}" in agent.said())
            assert agent.stop() == 0
        assert not workers(agent.child.pid, "own_worker")
