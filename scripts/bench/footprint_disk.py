"""What a process writes to disk in some time, counted in two ways that cannot both be wrong."""

import ctypes
import os
import select
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MODIFY, _CLOSE_WRITE, _MOVED_TO, _CREATE = 0x2, 0x8, 0x80, 0x100
_NONBLOCK, _CLOEXEC = 0o4000, 0o2000000
_EVENT = struct.Struct("iIII")
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Bytes that the kernel sent to block devices for the process, and those of its files.

    Attributes:
        block_bytes: ``write_bytes`` of /proc/PID/io: whole pages, with what the file system
            adds for the process, as proc(5) counts it.
        file_bytes: By inotify: what files of the state directory grew by, and the whole of
            each file that was put into its place by a rename.
        durable_writes: How many such growths and renames there were.

    """

    block_bytes: int
    file_bytes: int
    durable_writes: int


def watch_writes(
    pid: int, folder: Path, *, seconds: float, begun: Callable[[], object] = lambda: None
) -> Written:
    """Watch a process and the folder with its files for some time; ``begun`` is called first."""
    watched = _Watched(folder)
    before = _write_bytes(pid)
    begun()
    watched.watch(seconds)
    return Written(
        block_bytes=_write_bytes(pid) - before,
        file_bytes=watched.file_bytes,
        durable_writes=watched.durable_writes,
    )


def _write_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    counts = dict(line.split(": ") for line in lines)
    return int(counts["write_bytes"]) - int(counts["cancelled_write_bytes"])


class _Watched:
    """A folder with its sub-folders, by inotify(7)."""

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._queue = self._libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self._queue < 0:
            raise OSError(ctypes.get_errno(), "inotify is not to be had")
        self._folders: dict[int, Path] = {}
        self._sizes: dict[Path, int] = {}
        self.file_bytes = self.durable_writes = 0
        for place in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
            mask = _MODIFY | _CLOSE_WRITE | _MOVED_TO | _CREATE
            number = self._libc.inotify_add_watch(self._queue, os.fsencode(place), mask)
            self._folders[number] = place
            for file in place.iterdir():
                self._sizes[file] = _size(file)

    def watch(self, seconds: float) -> None:
        """Count what happens in so many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._queue], [], [], left)
            if ready:
                self._read(os.read(self._queue, _READ_BYTES))
        os.close(self._queue)

    def _read(self, events: bytes) -> None:
        at = 0
        while at < len(events):
            number, mask, _, length = _EVENT.unpack_from(events, at)
            name = os.fsdecode(events[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0"))
            at += _EVENT.size + length
            file = self._folders[number] / name
            size, before = _size(file), self._sizes.get(file, 0)
            if mask & _MOVED_TO:
                self.file_bytes += size
                self.durable_writes += 1
            elif size > before and not name.endswith((".new", ".tmp")):
                self.file_bytes += size - before
                self.durable_writes += 1
            self._sizes[file] = size


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
