"""The parent's side of a child process: start it, hand the answer over, never block.

Rule 1: a small thread waits for the answer and delivers one ``Finished``; the loop that
        started the child goes on meanwhile.
Rule 2: whatever happens to the child (an error with a name, a signal, a time-out, an
        answer that does not parse) arrives as an ``AgentError`` with one sentence.
Rule 3: the child gets the job on its standard input, a minimal environment, and no
        file descriptor of ours.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import msgspec

from agent.errors import AgentError, ChildDiedError, PlatformError, error_named
from agent.worker.jobs import Answered, Envelope, Kind, Limits, Named, Outcome, answer_type

_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "TZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of one child, as it lies on the inbox.

    Attributes:
        ticket: What the starter called this job.
        kind: Which job it was.
        answer: The job's answer, or the error with the sentence for the log.

    """

    ticket: str
    kind: Kind
    answer: msgspec.Struct | AgentError


class Running:
    """One child at work."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        *,
        kind: Kind,
        ticket: str,
        job: bytes,
        limits: Limits,
        deliver: Callable[[Finished], object],
    ) -> None:
        self.kind = kind
        self.ticket = ticket
        self._child = child
        self._limits = limits
        self._deliver = deliver
        self._thread = threading.Thread(
            target=self._attend, args=(job,), name=f"worker-{kind}", daemon=True
        )
        self._thread.start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def stop(self, *, wait_seconds: float = 5.0) -> None:
        """Kill the child; its ``Finished`` still arrives."""
        with contextlib.suppress(ProcessLookupError):
            self._child.kill()
        self._thread.join(wait_seconds)

    def _attend(self, job: bytes) -> None:
        self._deliver(Finished(ticket=self.ticket, kind=self.kind, answer=self._answer(job)))

    def _answer(self, job: bytes) -> msgspec.Struct | AgentError:
        try:
            said, noise = self._child.communicate(job, timeout=self._limits.seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()
            return AgentError(
                f"the {self.kind} worker was stopped after {self._limits.seconds:g} seconds"
            )
        except OSError as why:
            return AgentError(f"the {self.kind} worker does not listen: {why.strerror or why}")
        if noise and self._child.returncode:
            sys.stderr.write(noise.decode(errors="replace"))
        return read_answer(self.kind, self._child.returncode, said)


def read_answer(kind: Kind, status: int, said: bytes) -> msgspec.Struct | AgentError:
    """Return what a child that ended with ``status`` answered, or why it did not."""
    if status < 0:
        return ChildDiedError(f"the {kind} worker was killed by {signal_name(-status)}", -status)
    try:
        outcome: Outcome = msgspec.json.decode(said, type=Outcome)
        match outcome:
            case Named(code=code, why=why):
                return error_named(code, why)
            case Answered(answer=answer):
                return msgspec.json.decode(answer, type=answer_type(kind))
            case _:
                assert_never(outcome)
    except (msgspec.MsgspecError, UnicodeDecodeError) as bad:
        return AgentError(f"the {kind} worker ended with status {status} and no answer: {bad}")


def start(
    kind: Kind,
    job: msgspec.Struct,
    *,
    ticket: str,
    limits: Limits,
    deliver: Callable[[Finished], object],
    quiet: bool = False,
) -> Running:
    """Start a child with one job.

    Args:
        kind: Which job.
        job: Its description, of the type that belongs to ``kind``.
        ticket: Comes back in ``Finished``.
        limits: Wall clock, memory, processor time and niceness.
        deliver: Called once, from another thread, and must not block.
        quiet: Show what it prints, and its libraries, only where it fails.

    Raises:
        PlatformError: The operating system does not start it.

    """
    body = msgspec.Raw(msgspec.json.encode(job))
    envelope = Envelope(parent=os.getpid(), limits=limits, job=body)
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", "agent", "worker", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            env=environment,
            cwd=tempfile.gettempdir(),
        )
    except OSError as why:
        raise PlatformError(f"the {kind} worker does not start: {why.strerror or why}") from why
    return Running(
        child,
        kind=kind,
        ticket=ticket,
        job=msgspec.json.encode(envelope),
        limits=limits,
        deliver=deliver,
    )


def signal_name(number: int) -> str:
    """Return how a signal is called, for example ``SIGSEGV``."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
