"""The two servers of the serving bench, each a process of its own.

Ours is the whole agent: enrolled with a manager over mosquitto, the motion model signed,
rolled out and past its probation, windows of behaviour reported every five seconds.
MLServer has an environment of its own, made here from hashed pins.
"""

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.programs import (
    attempt,
    free_ports,
    is_online,
    run,
    runs_model,
    started,
    until,
)

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "scripts" / "base_model" / "motion-int8.onnx"
PINS = ROOT / "scripts" / "requirements" / "mlserver.txt"
ENVIRONMENT = ROOT / ".venvs" / "mlserver"
TOKEN = "0123456789abcdef0123456789abcdef"  # noqa: S105 -- of this run, on loopback

CONFIG = """
[agent]
state_dir = "state"

[observe]
window_seconds = 5.0

[update]
probation_seconds = 2.0
min_windows = 0

[pipeline.motion]

[serve]
socket = "inference.sock"
tcp = "127.0.0.1:{port}"
token_file = "token"
requests_per_second = 1_000_000
"""


@dataclass(frozen=True, slots=True)
class Side:
    """A server that answers for the motion model.

    Attributes:
        tcp: Host and port.
        unix: Path of its Unix socket, where it has one.

    """

    tcp: tuple[str, int]
    unix: str | None = None


@contextmanager
def agent(folder: Path) -> Iterator[Side]:
    """Run an enrolled agent that serves the model."""
    home, (broker, enrol, port) = folder / "home", free_ports(3)
    fieldfare = [sys.executable, "-I", "-m", "fleet"]
    device = [sys.executable, "-I", "-m", "agent"]
    at_home = ["--home", str(home)]
    ports = ["--port", str(broker), "--enrol-port", str(enrol)]
    run([*fieldfare, "init", "--dev", "--fleet", "bench", *ports, *at_home])
    with (
        started([*fieldfare, "broker", "run", *at_home], folder / "broker.log"),
        started([*fieldfare, "serve", *at_home], folder / "manager.log"),
    ):
        until("the manager answers", lambda: attempt([*fieldfare, "fleet", "status", *at_home]))
        token = folder / "enrolment.json"
        run([*fieldfare, "token", "create", "--file", str(token), *at_home])
        run([*fieldfare, "model", "publish", str(MODEL), "--version", "v1", *at_home])
        (folder / "agent.toml").write_text(CONFIG.format(port=port))
        secret = folder / "token"
        secret.touch(0o600)
        secret.write_text(TOKEN)
        run([*device, "enrol", str(token), "--state-dir", str(folder / "state")])
        configured = ["--config", str(folder / "agent.toml")]
        with started([*device, "run", *configured], folder / "agent.log") as program:
            listing = [*fieldfare, "device", "list", "-o", "json", *at_home]
            until("the device is online", lambda: is_online(listing), program)
            run([*fieldfare, "rollout", "create", "motion/v1", "--soak", "0", *at_home])
            until("the model has proved itself", lambda: runs_model(listing), program)
            yield Side(("127.0.0.1", port), str(folder / "inference.sock"))


@contextmanager
def mlserver(folder: Path) -> Iterator[Side]:
    """Run MLServer with a minimal model of ours."""
    make_environment()
    http, grpc, metrics = free_ports(3)
    place = folder / "mlserver"
    place.mkdir()
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    (place / "settings.json").write_text(json.dumps(settings))
    model = {"name": "motion", "implementation": "serving_mlserver.Motion"}
    (place / "model-settings.json").write_text(json.dumps(model))
    shutil.copy(Path(__file__).with_name("serving_mlserver.py"), place)
    shutil.copy(MODEL, place / "model.onnx")
    command = [str(ENVIRONMENT / "bin" / "mlserver"), "start", str(place)]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    with started(command, folder / "mlserver.log", environment) as program:
        until("MLServer listens", lambda: accepts(http), program)
        yield Side(("127.0.0.1", http))


def make_environment() -> None:
    """Install MLServer from its pins, unless that was done."""
    wanted = hashlib.sha256(PINS.read_bytes()).hexdigest()
    done = ENVIRONMENT / ".ready"
    if done.is_file() and done.read_text() == wanted:
        return
    print(f"serving: installing MLServer into {ENVIRONMENT}, once", file=sys.stderr)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
    pip = [str(ENVIRONMENT / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet"]
    run([*pip, "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(PINS)])
    done.write_text(wanted)


def accepts(port: int) -> bool:
    """Return whether somebody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
