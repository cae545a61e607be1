"""A real fleet on free loopback ports with one enrolled agent in a device's environment.

Mosquitto, the manager, and the agent with a model that was signed, rolled out and proved.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0
SERVICE = ("-I", "-OO")
"""How the service's unit starts Python: without docstrings."""
COMPILED = "import agent.service, agent.daemon.running"
"""What is compiled beforehand, as scripts/install-agent does it."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program in the background, and where its words go."""

    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_agent(python: Path, model: Path, config: str, folder: Path) -> Iterator[Program]:
    """Run an agent that runs ``model``, whose probation is over, as long as the block lasts."""
    home = folder / "home"
    port, enrol_port = free_ports(2)
    fieldfare = [sys.executable, "-I", "-m", "fleet"]
    agent = [str(python), "-I", "-m", "agent"]
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
        described = ["--version", "v1", "--description", str(description_of(model))]
        run([*fieldfare, "model", "publish", str(model), *described, *at_home])
        (folder / "agent.toml").write_text(config)
        write_recording(folder / "recording.npz")
        run([*agent, "enrol", str(enrolment), "--state-dir", str(folder / "state")])
        configured = ["--config", str(folder / "agent.toml")]
        service = [str(python), *SERVICE, "-m", "agent", "run"]
        run([str(python), *SERVICE, "-c", COMPILED])
        with started([*service, *configured], folder / "agent.log") as program:
            listing = [*fieldfare, "device", "list", "-o", "json", *at_home]
            until("the device is online", lambda: is_online(listing), program)
            run([*fieldfare, "rollout", "create", "motion/v1", "--soak", "0", *at_home])
            until("the model runs and has proved itself", lambda: runs_model(listing), program)
            until("the agent's children are gone", lambda: not children(program.process.pid))
            yield program


def description_of(model: Path) -> Path:
    """Return what describes a form of the motion model."""
    return model.with_name("motion-int8.json")


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


def run(command: list[str]) -> str:
    """Run a command and return what it says, or end with its words."""
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(f"footprint: {' '.join(command[1:])}: {done.stdout}{done.stderr}")
    return done.stdout


def attempt(command: list[str]) -> bool:
    """Return whether a command succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def until(what: str, holds: Callable[[], bool], watched: Program | None = None) -> None:
    """Wait until something holds, or end with what was waited for."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        ended = watched is not None and watched.process.poll() is not None
        if ended or time.monotonic() > end:
            words = watched.log.read_text()[-2000:] if watched else ""
            sys.exit(f"footprint: gave up waiting until {what}\n{words}")
        time.sleep(0.2)


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
