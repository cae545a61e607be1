"""The files of the outbox: segments that only grow, and one file of counts.

    outbox/00000001.seg   ``FFO`` version(1), then records
    outbox/state.json     how far each boot is acknowledged, and what was dropped

A record      length(u32 BE) CRC-32(u32 BE) body, body = MessagePack of ``Entry``

Rule 1: reading changes nothing, so that ``status`` may read the spool of a running agent.
Rule 2: a record counts when it is whole; a torn tail was never promised to anybody.
Rule 3: a segment or state of a newer version is refused and left untouched.
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import SCHEMA_VERSION
from agent.contract.messages import BootId, Count
from agent.disk import Disk, read_record, write_record
from agent.errors import ContractError, NewerStateError, StoreError, UnsupportedError

FOLDER = "outbox"
STATE = f"{FOLDER}/state.json"
HEADER = b"FFO" + bytes([SCHEMA_VERSION])

_MAX_RECORD_BYTES = 1024 * 1024
_MAX_STATE_BYTES = 4 * 1024 * 1024

Range = tuple[Count, Count]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One report on the medium: the channel by its path, and the stamp's three parts."""

    path: str
    name: str | None
    boot: BootId
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    signature: bytes
    payload: bytes


class BootCounts(msgspec.Struct, frozen=True, kw_only=True):
    """One boot: how many were appended, acknowledged up to where, and which were dropped."""

    last: Count = 0
    acknowledged: Count = 0
    dropped: tuple[Range, ...] = ()


class SpoolState(Versioned, frozen=True, kw_only=True):
    """Counts of boots that still have reports, and the sums of those that have none."""

    boots: dict[BootId, BootCounts] = {}  # noqa: RUF012 - msgspec copies it
    appended: Count = 0
    dropped: Count = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A whole record and where it lies."""

    entry: Entry
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment file as found.

    Attributes:
        number: From its name; segments are read in this order.
        whole_bytes: Up to where it consists of whole records.
        size_bytes: Its size; more than ``whole_bytes`` where a tail is torn.

    """

    number: int
    placed: tuple[Placed, ...]
    whole_bytes: int
    size_bytes: int


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{FOLDER}/{number:08d}.seg"


def segment_numbers(disk: Disk) -> list[int]:
    """Return the numbers of the segments that exist, in order."""
    found = [name for name in disk.names(FOLDER) if name.endswith(".seg")]
    return sorted(int(name[:-4]) for name in found if name[:-4].isdigit())


def frame(entry: Entry) -> bytes:
    """Return the record of one report.

    Raises:
        StoreError: The report is larger than the outbox takes.

    """
    body = msgspec.msgpack.encode(entry)
    if len(body) > _MAX_RECORD_BYTES:
        raise StoreError(f"report of {len(body)} bytes is over {_MAX_RECORD_BYTES}")
    return write_record(body)


def read_segment(disk: Disk, number: int) -> Segment:
    """Read one segment up to its first record that is not whole.

    Raises:
        NewerStateError: It was written by a newer version.

    """
    content = disk.read(segment_name(number)) or b""
    if content[:3] == HEADER[:3] and len(content) > 3 and content[3] > SCHEMA_VERSION:  # noqa: PLR2004 - the version follows three letters
        raise NewerStateError(
            f"{segment_name(number)} has version {content[3]}; this program knows {SCHEMA_VERSION}"
        )
    placed: list[Placed] = []
    at = len(HEADER) if content[: len(HEADER)] == HEADER else 0
    while at and (found := _placed_at(content, at)) is not None:
        placed.append(found)
        at += found.size_bytes
    return Segment(number=number, placed=tuple(placed), whole_bytes=at, size_bytes=len(content))


def entry_at(content: bytes, offset: int) -> Entry | None:
    """Return the report whose record begins at ``offset``; None where none is whole."""
    found = _placed_at(content, offset)
    return found.entry if found else None


def _placed_at(content: bytes, offset: int) -> Placed | None:
    found = read_record(content, offset, limit=_MAX_RECORD_BYTES)
    if found is None:
        return None
    body, end = found
    try:
        entry = msgspec.msgpack.decode(body, type=Entry)
    except msgspec.MsgspecError:
        return None
    return Placed(entry=entry, offset=offset, size_bytes=end - offset)


def read_state(disk: Disk) -> SpoolState:
    """Read the counts; an absent file has none.

    Raises:
        NewerStateError: They were written by a newer version.
        StoreError: The file does not parse.

    """
    content = disk.read(STATE)
    if content is None:
        return SpoolState()
    try:
        decode(Versioned, content, limit=_MAX_STATE_BYTES)  # the version before the shape
        return decode(SpoolState, content, limit=_MAX_STATE_BYTES)
    except UnsupportedError as why:
        raise NewerStateError(f"{STATE}: {why}") from why
    except ContractError as why:
        raise StoreError(f"{STATE} is damaged, move it away: {why}") from why


def write_state(disk: Disk, state: SpoolState) -> None:
    """Replace the counts, all or nothing."""
    disk.replace(STATE, encode(state))


def add_ranges(ranges: tuple[Range, ...], more: list[int]) -> tuple[Range, ...]:
    """Return sorted, joined ranges that also cover some numbers.

    >>> add_ranges(((1, 2),), [3, 7, 5, 6])
    ((1, 3), (5, 7))
    """
    pairs = sorted([*ranges, *((n, n) for n in more)])
    joined: list[Range] = []
    for first, last in pairs:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def count_ranges(ranges: tuple[Range, ...]) -> int:
    """Return how many numbers the ranges cover."""
    return sum(last - first + 1 for first, last in ranges)


def covers(ranges: tuple[Range, ...], number: int) -> bool:
    """Return whether a number lies in one of the ranges."""
    return any(first <= number <= last for first, last in ranges)
