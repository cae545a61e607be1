"""``fieldfare-agent apply``: hand an update bundle to the agent, and wait for what it says.

Rule 1: what can be told from the file alone is told before anything is copied: that it is
        damaged, or not for this device. The agent looks again, and believes nothing.
Rule 2: whether an agent runs or not, the bundle is handed over in the same way; one that
        does not run takes it at its next start.
"""

import time
from collections.abc import Callable
from os import fstat
from pathlib import Path
from typing import BinaryIO

from agent.contract.bundle import read_bundle
from agent.daemon import spool
from agent.daemon.spool import BundleOutcome
from agent.daemon.status import is_locked
from agent.disk import Disk
from agent.errors import AgentError, ConfigError, EnrolmentError, StoreError
from agent.identity.device_key import find_key
from agent.identity.enrol import load_credentials
from agent.refusals import ForeignBundleError
from agent.update.store import require_room

POLL_SECONDS = 0.2


def open_bundle(file: Path) -> BinaryIO:
    """Open a bundle, with the rights of who calls.

    Raises:
        ConfigError: It cannot be read.

    """
    try:
        return file.open("rb")
    except OSError as why:
        raise ConfigError(f"{file} cannot be read: {why.strerror or why}") from why


def give(source: BinaryIO, state_dir: Path, *, reserve_bytes: int) -> str | BundleOutcome:
    """Copy a bundle into the state directory; return its number there, or why it was refused.

    It is refused where there is no enrolled device, where the bundle is damaged or not for
    this device, where its copy would not leave ``reserve_bytes`` free or cannot be made, and
    while somebody else hands one over.
    """
    try:
        return _give(source, state_dir, reserve_bytes)
    except AgentError as why:
        return BundleOutcome(code=why.code, why=str(why)[:500], exit_status=why.exit_status)


def _give(source: BinaryIO, state_dir: Path, reserve_bytes: int) -> str:
    disk = Disk(state_dir)
    key = find_key(disk) if state_dir.is_dir() else None
    if key is None or load_credentials(disk) is None:
        raise EnrolmentError(
            f"{state_dir} holds no enrolled device: a bundle updates a device of a fleet"
        )
    try:
        found = read_bundle(source, key.device)
        source.seek(0)
        size = fstat(source.fileno()).st_size
    except OSError as why:
        raise StoreError(f"the bundle cannot be read: {why.strerror or why}") from why
    if found.assignment is None:
        raise ForeignBundleError(
            f"the bundle is for {found.devices} other devices, this is {key.device}"
        )
    require_room(disk, size, reserve_bytes)
    return spool.hand_over(disk, source)


def is_running(state_dir: Path) -> bool:
    """Return whether an agent works on a state directory."""
    return is_locked(state_dir / "lock")


def wait(
    state_dir: Path,
    number: str,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> BundleOutcome | None:
    """Return what became of a bundle; None when nothing did in this time.

    Raises:
        NewerStateError, StoreError: The outcome cannot be read.

    """
    disk, deadline = Disk(state_dir), time.monotonic() + seconds
    while True:
        outcome = spool.outcome_of(disk, number)
        if outcome is not None or time.monotonic() >= deadline:
            return outcome
        sleep(POLL_SECONDS)
