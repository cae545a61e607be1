"""Agents as real processes, and the files they need."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from agent.daemon.status import Status

QUICK = """
[agent]
state_dir = "{state}"

[link]
reconnect_first_seconds = 0.1
reconnect_longest_seconds = 0.5
resend_seconds = 2
answer_seconds = 2
stall_seconds = 5
resettle_seconds = 1
state_jitter_seconds = 0.1

[observe]
window_seconds = 0.5

[update]
probation_seconds = 20
look_seconds = 0.1
min_windows = 10
"""


def command(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``fieldfare-agent`` to its end."""
    return subprocess.run(
        [sys.executable, "-I", "-m", "agent", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def write_config(folder: Path, extra: str = "") -> Path:
    """Write a configuration whose waits are short; its state lies in ``folder/state``."""
    file = folder / "agent.toml"
    file.write_text(QUICK.format(state=folder / "state") + extra)
    return file


def write_recording(path: Path, channels: int = 3, seconds: float = 20.0) -> Path:
    """Write a recording of noise at 50 Hz."""
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(int(50 * seconds), channels)).astype(np.float32)
    np.savez(path, samples=samples, rate_hz=np.float64(50.0))
    return path


def read_status(folder: Path) -> Status:
    """Return what ``fieldfare-agent status -o json`` says."""
    ended = command("status", "--state-dir", folder / "state", "-o", "json")
    assert ended.returncode == 0, ended.stderr
    return msgspec.json.decode(ended.stdout, type=Status)


class RunningAgent:
    """``fieldfare-agent run`` as a process, its log beside its state."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        flags: Sequence[str] = ("-I",),
    ) -> None:
        self.folder = folder
        self.log = folder / "agent.log"
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [
                    sys.executable,
                    *flags,
                    "-m",
                    "agent",
                    "run",
                    "--config",
                    str(folder / "agent.toml"),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.kill()

    def stop(self) -> int:
        """Ask it to end, and return its exit status."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(30)

    def kill(self) -> None:
        """Pull its plug."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(30)

    def said(self) -> str:
        """Return its log so far."""
        return self.log.read_text()
