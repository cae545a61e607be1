"""When to try the broker again: pure, chance and time are arguments.

Full jitter (Brooker, "Exponential Backoff and Jitter", 2015): a wait is uniform between
a small floor and a ceiling that doubles with each failure.

Rule 1: the ceiling falls back only after a connection has been stable for a while.
Rule 2: a server that says it is busy, or that our credentials are wrong, is asked
        only at the slow end.
Rule 3: the first attempt after a start is spread as well, so that a power cut of a
        whole street does not return as one wave.
"""

from dataclasses import dataclass, field
from random import Random

BUSY_CODES = frozenset({0x89, 0x97, 0x9F})
"""Server busy, quota exceeded, connection rate exceeded."""
STRANGER_CODES = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8E})
"""Wrong version, client id, credentials, rights, banned, wrong method, taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Bounds of reconnecting, in seconds.

    Attributes:
        first_seconds: Longest random delay before the first attempt.
        shortest_seconds: Ceiling of the first wait.
        longest_seconds: Ceiling of every wait.
        stable_seconds: A connection that lasted this long clears the count of failures.

    """

    first_seconds: float = 30.0
    shortest_seconds: float = 1.0
    longest_seconds: float = 300.0
    stable_seconds: float = 60.0


@dataclass(slots=True)
class Patience:
    """Counts failures and says how long to wait."""

    pace: Pace
    chance: Random = field(default_factory=Random)
    failures: int = 0

    def before_first(self) -> float:
        """Return the delay before the first attempt, in seconds."""
        return self.chance.uniform(0.0, self.pace.first_seconds)

    def after_failure(self, code: int | None = None) -> float:
        """Return the wait after an attempt that was refused with ``code``, in seconds."""
        self.failures += 1
        longest = self.pace.longest_seconds
        if code in BUSY_CODES or code in STRANGER_CODES:
            return self.chance.uniform(longest / 2, longest)
        doubled = self.pace.shortest_seconds * 2.0 ** min(self.failures - 1, 40)
        ceiling = min(longest, doubled)
        return self.chance.uniform(min(self.pace.shortest_seconds / 2, ceiling), ceiling)

    def after_connection(self, lasted_seconds: float, code: int | None = None) -> float:
        """Return the wait after a connection that lasted so long, in seconds."""
        if lasted_seconds >= self.pace.stable_seconds:
            self.failures = 0
        return self.after_failure(code)
