"""The manager's end of the pipe: starts the Flower child and carries words to and fro.

Rule 1: the child gets a clean environment, an empty folder of its own as home, and no
        file of the manager's. It gives up network and root as far as it can (``apart``),
        and the log says what it could not: an operator's app is code that the operator
        trusts, but what it brings along need not be.
Rule 2: no call blocks the manager's thread; one thread reads, one writes.
Rule 3: whatever happens to the child, its last word is ``Done``, ``Crashed`` or ``Gone``.
Rule 4: a child that has all it asked for and says nothing for too long has hung: it is
        killed, with all that it started, and not started again.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Protocol

from fleet.errors import RefusedError
from fleet.rounds import large_blocks
from fleet.rounds.pipe import (
    Apart,
    Begin,
    Crashed,
    Fetched,
    FromChild,
    Gone,
    Replies,
    read_from_child,
    write_word,
)

LOG = logging.getLogger(__name__)
STOP_SECONDS = 5.0
_TOLD_BYTES = 300
Put = Callable[[FromChild], None]


class Child(Protocol):
    """A Flower program that was given its ``Begin``: a process, or a thread in tests."""

    def send(self, word: Replies | Fetched) -> None:
        """Hand it replies; harmless when it is gone."""

    def close(self) -> None:
        """End it and give back what it held; safe to call twice."""


class FlowerChild:
    """The Flower program as a process.

    Args:
        begin: Its first word.
        put: Called from the reader thread with each word that it says.

    """

    def __init__(self, begin: Begin, put: Put) -> None:
        large_blocks.give_back()
        self._home = tempfile.TemporaryDirectory(prefix="fieldfare-rounds-")
        self._errors = Path(self._home.name, "errors.txt")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "fleet.rounds.apart", begin.app_folder or ""],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._home.name,
                env=_environment(self._home.name),
                start_new_session=True,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RefusedError("the Flower child has no pipes")
        self._reaper: threading.Thread | None = None
        self._watch = _Watch(begin.patience_seconds, self._kill)
        self._out: SimpleQueue[Begin | Replies | Fetched | None] = SimpleQueue()
        self._out.put(begin)
        self._threads = (
            threading.Thread(target=self._read, args=(stdout, put), daemon=True),
            threading.Thread(target=self._write, args=(stdin,), daemon=True),
        )
        self._watch.begin()
        for thread in self._threads:
            thread.start()

    @property
    def process_id(self) -> int:
        """Its process id, for logs and tests."""
        return self._process.pid

    def send(self, word: Replies | Fetched) -> None:
        """Hand it replies; harmless when it is gone."""
        self._watch.begin()
        self._out.put(word)

    def close(self) -> None:
        """End it and give back what it held, without waiting for it; safe to call twice."""
        if self._reaper is None:
            self._out.put(None)
            self._process.terminate()
            # No daemon: the manager's process waits for it, so that no child outlives it.
            self._reaper = threading.Thread(target=self._reap, name="flower-reaper")
            self._reaper.start()

    def join(self) -> None:
        """Wait until nothing of it is left, after ``close``."""
        if self._reaper is not None:
            self._reaper.join()

    def _reap(self) -> None:
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._kill()
        self._watch.close()
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        self._home.cleanup()

    def _read(self, stream: BinaryIO, put: Put) -> None:
        why = ""
        with stream:
            try:
                while (word := read_from_child(stream)) is not None:
                    if isinstance(word, Apart):
                        self._tell(word)
                    else:
                        self._watch.end()
                        put(word)
                    del word  # it may be as large as the model, and the next one far off
            except RefusedError as unclear:
                why = str(unclear)
                self._process.kill()
        status = self._process.wait()
        self._watch.close()
        if self._watch.expired:
            put(Crashed(why=f"TimeoutError: it said nothing for {self._watch.seconds} s"))
            return
        put(Gone(why=why or f"the Flower program ended with status {status}{self._told()}"))

    def _kill(self) -> None:
        """Kill it and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process_id, signal.SIGKILL)

    def _tell(self, apart: Apart) -> None:
        told = LOG.warning if apart.why else LOG.info
        told(
            "flower pid=%d user=%d network=%s why=%s",
            self.process_id,
            apart.user,
            "yes" if apart.network else "no",
            apart.why or "apart",
        )

    def _write(self, stream: BinaryIO) -> None:
        with suppress(BrokenPipeError):
            while (word := self._out.get()) is not None:
                write_word(stream, word)
                del word
        with suppress(BrokenPipeError):
            stream.close()

    def _told(self) -> str:
        with suppress(OSError):
            lines = self._errors.read_text(errors="replace").strip().splitlines()
            if lines:
                return f": {lines[-1][:_TOLD_BYTES]}"
        return ""


class _Watch:
    """Calls ``expire`` when a turn of the child lasts longer than it may."""

    def __init__(self, seconds: float, expire: Callable[[], None]) -> None:
        self.seconds, self.expired = seconds, False
        self._expire = expire
        self._timer: threading.Timer | None = None
        self._closed = False

    def begin(self) -> None:
        """It is the child's turn."""
        self.end()
        if self._closed:
            return
        timer = threading.Timer(self.seconds, self._run_out)
        timer.daemon = True
        self._timer = timer
        timer.start()

    def end(self) -> None:
        """It is not."""
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """There is no child any more: nobody is called, whatever begins."""
        self._closed = True
        self.end()

    def _run_out(self) -> None:
        if self._closed:
            return
        self.expired = True
        self._expire()


def _environment(home: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "FLWR_HOME": f"{home}/flwr",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "MALLOC_MMAP_THRESHOLD_": str(large_blocks.AT_LEAST_BYTES),
        "LC_ALL": "C.UTF-8",
    }
