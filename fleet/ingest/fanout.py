"""Who gets chunks alone, and which travel once for everybody: pure, time is an argument.

Rule 1: when several devices that listen ask for the same artifact at the same time,
        its chunks are cast from the first that one of them lacks, each once, in order.
        Who has come to its end alone is none of them.
Rule 2: who joins a running cast gets what it missed in a second lap, which is the same
        for all who joined late.
Rule 3: a cast runs no further ahead of a member than ``AHEAD_CHUNKS``, as members tell
        how far they came; but who falls silent, or is slower than ``SLOWEST_SECONDS`` a
        chunk, is not waited for and repairs later. Where all are silent, the cast ends.
Rule 4: a chunk that was just cast, or soon will be, is sent to nobody alone. Whatever
        else a member of the cast asks for is a repair, and travels to it alone, unless
        several members lack the same chunk at the same time: then it is cast again.

The round of chunks is a data carousel (ISO/IEC 13818-6) that ends when everybody has it.
"""

from dataclasses import dataclass, field

ENOUGH_DEVICES = 3
WITHIN_SECONDS = 1.0
REPAIR_SECONDS = 1.0
TOGETHER_SECONDS = 2.0
FORGET_SECONDS = 60.0
AHEAD_CHUNKS = 48
SILENT_SECONDS = 3.0
SLOWEST_SECONDS = 0.065
ABANDONED_SECONDS = 10.0


@dataclass(slots=True)
class _Asker:
    at: float
    first: int


@dataclass(slots=True)
class _Member:
    """How many chunks had been cast up to the last one that it took, and when it said so."""

    taken: int
    at: float


@dataclass(slots=True)
class _Cast:
    """One artifact; ``due`` has a 1 for each chunk that is still to be cast."""

    due: bytearray
    sent: int = 0
    last_at: float = 0.0
    sent_at: dict[int, float] = field(default_factory=dict)
    place_of: dict[int, int] = field(default_factory=dict)
    lacking: dict[int, dict[str, float]] = field(default_factory=dict)
    askers: dict[str, _Asker] = field(default_factory=dict)
    members: dict[str, _Member] = field(default_factory=dict)
    cursor: int = 0
    seen_at: float = 0.0

    @property
    def runs(self) -> bool:
        return 1 in self.due

    def may_go_on(self, now: float) -> bool:
        """Whether the slowest member that is waited for has come near enough."""
        if now - self.last_at >= SLOWEST_SECONDS:
            return True
        return all(
            self.sent - member.taken < AHEAD_CHUNKS
            for member in self.members.values()
            if now - member.at <= SILENT_SECONDS
        )

    def is_lacked_by_several(self, index: int, device: str, now: float) -> bool:
        """Note that a member lacks a chunk; where enough do, it is due again for all."""
        if device not in self.members:
            return False
        before = self.lacking.pop(index, {})
        lacking = {d: at for d, at in before.items() if now - at <= TOGETHER_SECONDS}
        lacking[device] = now
        if len(lacking) < ENOUGH_DEVICES:
            self.lacking[index] = lacking
            return False
        self.due[index] = 1
        return True


class Fanout:
    """Every artifact that several devices may want at once."""

    def __init__(self) -> None:
        self._casts: dict[str, _Cast] = {}

    def take(
        self,
        device: str,
        digest: str,
        indexes: list[int],
        total: int,
        now: float,
        *,
        heard: int | None = None,
    ) -> list[int]:
        """Take a request and return the chunks that must travel to this device alone."""
        self._forget(now)
        if not indexes:
            return []
        cast = self._casts.setdefault(digest, _Cast(bytearray(total)))
        cast.seen_at = now
        if device not in cast.members:
            self._join(cast, device, min(indexes), now, last=max(indexes) == total - 1)
        elif heard is None and now - cast.members[device].at >= REPAIR_SECONDS:
            cast.members[device] = _Member(cast.sent, now)  # it asks, for nothing comes any more
        elif heard in cast.place_of:
            cast.members[device] = _Member(cast.place_of[heard], now)
        if heard is not None:  # it has that one
            indexes = [i for i in indexes if i != heard]
        recent = now - REPAIR_SECONDS
        repairs = [i for i in indexes if not cast.due[i] and cast.sent_at.get(i, recent) <= recent]
        return [i for i in repairs if not cast.is_lacked_by_several(i, device, now)]

    def next(self, now: float) -> tuple[str, int] | None:
        """Return the next chunk to cast, of each artifact in turn; None where none is due."""
        for digest, cast in self._casts.items():
            silent = (now - member.at > ABANDONED_SECONDS for member in cast.members.values())
            if cast.runs and all(silent):
                cast.due = bytearray(len(cast.due))
            at = cast.due.find(1, cast.cursor)
            at = at if at >= 0 else cast.due.find(1)
            if at < 0 or not cast.may_go_on(now):
                continue
            cast.due[at], cast.cursor = 0, at + 1
            cast.sent += 1
            cast.place_of[at] = cast.sent
            cast.sent_at[at] = cast.seen_at = cast.last_at = now
            self._casts[digest] = self._casts.pop(digest)  # the others first
            return digest, at
        return None

    @property
    def waiting(self) -> bool:
        """Whether anything is still to be cast."""
        return any(cast.runs for cast in self._casts.values())

    def _join(self, cast: _Cast, device: str, first: int, now: float, *, last: bool) -> None:
        if cast.runs:
            cast.members[device] = _Member(cast.sent, now)
            _mark(cast.due, first, cast.cursor)
            return
        cast.askers = {d: a for d, a in cast.askers.items() if now - a.at <= WITHIN_SECONDS}
        if last and device in cast.askers:  # it had the rest, and will not listen for long
            del cast.askers[device]
            return
        cast.askers[device] = _Asker(now, first)
        if len(cast.askers) >= ENOUGH_DEVICES:
            start = min(asker.first for asker in cast.askers.values())
            cast.members.update((name, _Member(cast.sent, now)) for name in cast.askers)
            cast.askers.clear()
            cast.cursor = start
            _mark(cast.due, start, len(cast.due))

    def _forget(self, now: float) -> None:
        for digest, cast in list(self._casts.items()):
            if not cast.runs and now - cast.seen_at > FORGET_SECONDS:
                del self._casts[digest]


def _mark(due: bytearray, first: int, end: int) -> None:
    if first < end:
        due[first:end] = b"\1" * (end - first)
