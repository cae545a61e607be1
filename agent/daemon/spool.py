"""Update bundles between the hand that brings them and the agent: a folder of the state.

    bundles/<n>.part     being copied
    bundles/<n>.bundle   whole; the agent takes the lowest number first
    bundles/<n>.json     what became of it

Rule 1: a bundle gets its name when the copy is on the medium; what a cut leaves of a copy
        is removed when somebody hands over the next one, or the agent starts.
Rule 2: it stays until its outcome is on the medium: after a power cut it is begun again,
        and everything about that is safe to repeat.
Rule 3: one hand at a time; the lock dies with its process.
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import BinaryIO, Final

from agent.contract.bundle import BLOCK_BYTES
from agent.contract.codec import Versioned, encode
from agent.contract.manifest import Text
from agent.disk import Disk, read_versioned
from agent.errors import BusyError, StoreError

FOLDER: Final = "bundles"
MAX_OUTCOMES: Final = 16
HAND_SECONDS: Final = 5.0
"""How long a bundle waits for another one, or for the agent that tidies up at its start."""
_LOCK: Final = "lock"
_LOOK_AGAIN_SECONDS: Final = 0.05
_BUNDLE: Final = re.compile(r"([0-9]{8})\.bundle")
_KNOWN: Final = re.compile(r"([0-9]{8})\.(?:bundle|json)")
_OUTCOME: Final = re.compile(r"([0-9]{8})\.json")


class BundleOutcome(Versioned, frozen=True, kw_only=True):
    """``bundles/<n>.json``: what became of a bundle.

    Attributes:
        code: Empty where it was applied; else that of the error.
        why: One sentence.
        exit_status: What ``fieldfare-agent apply`` leaves behind.

    """

    code: str
    why: Text
    exit_status: int


def bundle_name(number: str) -> str:
    """Return the name of a whole bundle below the state directory."""
    return f"{FOLDER}/{number}.bundle"


def waiting(disk: Disk) -> tuple[str, ...]:
    """Return the numbers of the bundles that are to be applied, the oldest first."""
    found = (_BUNDLE.fullmatch(name) for name in disk.names(FOLDER))
    return tuple(match[1] for match in found if match)


def hand_over(disk: Disk, source: BinaryIO) -> str:
    """Copy a bundle into the state directory and return its number.

    Raises:
        BusyError: Somebody else hands one over.
        StoreError: It cannot be copied; nothing is left of it.

    """
    with _only_hand(disk, HAND_SECONDS):
        _sweep(disk)
        taken = [int(m[1]) for name in disk.names(FOLDER) if (m := _KNOWN.fullmatch(name))]
        number = f"{max(taken, default=0) + 1:08d}"
        part = f"{FOLDER}/{number}.part"
        try:
            _copy(disk, source, part)
            disk.rename(part, bundle_name(number))
        except OSError as why:
            disk.remove(part)
            raise StoreError(f"the bundle cannot be copied: {why.strerror or why}") from why
        except StoreError:
            disk.remove(part)
            raise
        return number


def sweep(disk: Disk) -> None:
    """Remove what a cut left of a copy, unless one is being made just now."""
    if not disk.names(FOLDER):
        return
    try:
        with _only_hand(disk):
            _sweep(disk)
    except BusyError:
        return


def conclude(disk: Disk, number: str, outcome: BundleOutcome) -> None:
    """Note what became of a bundle, then remove it.

    Raises:
        StoreError: The disk refuses; the bundle stays.

    """
    disk.replace(f"{FOLDER}/{number}.json", encode(outcome))
    disk.remove(bundle_name(number))
    told = sorted(name for name in disk.names(FOLDER) if _OUTCOME.fullmatch(name))
    for name in told[:-MAX_OUTCOMES]:
        disk.remove(f"{FOLDER}/{name}")


def outcome_of(disk: Disk, number: str) -> BundleOutcome | None:
    """Return what became of a bundle; None while it waits.

    Raises:
        NewerStateError, StoreError: It cannot be read.

    """
    return read_versioned(disk, f"{FOLDER}/{number}.json", BundleOutcome)


def told(disk: Disk) -> Iterator[tuple[str, BundleOutcome]]:
    """Yield the outcomes that are kept, by number; one that cannot be read is left out."""
    for match in filter(None, map(_OUTCOME.fullmatch, disk.names(FOLDER))):
        with suppress(StoreError):
            outcome = outcome_of(disk, match[1])
            if outcome is not None:
                yield match[1], outcome


def _sweep(disk: Disk) -> None:
    for name in disk.names(FOLDER):
        if name.endswith(".part"):
            disk.remove(f"{FOLDER}/{name}")


def _copy(disk: Disk, source: BinaryIO, part: str) -> None:
    at = 0
    while block := source.read(4 * BLOCK_BYTES):
        disk.patch(part, at, block)
        at += len(block)
    disk.sync(part)


@contextmanager
def _only_hand(disk: Disk, patience_seconds: float = 0.0) -> Iterator[None]:
    name = f"{FOLDER}/{_LOCK}"
    if not disk.path(name).exists():
        disk.write(name, b"")
    with disk.path(name).open("rb") as lock:
        ends = monotonic() + patience_seconds
        while not _takes(lock):
            if monotonic() >= ends:
                raise BusyError("another bundle is being handed over just now: try again")
            sleep(_LOOK_AGAIN_SECONDS)
        yield


def _takes(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
