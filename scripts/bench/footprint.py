"""What an agent costs a device while it has little to do: memory, and wear of its disk.

Memory: the idle, connected agent with one model, beside the bare floor of its libraries; with
ONNX Runtime and with LiteRT, each in an environment of a device (no flwr, no cryptography).
The agent replays a short recording, so that the model has really run and its probation is
over; then the source has ended, nothing is left to do, and it is measured while it stays
connected. It is started as the service's unit starts it, without docstrings. The floor
(``footprint_floor.py``) is measured after, with Python as it comes, and for comparison without
docstrings too. Then the memory after a hundred changes of models over that after the first
(``footprint_swaps.py``).

Wear: bytes written a day at one window a minute, from windows of some seconds while the
recording goes on for ever (``footprint_disk.py``).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.observe.resources import pss_bytes, rss_bytes
from scripts.bench.footprint_disk import Written, watch_writes
from scripts.bench.footprint_place import ROOT, SERVICE, description_of, run, running_agent
from scripts.bench.footprint_releases import store_releases

MODELS = ROOT / "scripts" / "base_model"
SETTLE_SECONDS = 10.0
SWAPS = 100
WINDOW_SECONDS, WINDOWS = 3.0, 40
MINUTES_A_DAY = 1440

CONFIG = """
[agent]
state_dir = "state"

[observe]
window_seconds = {window_seconds}

[pipeline.motion.source]
kind = "replay"
path = "recording.npz"
speed = 10.0
loop = {loop}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An environment of a device, and the form of the model that it runs."""

    python: Path
    model: Path


ONNX = Device(
    python=ROOT / ".venvs" / "device" / "bin" / "python", model=MODELS / "motion-int8.onnx"
)
LITERT = Device(
    python=ROOT / ".venvs" / "device-runtimes" / "bin" / "python", model=MODELS / "motion.tflite"
)


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    arguments = parser.parse_args()
    figures = memory(ONNX) | {"litert": memory(LITERT)} | swaps() | writes()
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def memory(device: Device) -> dict[str, Any]:
    """Return the memory of an idle agent, of its floor, and the one over the other."""
    config = CONFIG.format(window_seconds=5.0, loop="false")
    with (
        tempfile.TemporaryDirectory() as name,
        running_agent(device.python, device.model, config, Path(name)) as program,
    ):
        agent = steady(program.process.pid)
    floor, bare = measure_floor(device, "-I"), measure_floor(device, *SERVICE)
    return {
        "ratio": round(agent["rss_bytes"] / floor["rss_bytes"], 3),
        "pss_ratio": round(agent["pss_bytes"] / floor["pss_bytes"], 3),
        "agent": agent,
        "floor": floor,
        "floor_without_docstrings": bare,
        "ratio_without_docstrings": round(agent["rss_bytes"] / bare["rss_bytes"], 3),
    }


def measure_floor(device: Device, *flags: str) -> dict[str, int]:
    """Return the memory of the libraries alone, with Python started by these flags."""
    program = str(Path(__file__).with_name("footprint_floor.py"))
    with subprocess.Popen(
        [str(device.python), *flags, program, str(device.model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            sys.exit("footprint: the floor did not start")
        figures = {"rss_bytes": rss_bytes(process.pid), "pss_bytes": pss_bytes(process.pid)}
        assert process.stdin is not None
        process.stdin.close()
    return figures


def steady(pid: int) -> dict[str, int]:
    """Return the largest figures of some seconds in which nothing is asked of the agent."""
    largest = {"rss_bytes": 0, "pss_bytes": 0}
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        time.sleep(0.5)
        largest["rss_bytes"] = max(largest["rss_bytes"], rss_bytes(pid))
        largest["pss_bytes"] = max(largest["pss_bytes"], pss_bytes(pid))
    return largest


def swaps() -> dict[str, Any]:
    """Return the memory after many changes of models over that after the first."""
    with tempfile.TemporaryDirectory() as name:
        models = [ONNX.model, ONNX.model.with_name("motion-fp32.onnx")]
        store_releases(Path(name), models, description_of(ONNX.model))
        program = str(Path(__file__).with_name("footprint_swaps.py"))
        figures = json.loads(run([str(ONNX.python), "-I", program, name, str(SWAPS)]))
    ratio = figures["last_rss_bytes"] / figures["first_rss_bytes"]
    return {"swaps_ratio": round(ratio, 3), "swaps": figures}


def writes() -> dict[str, Any]:
    """Return what a day of one window a minute writes, scaled from shorter windows.

    What is written for each window is counted in full; what is written by the clock (signed
    time every six hours, an update) is not in it. The files lie beside the environments,
    because a file system in memory writes nothing.
    """
    config = CONFIG.format(window_seconds=WINDOW_SECONDS, loop="true")
    with (
        tempfile.TemporaryDirectory(dir=ROOT / ".venvs") as name,
        running_agent(ONNX.python, ONNX.model, config, Path(name)) as program,
    ):
        time.sleep(2 * WINDOW_SECONDS)
        written = watch_writes(
            program.process.pid, Path(name, "state"), seconds=WINDOW_SECONDS * WINDOWS
        )
    return {
        "bytes_written_per_day": round(written.block_bytes / WINDOWS * MINUTES_A_DAY),
        "disk": {
            "windows": WINDOWS,
            "window_seconds": WINDOW_SECONDS,
            "block_bytes_per_window": round(written.block_bytes / WINDOWS),
            "file_bytes_per_window": round(written.file_bytes / WINDOWS),
            "durable_writes_per_window": round(written.durable_writes / WINDOWS, 2),
            "method": " ".join((Written.__doc__ or "").split()),
        },
    }


if __name__ == "__main__":
    sys.exit(main())
