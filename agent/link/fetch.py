"""One artifact over the broker: receiver-driven, resumable, every chunk checked.

Rule 1: a chunk is kept only if its hash is the one in the signed manifest, whoever
        sent it and whether it was asked for or not.
Rule 2: what is there is never asked for, not even after a kill (``part_file``).
Rule 3: a whole that is not the signed one is looked through, and only its bad chunks are
        fetched again.
Rule 4: retries are bounded, and giving up is a value. What was fetched is kept.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import inf

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
from agent.link.part_file import PartFile
from agent.link.window import Window
from agent.refusals import WrongArtifactError, WrongChunkError

MAX_BAD_CHUNKS = 16
MAX_WHOLE_RETRIES = 3
RESERVE_BYTES = 4 * 1024 * 1024


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
        self._part = PartFile(artifact, disk, folder=folder, now_seconds=now_seconds)
        self._stall_seconds = stall_seconds
        self._last_good_seconds = now_seconds
        self._window = Window(artifact.chunk_size)
        self._bad = 0
        self._whole_retries = 0
        self._outcome: Fetched | FetchFailed | None = None
        if self._part.is_stored():
            self._part.forget_map()
            self._outcome = Fetched(digest=artifact.digest)
            return
        self._part.resume()
        missing = artifact.count - self._part.got
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
        unasked = (n for n in self._part.missing() if not self._window.on_its_way(n))
        wanted = [index for _, index in zip(range(room), unasked, strict=False)]
        if not wanted:
            return ()
        for index in wanted:
            self._window.ask(index, now_seconds)
        return (ChunkRequest(a=self._artifact.digest, r=tuple(_ranges(wanted))),)

    def take(self, piece: Piece, now_seconds: float) -> Progress:
        """Check and store one piece; pieces of other artifacts change nothing."""
        artifact = self._artifact
        ours = piece.name == bytes.fromhex(artifact.digest[:16]) and piece.total == artifact.count
        if self._outcome is not None or not ours or self._part.has(piece.index):
            return self.progress(now_seconds)
        try:
            content = artifact.check_chunk(piece.index, piece.content)
        except CorruptError as why:
            self._refuse(piece.index, str(why))
            return self.progress(now_seconds)
        try:
            self._part.keep(piece.index, content, now_seconds)
            self._last_good_seconds = now_seconds
            self._window.arrived(piece.index, now_seconds)
            if self._part.is_whole:
                self._finish()
        except StoreError as why:
            self._fail(why.code, str(why))
        return self.progress(now_seconds)

    def progress(self, now_seconds: float) -> Progress:
        """Return where the transfer stands; a stalled one fails here."""
        if self._outcome is None and now_seconds - self._last_good_seconds >= self._stall_seconds:
            with suppress(StoreError):  # the next try then fetches a little more
                self._part.persist()
            self._fail(StalledError.code, f"no chunk arrived for {self._stall_seconds:.0f} s")
        if self._outcome is not None:
            return self._outcome
        return Fetching(
            digest=self._artifact.digest, chunks=self._part.got, of=self._artifact.count
        )

    def give_up(self, why: str) -> Progress:
        """End this try at once, because the other side says that it is in vain."""
        if self._outcome is None:
            with suppress(StoreError):  # the next try then fetches a little more
                self._part.persist()
            self._fail(UnavailableError.code, why)
        return self.progress(self._last_good_seconds)

    def wait_seconds(self, now_seconds: float) -> float:
        """Return how long nothing needs to be asked unless a piece arrives."""
        stalls = self._last_good_seconds + self._stall_seconds - now_seconds
        return max(0.0, min(self._window.next_loss(now_seconds), stalls))

    def _finish(self) -> None:
        """Be done, or fetch again what the medium changed."""
        if self._part.finish():
            self._outcome = Fetched(digest=self._artifact.digest)
            return
        self._whole_retries += 1
        self._part.recheck()
        if self._part.is_whole or self._whole_retries > MAX_WHOLE_RETRIES:
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
