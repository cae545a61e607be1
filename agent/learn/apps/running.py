"""The parent's side of one app: lay out what it may see, start it, wait, believe nothing.

Rule 1: it gets a folder of its own, an environment that names nothing of the agent, and no
        file but standard ones; what it writes is read without following links.
Rule 2: whatever it does, the outcome is a reply that parses, or one ``AppError``.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.contract.app_bundle import AppBundle
from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.tensors import Failure, decode_message
from agent.errors import AgentError, AppError, MalformedError, PlatformError, error_named
from agent.learn.apps import boot, inside
from agent.learn.apps.apart import Bounds
from agent.learn.samples import LabelledWindows
from agent.refusals import (
    AppDiedError,
    AppProcessorError,
    AppRaisedError,
    AppReplyError,
    AppTimeError,
)

MAX_OUTCOME_BYTES: Final = 64 * 1024
MAX_STATE_BYTES: Final = 16 * 1024 * 1024
_TOLD: Final = 300
_NOISE_BYTES: Final = 4096
_PREFIX: Final = "fieldfare-app-"
_DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """The Python of an environment.

    Attributes:
        python: Its program.
        readable: Folders that it imports from.
        flwr: Whether its own flwr is used instead of the stand-in.

    """

    python: str
    readable: tuple[str, ...]
    flwr: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AppOrder:
    """One message for one app.

    Attributes:
        bundle: The app, believed.
        interpreter: Under which it runs.
        message: The Flower message.
        state: What the app kept of this run, or nothing.
        windows: What it may learn from, or nothing.
        node_config, run_config: As in Flower's context.
        bounds: Its limits.
        seconds: Wall clock.
        secret: The agent's state directory, which it must not see.

    """

    bundle: AppBundle
    interpreter: Interpreter
    message: bytes
    state: bytes
    windows: LabelledWindows | None
    node_config: Mapping[str, Any]
    run_config: Mapping[str, Any]
    bounds: Bounds
    seconds: float
    secret: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class AppReply:
    """What it answered.

    Attributes:
        reply: A Flower message that parses and holds no error.
        state: What the app wants to keep of this run.
        hidden: By what the agent's files were kept from it.

    """

    reply: bytes
    state: bytes
    hidden: tuple[str, ...]


def run_app(order: AppOrder) -> AppReply:
    """Run an app on one message.

    Raises:
        AppError: It gave no reply; the class tells why.
        PlatformError: Its process cannot be started.

    """
    try:
        work = Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError as why:
        raise PlatformError(f"an app gets no folder: {why.strerror or why}") from why
    try:
        made = _lay_out(order, work)
        status = _wait(order, work)
        return _read(order, made, status)
    except OSError as why:
        raise PlatformError(f"the app's process does not run: {why.strerror or why}") from why
    finally:
        _remove(work)


def sweep() -> None:
    """Remove what apps left behind whose parent was killed; those of today may be running."""
    old = time.time() - _DAY_SECONDS
    for work in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            found = work.lstat()
        except OSError:
            continue
        if found.st_uid == os.geteuid() and found.st_mtime < old and not work.is_symlink():
            _remove(work)


def _remove(work: Path) -> None:
    for place, folders, _ in os.walk(work):
        for name in folders:  # an app may have closed them to itself, and so to us
            folder = Path(place, name)
            if not folder.is_symlink():
                with suppress(OSError):
                    folder.chmod(0o700)
    shutil.rmtree(work, ignore_errors=True)


def _lay_out(order: AppOrder, work: Path) -> Path:
    given, made = work / "in", work / "out"
    work.chmod(0o711)
    for folder in (given, given / inside.APP, made):
        folder.mkdir(mode=0o755)
    (given / inside.MESSAGE).write_bytes(order.message)
    (given / inside.STATE).write_bytes(order.state)
    node_config = dict(order.node_config)
    if order.windows is not None:
        samples = given / inside.SAMPLES
        windows = order.windows
        np.savez(samples, x=windows.x, y=windows.y, split=windows.split)
        node_config["samples-path"] = str(samples)
    for name, content in order.bundle.files.items():
        place = given / inside.APP / name
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place.write_bytes(content)
    said = {
        "parent": os.getpid(),
        "bounds": asdict(order.bounds),
        "readable": [str(given), str(Path(boot.__file__).parents[2]), *order.interpreter.readable],
        "folder": str(made),
        "secret": str(order.secret),
        "installed": order.interpreter.flwr,
        "component": order.bundle.client,
        "node_config": node_config,
        "run_config": dict(order.run_config),
    }
    (given / inside.ORDER).write_text(json.dumps(said), encoding="utf-8")
    for path in (given, *given.rglob("*")):  # the agent's umask may keep others out
        path.chmod(0o755 if path.is_dir() else 0o644)
    return made


def _wait(order: AppOrder, work: Path) -> int:
    """Return how its process ended; raises where it does not end in time."""
    made, python = work / "out", order.interpreter.python
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(made),
        "TMPDIR": str(made),
        "FLWR_HOME": str(made / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
    with (work / "noise").open("wb") as noise:
        child = subprocess.Popen(
            [python, "-I", "-B", str(Path(boot.__file__)), str(work / "in" / inside.ORDER)],
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=noise,
            cwd=made,
            env=environment,
            start_new_session=True,
        )
        try:
            return child.wait(order.seconds)
        except subprocess.TimeoutExpired:
            raise AppTimeError(
                f"app {order.bundle.name} was stopped after {order.seconds:g} seconds"
            ) from None
        finally:
            child.kill()
            child.wait()


def _read(order: AppOrder, made: Path, status: int) -> AppReply:
    told = _file(made / inside.OUTCOME, MAX_OUTCOME_BYTES)
    if told is None:
        raise _died(order, made.parent / "noise", status)
    try:
        outcome = json.loads(told)
        code, why = str(outcome["code"]), str(outcome["why"])[:_TOLD]
        hidden = tuple(str(name)[:20] for name in outcome["hidden"][:4])
    except (ValueError, KeyError, TypeError) as bad:
        raise AppReplyError(f"app {order.bundle.name} wrote an outcome of its own") from bad
    if code:
        error = error_named(code, f"{order.bundle.name}: {why}")
        raise error if isinstance(error, AppError) else AppReplyError(str(error))
    reply = _file(made / inside.REPLY, MAX_FLOWER_BYTES)
    state = _file(made / inside.STATE, MAX_STATE_BYTES)
    if reply is None or state is None:
        raise AppReplyError(
            f"app {order.bundle.name} left no reply of at most {MAX_FLOWER_BYTES} bytes"
            f" with a state of at most {MAX_STATE_BYTES}"
        )
    _require_good(order, reply)
    return AppReply(reply=reply, state=state, hidden=hidden)


def _require_good(order: AppOrder, reply: bytes) -> None:
    try:
        said = decode_message(reply, limit=MAX_FLOWER_BYTES)
    except MalformedError as why:
        raise AppReplyError(f"the reply of app {order.bundle.name} cannot be sent: {why}") from why
    if isinstance(said.content, Failure):
        raise AppRaisedError(f"{order.bundle.name}: {said.content.reason[:_TOLD]}")


def _died(order: AppOrder, noise: Path, status: int) -> AgentError:
    name = order.bundle.name
    if status in {-signal.SIGXCPU, -signal.SIGKILL}:
        return AppProcessorError(
            f"app {name} was stopped after {order.bounds.cpu_seconds} seconds of processor time"
            if status == -signal.SIGXCPU
            else f"app {name} was killed: by its limit of processor time, or for want of memory"
        )
    with noise.open("rb") as file:
        file.seek(max(0, noise.stat().st_size - _NOISE_BYTES))
        lines = file.read(_NOISE_BYTES).decode(errors="replace").strip().splitlines()
    last = f": {lines[-1][:_TOLD]}" if lines else ""
    return AppDiedError(f"the process of app {name} ended with status {status}{last}")


def _file(path: Path, limit: int) -> bytes | None:
    """Return what an app wrote, if it is a plain file of at most ``limit`` bytes."""
    try:
        place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(place, "rb") as file:  # noqa: PTH123 - it is open already
        found = os.fstat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > limit:
            return None
        return file.read(limit)
