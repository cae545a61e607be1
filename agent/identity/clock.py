"""What time it is, as far as this device may believe.

Rule 1: trusted time is a signed answer to a single-use nonce, plus the monotonic time
        since it came.
Rule 2: before any answer in this life, time is the latest of the build, the persisted
        floor and the system clock; the system clock itself is never persisted, so one
        life with a wrong clock spoils none after it.
Rule 3: the floor only rises, and never past the expiry of the trusted root: no manager
        can push a device so far ahead that nothing is valid any more.
"""

import secrets
from collections.abc import Callable

from agent.contract.codec import Versioned, encode
from agent.contract.limits import LAST_MS
from agent.contract.messages import Count, Fresh
from agent.disk import Disk, read_versioned
from agent.refusals import (
    LateAnswerError,
    SpentNonceError,
)

CLOCK = "clock.json"
BUILD_MS = 1_735_689_600_000
"""2025-01-01: no true clock shows an earlier time to this program."""
NONCE_SECONDS = 60.0
MAX_NONCES = 16
FLOOR_STEP_MS = 10 * 60 * 1000
"""The floor is written again only when it rises by this much, to spare the medium."""


class ClockFile(Versioned, frozen=True, kw_only=True):
    """``clock.json``: a moment that has certainly passed, ms since 1970."""

    floor_ms: Count


class TrustedClock:
    """Time that neither a dead battery nor a rogue manager can set at will.

    Args:
        disk: Where the floor lies.
        monotonic: Seconds that never jump; ``time.monotonic``, or better
            CLOCK_BOOTTIME, which also counts while the machine sleeps.
        wall: The system clock, seconds since 1970; ``time.time``.

    Raises:
        NewerStateError: A newer agent wrote the floor.
        StoreError: The floor cannot be read.

    """

    def __init__(
        self, disk: Disk, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._disk = disk
        self._monotonic = monotonic
        self._wall = wall
        file = read_versioned(disk, CLOCK, ClockFile)
        self._floor_ms = 0 if file is None else file.floor_ms
        self._fresh: tuple[int, float] | None = None
        self._nonces: dict[str, float] = {}

    @property
    def floor_ms(self) -> int:
        """The persisted floor."""
        return self._floor_ms

    def trusted_ms(self) -> int | None:
        """Return signed time, ms since 1970; None before the first answer of this life."""
        if self._fresh is None:
            return None
        said_ms, at = self._fresh
        return min(said_ms + int((self._monotonic() - at) * 1000), LAST_MS)

    def now_ms(self) -> int:
        """Return the best time there is, ms since 1970."""
        trusted = self.trusted_ms()
        if trusted is not None:
            return trusted
        return min(max(BUILD_MS, self._floor_ms, int(self._wall() * 1000)), LAST_MS)

    @property
    def basis(self) -> str:
        """By what ``now_ms`` goes, for a person."""
        if self.trusted_ms() is not None:
            return "signed time"
        bases = {
            BUILD_MS: "the date of this program",
            self._floor_ms: "the last signed time it heard",
            int(self._wall() * 1000): "the system clock",
        }
        return bases[max(bases)]

    def new_nonce(self) -> str:
        """Return a nonce to ask with; it is good once, for 60 s."""
        if len(self._nonces) >= MAX_NONCES:
            del self._nonces[next(iter(self._nonces))]
        nonce = secrets.token_hex(16)
        self._nonces[nonce] = self._monotonic()
        return nonce

    def believe(self, fresh: Fresh, nonce: str, *, root_expires_ms: int) -> None:
        """Take over signed time that ``contract.belief.believe_fresh`` returned.

        Args:
            fresh: What the director signed.
            nonce: The one that was asked with.
            root_expires_ms: Expiry of the trusted root, ms since 1970.

        Raises:
            RollbackError: The nonce was never asked, or was answered before.
            ExpiredError: The answer came more than 60 s after the question.
            StoreError: The floor cannot be written; the time is taken over anyway.

        """
        asked = self._nonces.pop(nonce, None)
        if asked is None or fresh.nonce != nonce:
            raise SpentNonceError(f"nonce {nonce[:8]} is not open: signed time is believed once")
        waited = self._monotonic() - asked
        if waited > NONCE_SECONDS:
            raise LateAnswerError(
                f"signed time came {waited:.0f} s after it was asked, at most {NONCE_SECONDS:.0f} s"
            )
        self._fresh = (fresh.now_ms, self._monotonic())
        floor = min(fresh.now_ms, root_expires_ms)
        if floor >= self._floor_ms + FLOOR_STEP_MS:
            self._disk.replace(CLOCK, encode(ClockFile(floor_ms=floor)))
            self._floor_ms = floor
