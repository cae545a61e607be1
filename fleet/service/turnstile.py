"""How much somebody may make the manager work: so much at once, so much a second after.

Rule 1: whoever is turned away gets no answer, since that is what costs; who is honest asks
        again, later.
Rule 2: what it remembers is bounded: nobody fills it by changing names.

Token bucket: RFC 2697's committed rate and burst.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_NAMES: Final = 50_000
EVERYBODY: Final = ""


@dataclass(slots=True)
class _Bucket:
    level: float
    at_ms: int
    turned_away: bool = False


class Turnstile:
    """Counts by name.

    Args:
        at_once: How much passes without a pause.
        per_second: How much passes in the long run.

    """

    def __init__(self, *, at_once: int, per_second: float) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def lets(self, who: str, now_ms: int, much: int = 1) -> bool:
        """Return whether so much more passes; a clock that went back lets nobody pass sooner."""
        bucket = self._buckets.setdefault(who, _Bucket(float(self._at_once), now_ms))
        self._buckets.move_to_end(who)
        while len(self._buckets) > MAX_NAMES:
            self._buckets.popitem(last=False)
        waited = max(now_ms - bucket.at_ms, 0) / 1000
        bucket.level = min(self._at_once, bucket.level + waited * self._per_second)
        bucket.at_ms = now_ms
        if bucket.level < much:
            return False
        bucket.level -= much
        bucket.turned_away = False
        return True

    def begins_to_refuse(self, who: str) -> bool:
        """Return True once after each pass: for one line in the log, not for each of a flood."""
        bucket = self._buckets.get(who)
        if bucket is None or bucket.turned_away:
            return False
        bucket.turned_away = True
        return True
