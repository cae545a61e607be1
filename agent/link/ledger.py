"""What waits in the outbox, what goes first, and how many reports became what.

Rule 1: appended = acknowledged + dropped + pending, over the life of the directory.
Rule 2: everything here follows from the files; nothing is counted twice after a cut.
Rule 3: telemetry goes before other events, the oldest first, and gaps never.
"""

from dataclasses import dataclass
from hashlib import blake2b

from msgspec.structs import replace

from agent.contract.messages import Event
from agent.contract.topics import EVENT, TELEMETRY
from agent.disk import Disk
from agent.link.spool import (
    BootCounts,
    Range,
    Segment,
    SpoolState,
    count_ranges,
    covers,
    read_segment,
    read_state,
    segment_numbers,
)

CHANNELS = {channel.path: channel for channel in (TELEMETRY, EVENT)}
GAP = "gap"
CAUSES = {
    "outbox-full": "the outbox was full",
    "outbox-rotten": "the medium spoiled them; what is left of them is kept in outbox/rotten",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Counts over the life of the state directory: appended = acknowledged + dropped + pending.

    ``size_bytes`` is what the segments take on the disk now.
    """

    appended: int
    acknowledged: int
    dropped: int
    pending: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where an unacknowledged report lies."""

    segment: int
    offset: int
    size_bytes: int
    path: str
    name: str | None


Key = tuple[str, int]


def read_totals(disk: Disk) -> Totals:
    """Return the counts of a spool that another process may own; changes nothing.

    Raises:
        NewerStateError: It was written by a newer version.
        StoreError: It cannot be read.

    """
    state = read_state(disk)
    boots, waiting = dict(state.boots), dict[Key, Waiting]()
    segments = [read_segment(disk, number) for number in segment_numbers(disk)]
    index_segments(segments, boots, waiting)
    return count_totals(state, boots, len(waiting), sum(s.size_bytes for s in segments))


def index_segments(
    segments: list[Segment], boots: dict[str, BootCounts], waiting: dict[Key, Waiting]
) -> None:
    """Add to the counts of each boot what the segments hold, and list what still waits."""
    for segment in segments:
        for placed in segment.placed:
            entry = placed.entry
            counts = boots.get(entry.boot, BootCounts())
            boots[entry.boot] = replace(counts, last=max(counts.last, entry.sequence))
            gone = covers(counts.dropped, entry.sequence)
            if entry.sequence > counts.acknowledged and not gone and entry.path in CHANNELS:
                waiting[(entry.boot, entry.sequence)] = Waiting(
                    segment.number, placed.offset, placed.size_bytes, entry.path, entry.name
                )


def count_totals(
    retired: SpoolState, boots: dict[str, BootCounts], pending: int, size_bytes: int
) -> Totals:
    """Return the counts of boots still on file and of those retired."""
    acknowledged = retired.appended - retired.dropped
    for counts in boots.values():
        dropped = (r for r in counts.dropped if r[0] <= counts.acknowledged)
        before = tuple((first, min(last, counts.acknowledged)) for first, last in dropped)
        acknowledged += counts.acknowledged - count_ranges(before)
    return Totals(
        appended=retired.appended + sum(c.last for c in boots.values()),
        acknowledged=acknowledged,
        dropped=retired.dropped + sum(count_ranges(c.dropped) for c in boots.values()),
        pending=pending,
        size_bytes=size_bytes,
    )


def victims(waiting: dict[Key, Waiting], growing: int) -> list[Key]:
    """Return all telemetry of the oldest closed segment with any; else all its events."""
    closed = {k: w for k, w in waiting.items() if w.segment != growing}
    for wanted in (
        {k: w for k, w in closed.items() if w.path == TELEMETRY.path},
        {k: w for k, w in closed.items() if w.name != GAP},
    ):
        oldest = min((w.segment for w in wanted.values()), default=None)
        if oldest is not None:
            return [k for k, w in wanted.items() if w.segment == oldest]
    return []


def gap_event(device: str, boot: str, gap: Range, code: str, moment: tuple[int, int]) -> Event:
    """Return what names dropped reports; ``code`` is of ``CAUSES``, ``moment`` (wall, up) ms."""
    wall_ms, up_ms = moment
    unique = f"{device} {boot} {gap[0]} {gap[1]}".encode()
    return Event(
        id=blake2b(unique, digest_size=16).hexdigest(),
        type=GAP,
        ts=wall_ms,
        up=up_ms,
        code=code,
        why=f"{gap[1] - gap[0] + 1} reports were dropped: {CAUSES[code]}",
        boot=boot,
        first=gap[0],
        last=gap[1],
    )
