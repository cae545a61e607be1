"""The segments of the outbox as its one writer sees them.

Rule 1: at most one segment is written to; the others only shrink or go.
Rule 2: what a refused append may have left is cut off before anything follows it.
Rule 3: what the medium spoiled is kept for a person, up to four segments.
"""

from collections.abc import Iterable

from agent.disk import Disk
from agent.errors import StoreError
from agent.link.spool import FOLDER, HEADER, Segment, segment_name

SEGMENT_BYTES = 128 * 1024
QUARANTINE = f"{FOLDER}/rotten"
MAX_QUARANTINED = 4


class Segments:
    """Segment files by number, and how long each is; every method may raise ``StoreError``."""

    def __init__(self, disk: Disk, *, quota_bytes: int) -> None:
        """Know of none yet; what lies there is told by ``adopt``."""
        self._disk = disk
        self._longest_bytes = max(1024, min(SEGMENT_BYTES, quota_bytes // 8))
        self._sizes: dict[int, int] = {}
        self._torn = False

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, number: int) -> bool:
        return number in self._sizes

    @property
    def size_bytes(self) -> int:
        """What all of them take."""
        return sum(self._sizes.values())

    @property
    def growing(self) -> int:
        """Number of the one that is written to."""
        return max(self._sizes, default=1)

    def adopt(self, segment: Segment) -> None:
        """Go on with a segment that was found: cut its torn tail, or remove it if empty."""
        name = segment_name(segment.number)
        if not segment.placed:
            self._disk.remove(name)
            return
        if segment.whole_bytes < segment.size_bytes:
            self._disk.truncate(name, segment.whole_bytes)
        self._sizes[segment.number] = segment.whole_bytes

    def append(self, record: bytes) -> tuple[int, int]:
        """Put a record on the medium; return its segment and where in it the record begins."""
        self._mend()
        number = self.growing
        if self._sizes.get(number, 0) >= self._longest_bytes:
            number += 1
        offset = self._sizes.get(number, 0) or len(HEADER)
        fresh = number not in self._sizes
        try:
            self._disk.append(segment_name(number), HEADER + record if fresh else record)
        except StoreError:
            self._sizes.setdefault(number, 0)
            self._torn = True
            raise
        self._sizes[number] = offset + len(record)
        return number, offset

    def read(self, number: int) -> bytes:
        """Return the content of a segment; nothing where it is gone."""
        return self._disk.read(segment_name(number)) or b""

    def keep_only(self, number: int, places: Iterable[tuple[int, int]]) -> list[int]:
        """Replace a segment by some of its records (offset, bytes); return their new offsets."""
        places = list(places)
        if not places:
            self._remove(number)
            return []
        content, offsets = self.read(number), list[int]()
        rewritten = bytearray(HEADER)
        for offset, size_bytes in places:
            offsets.append(len(rewritten))
            rewritten += content[offset : offset + size_bytes]
        self._disk.replace(segment_name(number), bytes(rewritten))
        self._sizes[number] = len(rewritten)
        return offsets

    def finished(self, needed: set[int]) -> list[int]:
        """Return the segments that nobody needs, except the one that grows."""
        return [n for n in self._sizes if n not in needed and n != self.growing]

    def remove(self, numbers: list[int]) -> None:
        """Remove whole segments."""
        for number in numbers:
            self._remove(number)

    def quarantine(self, number: int) -> None:
        """Keep a copy of a spoiled segment, as long as there are few."""
        kept = self._disk.names(QUARANTINE)
        content = self._disk.read(segment_name(number))
        if content is not None and len(kept) < MAX_QUARANTINED:
            self._disk.replace(f"{QUARANTINE}/{number:08d}.seg", content)

    def _remove(self, number: int) -> None:
        self._disk.remove(segment_name(number))
        del self._sizes[number]

    def _mend(self) -> None:
        if not self._torn:
            return
        number = max(self._sizes)
        if self._sizes[number]:
            self._disk.truncate(segment_name(number), self._sizes[number])
        else:
            self._remove(number)
        self._torn = False
