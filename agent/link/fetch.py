"""One artifact over the broker: receiver-driven, resumable, every chunk checked.

    store/<digest>.part   the bytes so far, with holes
    store/<digest>.map    which chunks of it are on the medium
    store/<digest>        complete and verified; nothing else has this name

Rule 1: a chunk is written only if its hash is the one in the signed manifest, whoever
        sent it and whether it was asked for or not.
Rule 2: the map is written after the bytes that it speaks of are on the medium, every
        64 chunks (4 MiB), but on a fast link not before half a second is over or 256
        chunks came. What the map does not know yet is looked for in the part file, so
        that a killed process costs nothing, in whatever order chunks came. A power cut
        costs at most what the medium lost of those chunks: 16 MiB of a link that brings
        more than 32 MB/s, else half a second's worth or 4 MiB.
Rule 3: the whole is hashed from the medium before it gets its name. Where it differs,
        each chunk is checked again and only the bad ones are fetched again.
Rule 4: retries are bounded, and giving up is a value. What was fetched is kept.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import BinaryIO

from agent.contract.frames import Piece
from agent.contract.manifest import Artifact
from agent.contract.messages import ChunkRequest
from agent.disk import Disk
from agent.errors import (
    CorruptError,
    DiskFullError,
    StalledError,
    StoreError,
    UnavailableError,
)
from agent.link.chunk_map import read_map, write_map
from agent.link.window import Window
from agent.refusals import WrongArtifactError, WrongChunkError

PERSIST_CHUNKS = 64
PERSIST_SECONDS = 0.5
MAX_UNPERSISTED_CHUNKS = 256
MAX_LOOKED_FOR_CHUNKS = 4096
"""256 MiB, which are hashed in a part of a second; what lies behind them is fetched again."""
MAX_BAD_CHUNKS = 16
MAX_WHOLE_RETRIES = 3
RESERVE_BYTES = 4 * 1024 * 1024
_HASHED_TOGETHER = 16
_HASHED_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """Under way."""

    digest: str
    chunks: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Complete, verified and in the store under its digest."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailed:
    """Given up; what was fetched is kept for the next try.

    ``code`` is ``stalled``, ``unavailable``, ``chunk-corrupt``, ``artifact-corrupt`` or the code
    of a ``StoreError``.
    """

    digest: str
    code: str
    why: str
    retryable: bool


Progress = Fetching | Fetched | FetchFailed


class Fetch:
    """The transfer of one artifact; time is an argument (monotonic seconds)."""

    def __init__(
        self,
        artifact: Artifact,
        disk: Disk,
        *,
        now_seconds: float,
        folder: str = "store",
        stall_seconds: float = 60.0,
    ) -> None:
        """Begin, or resume from the chunk map of an earlier try.

        Raises:
            DiskFullError: The rest of the artifact does not fit on the disk.
            NewerStateError: The chunk map was written by a newer version.

        """
        self._artifact = artifact
        self._disk = disk
        self._name = f"{folder}/{artifact.digest}"
        self._stall_seconds = stall_seconds
        self._last_good_seconds = now_seconds
        self._window = Window(artifact.chunk_size)
        self._bad = 0
        self._whole_retries = 0
        self._unpersisted = 0
        self._persisted_seconds = now_seconds
        self._hash = sha256()
        self._hashed = 0
        self._first_missing = 0
        self._outcome: Fetched | FetchFailed | None = None
        self._have = bytearray(artifact.count)
        self._got = 0
        if self._is_stored():
            self._outcome = Fetched(digest=artifact.digest)
            return
        self._resume()
        missing = artifact.count - self._got
        needed = missing * artifact.chunk_size + RESERVE_BYTES
        if missing and disk.free_bytes() < needed:
            raise DiskFullError(
                f"artifact {artifact.digest[:16]} needs {needed} bytes and "
                f"{disk.free_bytes()} are free: make room and assign it again"
            )
        if not missing:
            self._finish()

    @property
    def digest(self) -> str:
        """Of the artifact that is fetched."""
        return self._artifact.digest

    @property
    def refused(self) -> int:
        """How many chunks came that were not the signed ones."""
        return self._bad

    @property
    def chunk_size(self) -> int:
        """Bytes of every chunk but the last."""
        return self._artifact.chunk_size

    @property
    def outstanding_bytes(self) -> int:
        """How much was asked for and may still come."""
        return self._window.outstanding * self._artifact.chunk_size

    def rest(self, now_seconds: float) -> None:
        """Count the time until now as no silence: nothing was asked for, on purpose."""
        self._last_good_seconds = max(self._last_good_seconds, now_seconds)

    def requests(self, now_seconds: float, *, most_bytes: float = inf) -> tuple[ChunkRequest, ...]:
        """Return what to ask for now; call after each ``take`` and when ``wait_seconds`` is over.

        At most one request, of at most 32 chunks and ``most_bytes``.
        """
        if not isinstance(self.progress(now_seconds), Fetching):
            return ()
        self._window.lost(now_seconds)
        room = int(min(self._window.room(), most_bytes // self._artifact.chunk_size))
        wanted = [index for _, index in zip(range(room), self._missing(), strict=False)]
        if not wanted:
            return ()
        for index in wanted:
            self._window.ask(index, now_seconds)
        return (ChunkRequest(a=self._artifact.digest, r=tuple(_ranges(wanted))),)

    def take(self, piece: Piece, now_seconds: float) -> Progress:
        """Check and store one piece; pieces of other artifacts change nothing."""
        artifact = self._artifact
        ours = piece.name == bytes.fromhex(artifact.digest[:16]) and piece.total == artifact.count
        if self._outcome is not None or not ours or self._have[piece.index]:
            return self.progress(now_seconds)
        try:
            content = artifact.check_chunk(piece.index, piece.content)
        except CorruptError as why:
            self._refuse(piece.index, str(why))
            return self.progress(now_seconds)
        try:
            self._keep(piece.index, content, now_seconds)
            self._last_good_seconds = now_seconds
            self._window.arrived(piece.index, now_seconds)
            if self._got == artifact.count:
                self._finish()
        except StoreError as why:
            self._fail(why.code, str(why))
        return self.progress(now_seconds)

    def progress(self, now_seconds: float) -> Progress:
        """Return where the transfer stands; a stalled one fails here."""
        if self._outcome is None and now_seconds - self._last_good_seconds >= self._stall_seconds:
            with suppress(StoreError):  # the next try then fetches a little more
                self._persist()
            self._fail(StalledError.code, f"no chunk arrived for {self._stall_seconds:.0f} s")
        if self._outcome is not None:
            return self._outcome
        return Fetching(digest=self._artifact.digest, chunks=self._got, of=self._artifact.count)

    def give_up(self, why: str) -> Progress:
        """End this try at once, because the other side says that it is in vain."""
        if self._outcome is None:
            with suppress(StoreError):  # the next try then fetches a little more
                self._persist()
            self._fail(UnavailableError.code, why)
        return self.progress(self._last_good_seconds)

    def wait_seconds(self, now_seconds: float) -> float:
        """Return how long nothing needs to be asked unless a piece arrives."""
        stalls = self._last_good_seconds + self._stall_seconds - now_seconds
        return max(0.0, min(self._window.next_loss(now_seconds), stalls))

    def _is_stored(self) -> bool:
        path = self._disk.path(self._name)
        if not path.is_file() or path.stat().st_size != self._artifact.size:
            return False
        self._forget_map()
        return True

    def _resume(self) -> None:
        if not self._disk.path(f"{self._name}.part").is_file():
            return
        known = read_map(self._disk, f"{self._name}.map", self._artifact)
        if known is not None:
            self._have, self._got = known, sum(known)
        self._look_for_more()

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
        for index in self._missing():
            if (index + 1) * size <= data:
                continue
            try:
                data = os.lseek(file.fileno(), index * size, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole follows
            if data < (index + 1) * size:
                yield index

    def _missing(self) -> Iterator[int]:
        at = self._have.find(0, self._first_missing)
        self._first_missing = at if at >= 0 else len(self._have)
        while at >= 0:
            if not self._window.on_its_way(at):
                yield at
            at = self._have.find(0, at + 1)

    def _keep(self, index: int, content: bytes, now_seconds: float) -> None:
        self._disk.patch(f"{self._name}.part", index * self._artifact.chunk_size, content)
        self._have[index] = 1
        self._got += 1
        self._unpersisted += 1
        since = now_seconds - self._persisted_seconds
        rested = since >= PERSIST_SECONDS or self._unpersisted >= MAX_UNPERSISTED_CHUNKS
        if self._unpersisted >= PERSIST_CHUNKS and rested:
            self._persisted_seconds = now_seconds
            self._persist()
        if self._got % _HASHED_TOGETHER == 0:
            self._hash_ahead(_HASHED_AT_ONCE)

    def _persist(self) -> None:
        if not self._unpersisted:
            return
        self._disk.sync(f"{self._name}.part")
        write_map(self._disk, f"{self._name}.map", self._artifact, self._have)
        self._unpersisted = 0

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

    def _finish(self) -> None:
        self._hash_ahead(self._artifact.count)
        if self._hash.hexdigest() != self._artifact.digest:
            self._recheck()
            return
        self._disk.sync(f"{self._name}.part")
        self._disk.rename(f"{self._name}.part", self._name)
        self._forget_map()
        self._outcome = Fetched(digest=self._artifact.digest)

    def _forget_map(self) -> None:
        for left in (f"{self._name}.map", f"{self._name}.map.new"):
            if self._disk.path(left).exists():
                self._disk.remove(left)

    def _recheck(self) -> None:
        """Find what the medium changed, and fetch only that again."""
        self._whole_retries += 1
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
        self._persist()
        if self._got == self._artifact.count or self._whole_retries > MAX_WHOLE_RETRIES:
            self._fail(
                WrongArtifactError.code, "its chunks are the signed ones and the whole is not"
            )

    def _refuse(self, index: int, why: str) -> None:
        self._window.refused(index)
        self._bad += 1
        if self._bad >= MAX_BAD_CHUNKS:
            self._fail(
                WrongChunkError.code, f"{self._bad} chunks were not the signed ones; last: {why}"
            )

    def _fail(self, code: str, why: str) -> None:
        self._outcome = FetchFailed(
            digest=self._artifact.digest,
            code=code,
            why=f"artifact {self._artifact.digest[:16]}: {why}",
            retryable=True,
        )


def _ranges(indexes: list[int]) -> Iterator[tuple[int, int]]:
    """Join neighbours into (first, count)."""
    first = last = indexes[0]
    for index in indexes[1:]:
        if index != last + 1:
            yield first, last - first + 1
            first = index
        last = index
    yield first, last - first + 1
