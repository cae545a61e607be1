"""What the operating system and its service manager want of a daemon.

Rule 1: one agent per state directory, by an advisory lock that dies with the process.
Rule 2: systemd is told READY, WATCHDOG and STOPPING over its datagram socket, see
        sd_notify(3); without ``NOTIFY_SOCKET`` nothing is said.
Rule 3: a log line is one event, ``key=value``; never key material or payloads.
"""

import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from agent.errors import BusyError, PlatformError, StoreError

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


def require_64_bit(largest_index: int = sys.maxsize) -> None:
    """Return on a 64-bit Python.

    Raises:
        PlatformError: It is a 32-bit one, for which no runtime is built.

    """
    if largest_index < 2**32:
        raise PlatformError(
            "this is a 32-bit Python; the agent needs a 64-bit system, because no model"
            " runtime is built for 32 bits"
        )


def require_linux(system: str = sys.platform) -> None:
    """Return on Linux.

    Raises:
        PlatformError: It is another system.

    """
    if not system.startswith("linux"):
        raise PlatformError(f"this is {system}; the agent runs on Linux only")


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


def event(name: str, **values: object) -> str:
    """Return one log line.

    >>> event("served", slot="motion", why="proved itself")
    'event=served slot=motion why="proved itself"'
    """
    return " ".join((f"event={name}", *(f"{key}={_quoted(v)}" for key, v in values.items())))


def _quoted(value: object) -> str:
    text = str(value)
    if text.translate(_SPACES) == text and '"' not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', "'").replace("\n", " ") + '"'


def log_to_stderr(level: str) -> None:
    """Write events to standard error, which systemd keeps in its journal."""
    to_journal = "JOURNAL_STREAM" in os.environ
    form = "%(message)s" if to_journal else "ts=%(asctime)s level=%(levelname)s %(message)s"
    logging.basicConfig(level=level.upper(), format=form, stream=sys.stderr)
