"""The only durable writes of the agent, each on the medium when it returns.

Rule 1: every state file, journal, artifact and queue is written through ``Disk``.
Rule 2: an existing file that matters is never written in place: ``replace`` writes a
        new one beside it and renames. ``append`` and ``patch`` are for files whose
        reader survives a torn tail (the outbox) or checks every byte (a part file).
Rule 3: the operations are few, so that a test can cut the power at each of them
        (``tests/faulty_disk.py``).
Rule 4: what the agent writes, only its own user reads.

Names are paths relative to the root, with ``/``; folders are made as needed.
"""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec

from agent.contract.codec import Versioned
from agent.contract.limits import SCHEMA_VERSION
from agent.errors import DiskFullError, NewerStateError, StoreError

V = TypeVar("V", bound=Versioned)
_RECORD = struct.Struct(">II")


class Disk:
    """Durable operations below one directory.

    Every method raises ``DiskFullError`` when no space is left and ``StoreError`` for
    anything else that the operating system refuses; both name the file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return where a name lies."""
        return self.root / name

    def read(self, name: str) -> bytes | None:
        """Return a whole file, or None where there is none."""
        with _named(name):
            try:
                return self.path(name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a whole new file. Not atomic: for names that nobody reads yet."""
        with _named(name):
            self._make_parent(name)
            with open(self.path(name), "wb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old`` in one step."""
        with _named(new):
            self._make_parent(new)
            self.path(old).replace(self.path(new))
            _sync_directory(self.path(new).parent)

    def replace(self, name: str, content: bytes) -> None:
        """Replace a whole file, all or nothing."""
        self.write(f"{name}.new", content)
        self.rename(f"{name}.new", name)

    def append(self, name: str, content: bytes) -> None:
        """Add to the end of a file; a power cut may leave a part of ``content``."""
        with _named(name):
            self._make_parent(name)
            fresh = not self.path(name).exists()
            with open(self.path(name), "ab", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if fresh:
                _sync_directory(self.path(name).parent)

    def patch(self, name: str, offset: int, content: bytes) -> None:
        """Write into a part file at an offset; durable only after ``sync``."""
        with _named(name):
            handle = self._open_part(name)
            try:
                os.pwrite(handle, content, offset)
            finally:
                os.close(handle)

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut a file to its first ``size_bytes`` bytes."""
        with _named(name), self.path(name).open("r+b") as file:
            file.truncate(size_bytes)
            os.fsync(file.fileno())

    def sync(self, name: str) -> None:
        """Wait until earlier patches of a file are on the medium."""
        with _named(name):
            handle = os.open(self.path(name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is already removed."""
        with _named(name):
            self.path(name).unlink(missing_ok=True)
            if self.path(name).parent.is_dir():
                _sync_directory(self.path(name).parent)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; an absent folder is empty."""
        with _named(folder):
            try:
                return sorted(entry.name for entry in os.scandir(self.path(folder)))
            except FileNotFoundError:
                return []

    def free_bytes(self) -> int:
        """Return the space that an unprivileged writer has left."""
        with _named("."):
            stat = os.statvfs(self.root)
            return stat.f_bavail * stat.f_frsize

    def _open_part(self, name: str) -> int:
        # thousands of chunks come this way, and a path object costs as much as the call
        path, flags = f"{self.root}/{name}", os.O_RDWR | os.O_CREAT
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_parent(name)
            return os.open(path, flags, 0o600)

    def _make_parent(self, name: str) -> None:
        parent = self.path(name).parent
        if not parent.is_dir():
            parent.mkdir(parents=True, mode=0o700)
            _sync_directory(parent.parent)


def write_record(body: bytes) -> bytes:
    """Return a record of a file that only grows: length(u32 BE) CRC-32(u32 BE) body."""
    return _RECORD.pack(len(body), crc32(body)) + body


def read_record(content: bytes, offset: int, *, limit: int) -> tuple[bytes, int] | None:
    """Return the body of the record at ``offset`` and where the next one begins.

    None where no whole record begins: at the end, at a torn tail, at one over ``limit``.
    """
    start = offset + _RECORD.size
    if start > len(content):
        return None
    length, checksum = _RECORD.unpack_from(content, offset)
    body = content[start : start + length]
    if length > limit or len(body) < length or crc32(body) != checksum:
        return None
    return body, start + length


def read_versioned(disk: Disk, name: str, kind: type[V]) -> V | None:
    """Return a state file as a value, or None where there is none.

    Raises:
        NewerStateError: A newer version of the agent wrote it; it is left untouched.
        StoreError: It does not parse. Never taken for absent: an emptied state file
            must not make the device forget what it has accepted.

    """
    content = disk.read(name)
    if content is None:
        return None
    try:
        found = msgspec.json.decode(content, type=Versioned).v
        if found > SCHEMA_VERSION:
            raise NewerStateError(
                f"{name} is of version {found}, this agent knows {SCHEMA_VERSION}:"
                " install the newer agent again"
            )
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise StoreError(f"{name} does not parse ({why}): restore it or enrol again") from why


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        if why.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(f"no space left to write {name}: free some and restart") from why
        raise StoreError(f"{name}: {why.strerror or why}") from why


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
