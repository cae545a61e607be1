"""A program that runs one model beside the agent: started, limited, listened to, ended.

Rule 1: it never outlives the agent, whoever kills which; see ``standalone.launch``.
Rule 2: what it writes goes to the agent's log, so many lines in so many seconds and no more.
Rule 3: how it ended is one sentence, with the signal by its name.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Final

from agent.contract.plain_text import plain
from agent.errors import ModelError, RuntimeMissingError, WorkerError

log = logging.getLogger(__name__)

DATA_ERROR: Final = 65
UNAVAILABLE: Final = 69
"""Exit statuses of sysexits(3) by which a worker says whose fault it is."""

_LAUNCH: Final = Path(__file__).with_name("standalone") / "launch.py"
_KEPT_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")
_LONGEST_LINE: Final = 2000
_LINES: Final = 40
_LINES_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is started, and what it may use.

    Attributes:
        name: What sentences and log lines call it.
        command: The program and its first arguments.
        environment: Added to the little that every child gets.
        memory_bytes: Address space (``RLIMIT_AS``); None limits nothing.
        nice: Added to the agent's niceness.

    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    memory_bytes: int | None = None
    nice: int = 0


class Supervised:
    """A program that runs.

    The kernel kills it when the *thread* that started it ends: let one start it that lasts.

    Raises:
        WorkerError: The operating system does not start it.

    """

    def __init__(self, program: Program, arguments: Sequence[str], folder: Path) -> None:
        """Start it in ``folder``, with ``arguments`` after its own."""
        self._name = program.name
        limits = {
            "parent": os.getpid(),
            "memory_bytes": program.memory_bytes,
            "nice": program.nice,
        }
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        try:
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_LAUNCH), json.dumps(limits)),
                    *program.command,
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=kept | dict(program.environment),
                cwd=folder,
                start_new_session=True,
            )
        except OSError as why:
            raise WorkerError(f"{program.name} does not start: {why.strerror or why}") from why
        self._last_words = ""
        self._heard = threading.Thread(target=self._listen, name=f"{self._name}-says", daemon=True)
        self._heard.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._child.poll() is not None

    def resident_bytes(self) -> int:
        """Return its resident memory; 0 when it has ended."""
        try:
            pages = int(Path(f"/proc/{self._child.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it, and what it started in its session."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> ModelError | RuntimeMissingError:
        """Return how it ended, when it has, or that it does not within so many seconds."""
        try:
            status = self._child.wait(seconds)
        except subprocess.TimeoutExpired:  # a driver can hold even what was killed
            return WorkerError(f"{self._name} was killed and does not end")
        self._heard.join(1.0)  # a grandchild may hold the pipe open
        if status == DATA_ERROR:
            return ModelError(self._last_words or f"{self._name} does not take this model")
        if status == UNAVAILABLE:
            return RuntimeMissingError(f"{self._name} cannot run here: {self._last_words}")
        if status < 0:
            return WorkerError(f"{self._name} was killed by {signal_name(-status)}")
        tail = f": {self._last_words}" if self._last_words else ""
        return WorkerError(f"{self._name} ended with status {status}{tail}")

    def _listen(self) -> None:
        stream: IO[bytes] | None = self._child.stdout
        if stream is None:
            return
        since, lines, dropped = monotonic(), 0, 0
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                text = plain(line.decode(errors="replace")).strip()
                if not text:
                    continue
                self._last_words = text[:300]
                if monotonic() - since > _LINES_SECONDS:
                    if dropped:
                        log.info("worker=%s lines_dropped=%d", self._name, dropped)
                    since, lines, dropped = monotonic(), 0, 0
                lines += 1
                if lines <= _LINES:
                    log.info("worker=%s said=%r", self._name, text[:300])
                else:
                    dropped += 1


def signal_name(number: int) -> str:
    """Return what signal(7) calls a signal.

    >>> signal_name(11)
    'SIGSEGV'
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
