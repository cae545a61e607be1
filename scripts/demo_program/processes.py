"""The demo's processes: started, watched, killed when asked, and always ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
_GRACE_SECONDS = 20.0


def free_ports(count: int) -> list[int]:
    """Return TCP ports of the loopback address that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass(slots=True)
class Process:
    """One child with its log file; it can be killed and started again."""

    name: str
    command: list[str]
    log: Path
    child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; output goes to the log."""
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=_environment()
            )

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.child is not None:
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.child is not None and self.child.poll() is None:
            self.child.terminate()

    def wait(self) -> None:
        """Wait until it has ended; kill it when that takes too long."""
        if self.child is None:
            return
        try:
            self.child.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self.child = None

    @property
    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self.child is not None and self.child.poll() is not None

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


@dataclass(slots=True)
class Cast:
    """Every process of the demo, ended in the reverse order of their start."""

    processes: dict[str, Process] = field(default_factory=dict)

    def start(self, process: Process) -> Process:
        """Start a process and keep it."""
        self.processes[process.name] = process
        process.start()
        return process

    def stop(self, names: list[str] | None = None) -> None:
        """End processes (all of them by default) and wait for each."""
        chosen = [p for n, p in self.processes.items() if names is None or n in names]
        for process in reversed(chosen):
            process.ask_to_stop()
            if names is None:
                process.wait()
        for process in chosen:
            process.wait()

    def dead(self) -> Process | None:
        """Return a process that ended by itself, if there is one."""
        return next((p for p in self.processes.values() if p.ended), None)


def wait_until(
    holds: Callable[[], bool], what: str, *, seconds: float, cast: Cast, look: float = 0.25
) -> None:
    """Wait for something.

    Raises:
        TimeoutError: It did not come to hold in time, or a process died meanwhile.

    """
    deadline = time.monotonic() + seconds
    while not holds():
        dead = cast.dead()
        if dead is not None:
            words = dead.last_words()
            raise TimeoutError(f"{dead.name} ended while the demo waited for {what}:\n{words}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(look)


def _environment() -> dict[str, str]:
    # One thread for each numeric library: many processes share two cores.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | single | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin"}
