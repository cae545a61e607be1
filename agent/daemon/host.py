"""What the operating system and its service manager want of a daemon.

Rule 1: one agent per state directory, by an advisory lock that dies with the process.
Rule 2: systemd is told READY, WATCHDOG and STOPPING over its datagram socket, see
        sd_notify(3); without ``NOTIFY_SOCKET`` nothing is said.
Rule 3: a log line is one event, ``key=value``; never key material or payloads.
"""

import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.contract.plain_text import plain
from agent.errors import BusyError, StoreError

AGENT_VERSION = "0.1.0"
"""Compared with the distribution's in a test; importlib.metadata would cost 3 MiB."""

log = logging.getLogger("fieldfare")

_SPACES = str.maketrans({" ": "_", "\n": "_", "=": "_"})


@contextmanager
def lock_state(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for this process.

    Raises:
        BusyError: Another agent holds it.
        StoreError: It cannot be made or opened.

    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (state_dir / "lock").open("a")
    except OSError as why:
        raise StoreError(f"{state_dir}: {why.strerror or why}") from why
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as why:
            raise BusyError(
                f"another agent works on {state_dir}: stop it, or use another state directory"
            ) from why
        yield


class ServiceNotifier:
    """Speaks to systemd, if it started us.

    Attributes:
        watchdog_seconds: How often ``alive`` must be said at least, or None.

    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        limit_us = environment.get("WATCHDOG_USEC", "")
        for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = (
            int(limit_us) / 1e6 if self._address and limit_us.isdigit() and for_us else None
        )

    def say(self, state: str) -> None:
        """Send one state such as ``READY=1``; a service manager that is gone is ignored."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(self._address)
            channel.send(state.encode())


def on_signals(stop: Callable[[str], None]) -> None:
    """Call ``stop`` with the name of SIGTERM or SIGINT, from a thread of its own.

    The handler itself does nothing: it may interrupt the loop while it holds the lock of
    the inbox. The byte that Python writes for every signal wakes the thread.
    """
    listening, writing = socket.socketpair()
    writing.settimeout(0.0)  # a signal must never wait
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def watch() -> None:
        with writing, listening:
            while received := listening.recv(1):
                if received[0] in (signal.SIGTERM, signal.SIGINT):
                    stop(signal.Signals(received[0]).name)

    threading.Thread(target=watch, name="signals", daemon=True).start()


def event(name: str, **values: object) -> str:
    """Return one log line.

    >>> event("served", slot="motion", why="proved itself")
    'event=served slot=motion why="proved itself"'
    """
    return " ".join((f"event={name}", *(f"{key}={_quoted(v)}" for key, v in values.items())))


def _quoted(value: object) -> str:
    text = plain(str(value))
    if text.translate(_SPACES) == text and '"' not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', "'") + '"'


def log_to_stderr(level: str) -> None:
    """Write events to standard error, which systemd keeps in its journal."""
    to_journal = "JOURNAL_STREAM" in os.environ
    form = "%(message)s" if to_journal else "ts=%(asctime)s level=%(levelname)s %(message)s"
    logging.basicConfig(level=level.upper(), format=form, stream=sys.stderr)
