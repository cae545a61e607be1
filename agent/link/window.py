"""How much to ask for at once, and when to ask again: pure, time is an argument.

A delay-based window in the manner of LEDBAT (RFC 6817): it grows while the queue that we
cause stays short and shrinks when it does not, so that a transfer on a slow link does
not hold up commands.

Rule 1: the target is 250 ms of queueing, measured against the fastest answer so far.
Rule 2: a piece is asked for again after max(2 x round trip, 1 s), or when three pieces
        asked for later have come. Silence doubles the wait, up to 16 s.
Rule 3: an answer to something asked for twice measures nothing (Karn's rule).
Rule 4: what became free is asked for in batches of a quarter of the window, because every
        request costs the manager a turn.
"""

from dataclasses import dataclass, field

from agent.contract.limits import MAX_CHUNKS_PER_REQUEST, MAX_OUTSTANDING_BYTES

TARGET_SECONDS = 0.25
SHORTEST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 16.0
LATER_ARRIVALS = 3
SMOOTHING = 0.125
BATCH_SHARE = 0.25


@dataclass(slots=True)
class _Asked:
    """One piece that was asked for; ``order`` counts all askings."""

    since_seconds: float
    order: int
    overtaken: int
    again: bool


@dataclass(slots=True)
class Window:
    """The pieces on their way and how many more may be."""

    piece_bytes: int
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)
    _order: int = 0
    _size_bytes: float = 0.0
    _fastest: float | None = None
    _smoothed: float = 0.5
    _silence: float = 1.0
    _last_cut: float = float("-inf")

    def __post_init__(self) -> None:
        self._size_bytes = 2.0 * self.piece_bytes

    @property
    def wait_seconds(self) -> float:
        """How long a piece may take before it is asked for again."""
        wait = max(2 * self._smoothed, SHORTEST_WAIT_SECONDS) * self._silence
        return min(wait, LONGEST_WAIT_SECONDS)

    @property
    def outstanding(self) -> int:
        """How many pieces are on their way."""
        return len(self._asked)

    def room(self) -> int:
        """Return how many more pieces may be asked for; 0 where it is not worth a request."""
        most = max(1, min(MAX_CHUNKS_PER_REQUEST, int(self._size_bytes // self.piece_bytes)))
        free = most - len(self._asked)
        return free if not self._asked or free >= most * BATCH_SHARE else 0

    def on_its_way(self, index: int) -> bool:
        """Return whether a piece was asked for and not yet given up."""
        return index in self._asked

    def ask(self, index: int, now_seconds: float) -> None:
        """Remember that a piece is asked for now."""
        self._order += 1
        again = index in self._seen
        self._seen.add(index)
        self._asked[index] = _Asked(now_seconds, self._order, 0, again)

    def arrived(self, index: int, now_seconds: float) -> None:
        """Learn from a good piece."""
        asked = self._asked.pop(index, None)
        self._seen.discard(index)
        self._silence = 1.0
        if asked is None:
            return
        for other in self._asked.values():
            other.overtaken += other.order < asked.order
        if asked.again:
            return
        took = max(now_seconds - asked.since_seconds, 1e-6)
        self._fastest = took if self._fastest is None else min(self._fastest, took)
        self._smoothed += SMOOTHING * (took - self._smoothed)
        queued = took - self._fastest
        if queued < TARGET_SECONDS / 2:
            self._size_bytes += self.piece_bytes  # doubles each round trip
        elif queued < TARGET_SECONDS:
            self._size_bytes += self.piece_bytes * self.piece_bytes / self._size_bytes
        else:
            self._cut(now_seconds)
        self._size_bytes = min(self._size_bytes, MAX_OUTSTANDING_BYTES)

    def refused(self, index: int) -> None:
        """Forget a piece whose bytes were not the signed ones, so that it is asked for again."""
        self._asked.pop(index, None)

    def lost(self, now_seconds: float) -> list[int]:
        """Give up pieces that took too long or were overtaken, and return them."""
        before = now_seconds - self.wait_seconds
        late = {index for index, asked in self._asked.items() if asked.since_seconds <= before}
        gone = [i for i, a in self._asked.items() if i in late or a.overtaken >= LATER_ARRIVALS]
        for index in gone:
            del self._asked[index]
        if gone:
            self._cut(now_seconds)
        if late:
            self._silence = min(2 * self._silence, LONGEST_WAIT_SECONDS)
        return sorted(gone)

    def next_loss(self, now_seconds: float) -> float:
        """Return the seconds until a piece would be given up."""
        oldest = min((a.since_seconds for a in self._asked.values()), default=now_seconds)
        return max(0.0, oldest + self.wait_seconds - now_seconds)

    def _cut(self, now_seconds: float) -> None:
        """Halve, once in a round trip."""
        if now_seconds - self._last_cut >= self._smoothed:
            self._last_cut = now_seconds
            self._size_bytes = max(self._size_bytes / 2, float(self.piece_bytes))
