"""Resident memory of the idle, connected agent beside the bare floor of its libraries.

A real fleet on free loopback ports: mosquitto, the manager, one enrolled agent in the
environment of a device (no flwr, no cryptography), to which the motion model is signed
and rolled out. The agent replays a short recording, so that the model has really run
and its probation is over; then the source has ended, nothing is left to do, and it is
measured while it stays connected. The floor (``footprint_floor.py``) is measured after.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agent.observe.resources import pss_bytes, rss_bytes

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "scripts" / "base_model" / "motion-int8.onnx"
DEVICE_PYTHON = ROOT / ".venvs" / "device" / "bin" / "python"
PATIENCE_SECONDS = 120.0
SETTLE_SECONDS = 10.0

CONFIG = """
[agent]
state_dir = "state"

[observe]
window_seconds = 5.0

[pipeline.motion.source]
kind = "replay"
path = "recording.npz"
speed = 10.0
"""


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        agent = measure_agent(Path(name))
        floor = measure_floor()
    figures = {
        "agent": agent,
        "floor": floor,
        "ratio": round(agent["rss_bytes"] / floor["rss_bytes"], 3),
        "pss_ratio": round(agent["pss_bytes"] / floor["pss_bytes"], 3),
    }
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def measure_agent(folder: Path) -> dict[str, int]:
    """Return the memory of an agent that runs its model and has nothing to do."""
    home = folder / "home"
    port, enrol_port = free_ports(2)
    fieldfare = [sys.executable, "-I", "-m", "fleet"]
    agent = [str(DEVICE_PYTHON), "-I", "-m", "agent"]
    at_home = ["--home", str(home)]
    ports = ["--port", str(port), "--enrol-port", str(enrol_port)]
    run([*fieldfare, "init", "--dev", "--fleet", "bench", *ports, *at_home])
    with (
        started([*fieldfare, "broker", "run", *at_home], folder / "broker.log"),
        started([*fieldfare, "serve", *at_home], folder / "manager.log"),
    ):
        until("the manager answers", lambda: attempt([*fieldfare, "fleet", "status", *at_home]))
        enrolment = folder / "enrolment.json"
        run([*fieldfare, "token", "create", "--file", str(enrolment), *at_home])
        described = ["--version", "v1"]
        run([*fieldfare, "model", "publish", str(MODEL), *described, *at_home])
        (folder / "agent.toml").write_text(CONFIG)
        write_recording(folder / "recording.npz")
        run([*agent, "enrol", str(enrolment), "--state-dir", str(folder / "state")])
        configured = ["--config", str(folder / "agent.toml")]
        with started([*agent, "run", *configured], folder / "agent.log") as program:
            listing = [*fieldfare, "device", "list", "-o", "json", *at_home]
            until("the device is online", lambda: is_online(listing), program)
            run([*fieldfare, "rollout", "create", "motion/v1", "--soak", "0", *at_home])
            until(
                "the model runs and has proved itself",
                lambda: runs_model(listing),
                program,
            )
            until("the agent's children are gone", lambda: not children(program.process.pid))
            return steady(program.process.pid)


def measure_floor() -> dict[str, int]:
    """Return the memory of the libraries alone."""
    command = [str(DEVICE_PYTHON), "-I", str(Path(__file__).with_name("footprint_floor.py"))]
    with subprocess.Popen(
        [*command, str(MODEL)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
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


def devices(listing: list[str]) -> list[dict[str, Any]]:
    """Return the devices that the manager lists; none while it does not answer."""
    done = subprocess.run(listing, capture_output=True, check=False)
    return list(json.loads(done.stdout)) if done.returncode == 0 else []


def is_online(listing: list[str]) -> bool:
    """Return whether the one device is connected."""
    return any(device["presence"] == "online" for device in devices(listing))


def runs_model(listing: list[str]) -> bool:
    """Return whether the one device says that it runs a release and waits for nothing."""
    slots = [slot for device in devices(listing) for slot in device["slots"]]
    return any(slot["runs_digest"] and slot["phase"] == "idle" for slot in slots)


def write_recording(path: Path) -> None:
    """Write a minute of motion: the first recordings of the data set."""
    with np.load(ROOT / "tests" / "data" / "watch_motion.npz") as motion:
        np.savez(path, samples=motion["samples"][:3000], rate_hz=np.array(50.0))


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(command: list[str]) -> None:
    """Run a command, or end with its words."""
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(f"footprint: {' '.join(command[3:])}: {done.stdout}{done.stderr}")


def attempt(command: list[str]) -> bool:
    """Return whether a command succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def until(what: str, holds: Callable[[], bool], watched: "Program | None" = None) -> None:
    """Wait until something holds, or end with what was waited for."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        ended = watched is not None and watched.process.poll() is not None
        if ended or time.monotonic() > end:
            words = watched.log.read_text()[-2000:] if watched else ""
            sys.exit(f"footprint: gave up waiting until {what}\n{words}")
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Program:
    """A program in the background, and where its words go."""

    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def started(command: list[str], log: Path) -> Iterator[Program]:
    """Run a program in the background for as long as the block lasts."""
    with log.open("wb") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words, stdin=subprocess.DEVNULL)
    try:
        yield Program(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
