"""Reports that must not be lost: a durable spool until the fleet has acknowledged them.

Rule 1: ``append`` returns when number, signature and payload are on the medium; a power
        cut loses nothing that was appended, and no number is ever used twice.
Rule 2: the numbers of one boot are 1, 2, 3, … without a hole. What had to be dropped for
        lack of room is named by a ``gap`` event, so nothing disappears silently:
        the oldest telemetry goes first, other events after it, gaps never.
Rule 3: a report is sent again, with its own number and signature, until an
        acknowledgement of its boot covers it; the fleet counts it once.
Rule 4: acknowledgements are persisted lazily, but before a file goes that they explain;
        after a power cut some reports are sent once more, which is harmless.
Rule 5: a report that the medium spoiled holds up nobody: it is set aside, and a gap names it.

Signed once, sent often: after a restart the reports of older boots keep their stamps.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from agent.contract.codec import encode
from agent.contract.envelope import Boot, Stamp
from agent.contract.topics import EVENT, Address, Channel
from agent.disk import Disk
from agent.errors import StoreError
from agent.link.ledger import (
    CHANNELS,
    GAP,
    Key,
    Totals,
    Waiting,
    count_totals,
    gap_event,
    index_segments,
    victims,
)
from agent.link.segments import Segments
from agent.link.spool import (
    FOLDER,
    BootCounts,
    Entry,
    SpoolState,
    add_ranges,
    count_ranges,
    covers,
    entry_at,
    frame,
    read_segment,
    read_state,
    segment_numbers,
    write_state,
)

Sign = Callable[[str, Boot, int, bytes], bytes]
"""Returns the 64-byte signature for (logical topic, boot, sequence, payload)."""

PERSIST_EVERY = 64

log = logging.getLogger("agent.link")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One signed report as it will be sent, however often."""

    address: Address
    payload: bytes
    stamp: Stamp


