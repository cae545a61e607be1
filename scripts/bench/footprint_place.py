"""A real fleet on free loopback ports with one enrolled agent in a device's environment.

Mosquitto, the manager, and the agent with a model that was signed, rolled out and proved.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scripts.bench.programs import (
    Program,
    attempt,
    free_ports,
    is_online,
    run,
    runs_model,
    started,
    until,
)

ROOT = Path(__file__).parents[2]
SERVICE = ("-I", "-OO")
"""How the service's unit starts Python: without docstrings."""
COMPILED = "import agent.service, agent.daemon.running"
"""What is compiled beforehand, as scripts/install-agent does it."""


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


def write_recording(path: Path) -> None:
    """Write a minute of motion: the first recordings of the data set."""
    with np.load(ROOT / "tests" / "data" / "watch_motion.npz") as motion:
        np.savez(path, samples=motion["samples"][:3000], rate_hz=np.array(50.0))


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
