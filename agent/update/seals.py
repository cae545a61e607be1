"""What was hashed lately and has not been touched since need not be hashed again.

Between the end of a transfer and the first answer of a model, three places want to be
sure of its bytes: the transfer, the child that checks it, and who serves it. Hashing is
most of that cost, so the first one seals the file and the others look at the seal.

Rule 1: a seal is the file's identity, size and times as they were *before* the hashing
        began; whoever writes into the file or replaces it breaks the seal.
Rule 2: a seal is short-lived and never on a disk: bytes that rot without a write are
        found at the next start, or ``LASTS_SECONDS`` later.
Rule 3: it saves work, and nothing else: without a seal, the bytes are hashed.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec import Struct

LASTS_SECONDS: Final = 600.0
_MAX_SEALS: Final = 64


class Seal(Struct, frozen=True, kw_only=True):
    """A file as it was when its bytes had their digest.

    Attributes:
        device, inode: Which file.
        size: Bytes.
        modified_ns, changed_ns: Its times, ns since 1970.

    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Seals:
    """The seals of one process; time is its monotonic clock, in seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._sealed: dict[str, tuple[Seal, float]] = {}

    def adopt(self, seals: Iterable[tuple[str, Seal]]) -> None:
        """Take over what another process of this agent sealed: (digest, seal)."""
        for digest, seal in seals:
            self.keep(digest, seal)

    def keep(self, digest: str, seal: Seal) -> None:
        """Note that the file with this seal has this digest."""
        self._sealed.pop(digest, None)
        self._sealed[digest] = (seal, self._monotonic() + LASTS_SECONDS)
        while len(self._sealed) > _MAX_SEALS:
            del self._sealed[next(iter(self._sealed))]

    def unbroken(self, digest: str, path: Path) -> bool:
        """Return whether the bytes at ``path`` were hashed lately and are still the same file."""
        kept, until = self._sealed.get(digest, (None, 0.0))
        if kept is None or self._monotonic() >= until:
            return False
        try:
            return read_seal(path) == kept
        except OSError:
            return False

    def fresh(self) -> tuple[tuple[str, Seal], ...]:
        """Return every seal that still counts, for a child of this agent."""
        now = self._monotonic()
        return tuple(
            (digest, seal) for digest, (seal, until) in self._sealed.items() if now < until
        )


def read_seal(file: Path | int) -> Seal:
    """Return the seal of a path or an open file.

    Raises:
        OSError: It cannot be looked at.

    """
    found = file.stat() if isinstance(file, Path) else os.fstat(file)
    return Seal(
        device=found.st_dev,
        inode=found.st_ino,
        size=found.st_size,
        modified_ns=found.st_mtime_ns,
        changed_ns=found.st_ctime_ns,
    )