class Outbox:
    """The spool of one agent; used by one thread."""

    def __init__(
        self,
        disk: Disk,
        *,
        device: str,
        boot: Boot,
        sign: Sign,
        moment: Callable[[], tuple[int, int]],
        quota_bytes: int = 16 * 1024 * 1024,
        resend_seconds: float = 30.0,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Load what earlier boots left; ``moment`` returns (wall ms, monotonic ms).

        ``ready`` is called before each report is stored, and raises while this boot may not
        be spoken of.

        Raises:
            NewerStateError: The spool was written by a newer version; left untouched.
            StoreError: The disk refused.

        """
        self._disk = disk
        self._device = device
        self._boot = str(boot)
        self._sign = sign
        self._moment = moment
        self._quota_bytes = quota_bytes
        self._segments = Segments(disk, quota_bytes=quota_bytes)
        self._resend_seconds = resend_seconds
        self._ready = ready
        self._waiting: dict[Key, Waiting] = {}
        self._sent: dict[Key, float] = {}
        self._unnamed = False
        self._unpersisted = 0
        state = read_state(disk)
        self._retired = SpoolState(appended=state.appended, dropped=state.dropped)
        self._boots = dict(state.boots)
        self._load()

    def append(self, channel: Channel, name: str | None, payload: bytes) -> Record:
        """Number, sign and store one report; it is on the medium when this returns.

        Raises:
            DiskFullError: No space; nothing was stored and no number was used.
            StoreError: The disk refused; as above.

        """
        if self._unnamed:
            self._name_the_missing()
            self._unnamed = False
        record = self._store(channel, name, payload)
        try:
            self._make_room()
        except StoreError as why:
            # the report itself is safe; the next one tries again to make room
            log.warning("outbox room=refused why=%r", str(why))
        return record

    def pending(self, *, limit_bytes: int) -> tuple[Record, ...]:
        """Return the oldest unacknowledged reports, in order, up to a size."""
        return tuple(self._take(iter(list(self._waiting.items())), limit_bytes))

    def due(self, now_seconds: float, *, limit_bytes: int = 256 * 1024) -> tuple[Record, ...]:
        """Return the reports to send now: never sent, or unacknowledged for too long."""
        late = now_seconds - self._resend_seconds
        ready = [(k, w) for k, w in self._waiting.items() if self._sent.get(k, late) <= late]
        return tuple(self._take(iter(ready), limit_bytes))

    def sent(self, record: Record, now_seconds: float) -> None:
        """Remember that a report is on its way."""
        key = (str(record.stamp.boot), record.stamp.sequence)
        if key in self._waiting:
            self._sent[key] = now_seconds

    def next_due(self, now_seconds: float) -> float | None:
        """Return the seconds until ``due`` has something to send; None when nothing waits."""
        if not self._waiting:
            return None
        if len(self._sent) < len(self._waiting):
            return 0.0
        return max(0.0, min(self._sent.values()) + self._resend_seconds - now_seconds)

    def reconnected(self) -> None:
        """Forget what was on its way: the connection that carried it is gone."""
        self._sent.clear()

    def acknowledge(self, boot: Boot, sequence: int) -> int:
        """Everything of ``boot`` up to ``sequence`` is safe; return how many that settled.

        Acknowledgements of unknown boots, or of more than was appended, change nothing.
        """
        name = str(boot)
        counts = self._boots.get(name)
        if counts is None or not counts.acknowledged < sequence <= counts.last:
            return 0
        settled = 0
        for number in range(counts.acknowledged + 1, sequence + 1):
            settled += self._waiting.pop((name, number), None) is not None
            self._sent.pop((name, number), None)
        self._boots[name] = replace(counts, acknowledged=sequence)
        self._unpersisted += settled
        self._remove_finished()
        if self._unpersisted >= PERSIST_EVERY or not self._waiting:
            self.flush()
        return settled

    def acknowledged(self) -> dict[str, int]:
        """Return up to where the reports of each boot were acknowledged, by boot."""
        return {boot: c.acknowledged for boot, c in self._boots.items() if c.acknowledged}

    def flush(self) -> None:
        """Persist acknowledgements that so far are only remembered."""
        if self._unpersisted:
            self._persist()

    def totals(self) -> Totals:
        """Return the counts."""
        return count_totals(
            self._retired, self._boots, len(self._waiting), self._segments.size_bytes
        )

    def _store(self, channel: Channel, name: str | None, payload: bytes) -> Record:
        """Append without looking at the quota."""
        if channel not in CHANNELS.values():
            raise StoreError(f"{channel.path} does not go through the outbox")
        self._ready()
        address = channel.at(self._device, name)
        counts = self._boots.get(self._boot, BootCounts())
        sequence = counts.last + 1
        boot = Boot.parse(self._boot)
        signature = self._sign(address.logical, boot, sequence, payload)
        framed = frame(Entry(channel.path, name, self._boot, sequence, signature, payload))
        segment, offset = self._segments.append(framed)
        waiting = Waiting(segment, offset, len(framed), channel.path, name)
        self._waiting[(self._boot, sequence)] = waiting
        self._boots[self._boot] = replace(counts, last=sequence)
        stamp = Stamp(boot=boot, sequence=sequence, signature=signature)
        return Record(address=address, payload=payload, stamp=stamp)

    def _load(self) -> None:
        """Index the segments, cut a torn tail, and account for what is missing."""
        for name in self._disk.names(FOLDER):
            if name.endswith(".new"):
                self._disk.remove(f"{FOLDER}/{name}")
        segments = [read_segment(self._disk, number) for number in segment_numbers(self._disk)]
        index_segments(segments, self._boots, self._waiting)
        for segment in segments:
            self._segments.adopt(segment)
        try:
            self._name_the_missing()
            self._remove_finished()
        except StoreError as why:  # nobody is kept from starting; the next report tries again
            log.warning("outbox gaps=not-named why=%r", str(why))
            self._unnamed = True
        self._retire(
            {p.entry.boot for s in segments if s.number in self._segments for p in s.placed}
        )

    def _retire(self, present: set[str]) -> None:
        """Turn boots of which no file speaks any more into sums."""
        for boot in set(self._boots) - present - {self._boot}:
            counts = self._boots.pop(boot)
            self._retired = SpoolState(
                appended=self._retired.appended + counts.last,
                dropped=self._retired.dropped + count_ranges(counts.dropped),
            )

    def _name_the_missing(self) -> None:
        """Report holes that only a damaged medium can make, or a cut while dropping."""
        for boot, counts in list(self._boots.items()):
            missing = [
                number
                for number in range(counts.acknowledged + 1, counts.last + 1)
                if (boot, number) not in self._waiting and not covers(counts.dropped, number)
            ]
            if missing:
                self._drop([(boot, number) for number in missing], code="outbox-rotten")

    def _make_room(self) -> None:
        """Drop the oldest reports while the segments take more than the quota."""
        while self._segments.size_bytes > self._quota_bytes and len(self._segments) > 1:
            gone = victims(self._waiting, self._segments.growing)
            if not gone:
                return
            segment = self._waiting[gone[0]].segment
            self._drop(gone)
            self._rewrite(segment)

    def _drop(self, keys: list[Key], code: str = "outbox-full") -> None:
        """Say that reports are gone, remember it, and forget them; in this order."""
        by_boot: dict[str, list[int]] = {}
        for boot, number in keys:
            by_boot.setdefault(boot, []).append(number)
        for boot, numbers in by_boot.items():
            for gap in add_ranges((), numbers):
                named = gap_event(self._device, boot, gap, code, self._moment())
                self._store(EVENT, GAP, encode(named))
            counts = self._boots[boot]
            self._boots[boot] = replace(counts, dropped=add_ranges(counts.dropped, numbers))
        self._persist()
        for key in keys:
            self._waiting.pop(key, None)
            self._sent.pop(key, None)

    def _rewrite(self, segment: int) -> None:
        """Replace a segment by what of it still waits."""
        kept = [(k, w) for k, w in self._waiting.items() if w.segment == segment]
        places = [(w.offset, w.size_bytes) for _, w in kept]
        offsets = self._segments.keep_only(segment, places)
        for (key, w), offset in zip(kept, offsets, strict=True):
            self._waiting[key] = Waiting(segment, offset, w.size_bytes, w.path, w.name)

    def _remove_finished(self) -> None:
        """Remove segments in which nothing waits, except the one that grows."""
        finished = self._segments.finished({w.segment for w in self._waiting.values()})
        if finished:
            self._persist()
            self._segments.remove(finished)

    def _persist(self) -> None:
        state = SpoolState(
            boots=self._boots, appended=self._retired.appended, dropped=self._retired.dropped
        )
        write_state(self._disk, state)
        self._unpersisted = 0

    def _take(self, found: Iterator[tuple[Key, Waiting]], limit_bytes: int) -> Iterator[Record]:
        taken = 0
        contents: dict[int, bytes] = {}
        rotten: list[Key] = []
        for (boot, sequence), waiting in found:
            taken += waiting.size_bytes
            if taken > limit_bytes and taken > waiting.size_bytes:
                break
            if waiting.segment not in contents:
                contents = {waiting.segment: self._segments.read(waiting.segment)}
            entry = entry_at(contents[waiting.segment], waiting.offset)
            if entry is None or (entry.boot, entry.sequence) != (boot, sequence):
                rotten.append((boot, sequence))
                continue
            stamp = Stamp(boot=Boot.parse(boot), sequence=sequence, signature=entry.signature)
            address = CHANNELS[entry.path].at(self._device, entry.name)
            yield Record(address=address, payload=entry.payload, stamp=stamp)
        if rotten:
            self._set_aside(rotten)

    def _set_aside(self, rotten: list[Key]) -> None:
        """Keep what the medium spoiled for a person, and go on without it; a gap names it."""
        segments = dict.fromkeys(self._waiting[key].segment for key in rotten)
        log.warning("outbox rotten=%d segments=%s", len(rotten), sorted(segments))
        try:
            for segment in segments:
                self._segments.quarantine(segment)
            self._drop(rotten, code="outbox-rotten")
            for segment in segments:
                self._rewrite(segment)
        except StoreError as why:
            # they are skipped all the same, and set aside when the disk takes it
            log.warning("outbox quarantine=refused why=%r", str(why))
