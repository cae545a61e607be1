"""The one writer of the labelled windows on this device; ``kept`` reads them.

Rule 1: what is kept is on the medium when ``keep`` returns; nothing is written behind a
        record that is not whole, but into a new segment.
Rule 2: what would pass the quota costs the oldest segments, and so does age: no window is
        kept for longer than the owner wants. A segment holds a sixteenth of that time, so
        that few go with the oldest, and none with one that a wrong clock has dated.
Rule 3: the owner may clear the store beside a running agent: each looks again, under a
        lock that both take.
"""

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from agent.disk import Disk, write_record
from agent.errors import DiskFullError, StoreError
from agent.learn.kept import (
    FOLDER,
    HEADER,
    MAX_RECORD_BYTES,
    Kept,
    Segment,
    describe,
    read_segment,
    scan,
    segment_name,
)
from agent.learn.samples import Split

SEGMENT_BYTES: Final = 1024 * 1024
_SEGMENTS: Final = 16


class KeptWindows:
    """The one writer of the store, from any thread.

    Raises:
        NewerStateError: A newer version of the agent wrote it.
        StoreError: It cannot be read.

    """

    def __init__(self, disk: Disk, *, quota_bytes: int, retention_ms: int) -> None:
        self._disk = disk
        self._quota_bytes = quota_bytes
        self._retention_ms = retention_ms
        self._lock = threading.Lock()
        self._segments = scan(disk)

    def counts(self, slot: str) -> dict[Split, int]:
        """Return how many windows of a slot each split has."""
        found = dict.fromkeys(Split, 0)
        with self._lock:
            for segment in self._segments.values():
                for (of, _, split), number in segment.counts.items():
                    if of == slot:
                        found[split] += number
        return found

    def keep(self, windows: Sequence[Kept], now_ms: int) -> None:
        """Keep windows; they are on the medium when this returns.

        Raises:
            DiskFullError: There is no space, or they are larger than the quota.
            StoreError: They could not be written, or one is too large to be read again.

        """
        records = [write_record(msgspec.msgpack.encode(window)) for window in windows]
        largest = max(map(len, records), default=0)
        if largest > MAX_RECORD_BYTES:
            raise StoreError(
                f"a labelled window of {largest} bytes is over the limit of {MAX_RECORD_BYTES}"
            )
        size_bytes = sum(map(len, records))
        if size_bytes + len(HEADER) > self._quota_bytes:
            raise DiskFullError(
                f"labelled windows of {size_bytes} bytes are over feedback.quota_bytes"
                f" ({self._quota_bytes})"
            )
        with self._lock, alone(self._disk):
            self._look_again()
            self._drop(now_ms, size_bytes)
            number = self._growing(windows)
            before = self._segments.get(number)
            content = (b"" if before else HEADER) + b"".join(records)
            try:
                self._disk.append(segment_name(number), content)
            except StoreError:
                self._segments[number] = read_segment(self._disk, number)
                raise
            grown = describe(windows, len(content))
            self._segments[number] = _joined(before, grown) if before else grown

    def expire(self, now_ms: int) -> None:
        """Remove what is older than the owner wants, and see what she removed herself.

        Raises:
            StoreError: It could not be removed.

        """
        with self._lock:
            self._look_again()
            if not any(self._is_old(segment, now_ms) for segment in self._segments.values()):
                return
            with alone(self._disk):
                self._look_again()
                self._drop(now_ms, 0)

    def _growing(self, coming: Sequence[Kept]) -> int:
        """Return the number of the segment that the next records go to."""
        number = max(self._segments, default=0)
        segment = self._segments.get(number)
        full = min(SEGMENT_BYTES, self._quota_bytes // _SEGMENTS)
        if segment is None or not segment.whole or segment.size_bytes >= full:
            return number + 1
        longest_ms = self._retention_ms // _SEGMENTS
        far = any(abs(window.at_ms - segment.oldest_ms) > longest_ms for window in coming)
        return number + 1 if far else number

    def _is_old(self, segment: Segment, now_ms: int) -> bool:
        return not segment.counts or segment.oldest_ms < now_ms - self._retention_ms

    def _drop(self, now_ms: int, coming_bytes: int) -> None:
        room = self._quota_bytes - coming_bytes - len(HEADER)
        for number in sorted(self._segments):
            kept_bytes = sum(s.size_bytes for s in self._segments.values())
            old = self._is_old(self._segments[number], now_ms)
            if kept_bytes > room or old:
                self._disk.remove(segment_name(number))
                del self._segments[number]

    def _look_again(self) -> None:
        """Find out what another process removed since."""
        for number, known in self._segments.items():
            try:
                same = self._disk.path(segment_name(number)).stat().st_size == known.size_bytes
            except OSError:
                same = False
            if not same:
                self._segments = scan(self._disk)
                return


def clear(disk: Disk) -> int:
    """Remove every kept window; returns how many there were. An agent may run beside.

    Raises:
        NewerStateError: A newer version of the agent wrote them; they are left untouched.
        StoreError: They could not be removed.

    """
    if not disk.path(FOLDER).is_dir():
        return 0
    with alone(disk):
        found = scan(disk)
        for number in found:
            disk.remove(segment_name(number))
    return sum(segment.counts.total() for segment in found.values())


def _joined(before: Segment, grown: Segment) -> Segment:
    return Segment(
        size_bytes=before.size_bytes + grown.size_bytes,
        whole=True,
        oldest_ms=min(before.oldest_ms, grown.oldest_ms),
        newest_ms=max(before.newest_ms, grown.newest_ms),
        counts=before.counts + grown.counts,
    )


@contextmanager
def alone(disk: Disk) -> Iterator[None]:
    """Keep other processes from changing the store meanwhile."""
    try:
        disk.path(FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(disk.path(FOLDER) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as why:
        raise StoreError(f"{FOLDER}/lock: {why.strerror or why}") from why
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
