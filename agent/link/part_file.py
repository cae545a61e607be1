"""The bytes of one artifact while they arrive, and what is known of them on the medium.

    store/<digest>.part   the bytes so far, with holes
    store/<digest>.map    which chunks of it are on the medium
    store/<digest>        complete and verified; nothing else has this name

Rule 1: the map is written after the bytes that it speaks of are on the medium, every
        64 chunks (4 MiB), but on a fast link not before half a second is over or 256
        chunks came. What the map does not know yet is looked for in the part file, so
        that a killed process costs nothing, in whatever order chunks came. A power cut
        costs at most what the medium lost of those chunks: 16 MiB of a link that brings
        more than 32 MB/s, else half a second's worth or 4 MiB.
Rule 2: the whole is hashed from the medium before it gets its name. Where it differs,
        each chunk is checked again and only the bad ones are missing again.
Rule 3: who keeps a chunk has checked it; what is to be asked for, and when to give up, is
        for ``fetch`` to say.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import BinaryIO

from agent.contract.manifest import Artifact
from agent.disk import Disk
from agent.errors import CorruptError, StoreError
from agent.link.chunk_map import read_map, write_map

PERSIST_CHUNKS = 64
PERSIST_SECONDS = 0.5
MAX_UNPERSISTED_CHUNKS = 256
MAX_LOOKED_FOR_CHUNKS = 4096
"""256 MiB, which are hashed in a part of a second; what lies behind them is fetched again."""
_HASHED_TOGETHER = 16
_HASHED_AT_ONCE = 64


class PartFile:
    """The part file of one artifact with its map; time is an argument (monotonic seconds)."""

    def __init__(self, artifact: Artifact, disk: Disk, *, folder: str, now_seconds: float) -> None:
        """Know of nothing yet; ``resume`` looks at the medium."""
        self._artifact = artifact
        self._disk = disk
        self._name = f"{folder}/{artifact.digest}"
        self._have = bytearray(artifact.count)
        self._got = 0
        self._first_missing = 0
        self._unpersisted = 0
        self._persisted_seconds = now_seconds
        self._hash = sha256()
        self._hashed = 0

    @property
    def got(self) -> int:
        """How many chunks there are."""
        return self._got

    @property
    def is_whole(self) -> bool:
        """Whether no chunk is missing."""
        return self._got == self._artifact.count

    def is_stored(self) -> bool:
        """Return whether the artifact has its name already."""
        path = self._disk.path(self._name)
        return path.is_file() and path.stat().st_size == self._artifact.size

    def has(self, index: int) -> bool:
        """Return whether a chunk is there."""
        return bool(self._have[index])

    def missing(self) -> Iterator[int]:
        """Yield the chunks that are not there, in order."""
        at = self._have.find(0, self._first_missing)
        self._first_missing = at if at >= 0 else len(self._have)
        while at >= 0:
            yield at
            at = self._have.find(0, at + 1)

    def resume(self) -> None:
        """Find what an earlier try left.

        Raises:
            NewerStateError: The chunk map was written by a newer version.
            StoreError: The part file cannot be read.

        """
        if not self._disk.path(f"{self._name}.part").is_file():
            return
        known = read_map(self._disk, f"{self._name}.map", self._artifact)
        if known is not None:
            self._have, self._got = known, sum(known)
        self._look_for_more()

    def keep(self, index: int, content: bytes, now_seconds: float) -> None:
        """Store a chunk that was checked, and the map when it is time.

        Raises:
            StoreError: The disk refused.

        """
        self._disk.patch(f"{self._name}.part", index * self._artifact.chunk_size, content)
        self._have[index] = 1
        self._got += 1
        self._unpersisted += 1
        since = now_seconds - self._persisted_seconds
        rested = since >= PERSIST_SECONDS or self._unpersisted >= MAX_UNPERSISTED_CHUNKS
        if self._unpersisted >= PERSIST_CHUNKS and rested:
            self._persisted_seconds = now_seconds
            self.persist()
        if self._got % _HASHED_TOGETHER == 0:
            self._hash_ahead(_HASHED_AT_ONCE)

    def persist(self) -> None:
        """Put what was kept on the medium, then the map that speaks of it."""
        if not self._unpersisted:
            return
        self._disk.sync(f"{self._name}.part")
        write_map(self._disk, f"{self._name}.map", self._artifact, self._have)
        self._unpersisted = 0

    def finish(self) -> bool:
        """Give the artifact its name if the whole is the signed one; return whether it is."""
        self._hash_ahead(self._artifact.count)
        if self._hash.hexdigest() != self._artifact.digest:
            return False
        self._disk.sync(f"{self._name}.part")
        self._disk.rename(f"{self._name}.part", self._name)
        self.forget_map()
        return True

    def recheck(self) -> None:
        """Find what the medium changed; only that is then missing."""
        size = self._artifact.chunk_size
        with self._reading() as file:
            for index in range(self._artifact.count):
                try:
                    self._artifact.check_chunk(index, file.read(size))
                except CorruptError:
                    self._have[index] = 0
        self._first_missing = 0
        self._got = sum(self._have)
        self._hash, self._hashed = sha256(), 0
        self._unpersisted = PERSIST_CHUNKS
        self.persist()

    def forget_map(self) -> None:
        """Remove the map of an artifact that has its name."""
        for left in (f"{self._name}.map", f"{self._name}.map.new"):
            if self._disk.path(left).exists():
                self._disk.remove(left)

    def _look_for_more(self) -> None:
        """Find chunks that the map does not know: it was written before them, or it is lost."""
        size = self._artifact.chunk_size
        with self._reading() as file:
            unknown = self._written(file)
            for _, index in zip(range(MAX_LOOKED_FOR_CHUNKS), unknown, strict=False):
                file.seek(index * size)
                with suppress(CorruptError):
                    self._artifact.check_chunk(index, file.read(size))
                    self._have[index] = 1
                    self._got += 1
                    self._unpersisted += 1

    def _written(self, file: BinaryIO) -> Iterator[int]:
        """Yield the missing chunks for which there are bytes; holes are stepped over."""
        size, data = self._artifact.chunk_size, -1
        for index in self.missing():
            if (index + 1) * size <= data:
                continue
            try:
                data = os.lseek(file.fileno(), index * size, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole follows
            if data < (index + 1) * size:
                yield index

    def _hash_ahead(self, most: int) -> None:
        """Hash the unbroken beginning, read back from the medium, at most so many chunks."""
        size = self._artifact.chunk_size
        last = min(self._hashed + most, self._artifact.count)
        if self._hashed >= last or not self._have[self._hashed]:
            return
        with self._reading() as file:
            file.seek(self._hashed * size)
            while self._hashed < last and self._have[self._hashed]:
                self._hash.update(file.read(size))
                self._hashed += 1

    @contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        try:
            with self._disk.path(f"{self._name}.part").open("rb") as file:
                yield file
        except OSError as why:
            raise StoreError(f"{self._name}.part: {why.strerror or why}") from why
