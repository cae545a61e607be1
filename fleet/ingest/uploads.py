"""Answers of rounds that are too large for one message: fetched from devices, chunk by chunk.

    answer with ``upload`` ──▶ waiting ──▶ active: UploadRequest ⇄ chunks ──▶ the attachment

Rule 1: the manager asks for chunks, and takes no others: a few devices at a time, a few
        chunks of each, so that ten thousand answers need no more memory or disk than four.
Rule 2: a chunk counts by its hash, which the signed answer names; it goes to a file at once.
        What came stays there, and is not asked for again after a restart.
Rule 3: leave to upload ends when nothing came for a while: another device has its turn, and
        this one another, some times. Whoever is not wanted any more is never asked.

Time is an argument: monotonic seconds.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.contract.codec import encode
from agent.contract.frames import Piece
from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.manifest import Artifact
from agent.contract.rounds import TaskAnswer, UploadRequest
from agent.contract.topics import UPLOAD_REQUEST, Address
from agent.errors import CorruptError
from fleet.errors import DiskFullError, RefusedError
from fleet.registry.room import require_room

AT_ONCE: Final = 4
WINDOW_CHUNKS: Final = 16
REFILL_CHUNKS: Final = 8
AGAIN_SECONDS: Final = 2.0
STALL_SECONDS: Final = 20.0
MAX_TURNS: Final = 5
LEFTOVER_SECONDS: Final = 2 * 86_400

Key = tuple[str, str]
"""Device and task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """An answer whose attachment is whole."""

    device: str
    answer: TaskAnswer
    attachment: bytes


@dataclass(slots=True, kw_only=True)
class _Upload:
    device: str
    answer: TaskAnswer
    artifact: Artifact
    path: Path
    turns: int = 0
    have: bytearray = field(default_factory=bytearray)
    asked: dict[int, float] = field(default_factory=dict)
    good_at: float = 0.0

    @property
    def whole(self) -> bool:
        return 0 not in self.have


class Uploads:
    """What waits to be uploaded, and what is.

    Args:
        folder: Of the parts; made when the first comes.
        wanted: Whether an answer of (device, task) would still be counted.
        reserve_bytes: What stays free on its disk.

    """

    def __init__(
        self, folder: Path, wanted: Callable[[str, TaskAnswer], bool], *, reserve_bytes: int = 0
    ) -> None:
        self._folder = folder
        self._wanted = wanted
        self._reserve_bytes = reserve_bytes
        self._waiting: OrderedDict[Key, _Upload] = OrderedDict()
        self._active: dict[Key, _Upload] = {}

    def wants(self, device: str, answer: TaskAnswer) -> bool:
        """Return whether an answer would still be counted."""
        return self._wanted(device, answer)

    def offer(self, device: str, answer: TaskAnswer) -> None:
        """Let an answer wait for its turn; the same one again changes nothing.

        Raises:
            RefusedError: It is larger than an answer may be.

        """
        key, artifact = (device, answer.task), answer.upload
        if artifact is None or not 0 < artifact.size <= MAX_FLOWER_BYTES or not artifact.chunks:
            raise RefusedError(f"an upload is of chunks, and of at most {MAX_FLOWER_BYTES} bytes")
        known = self._active.get(key) or self._waiting.get(key)
        if known is not None and known.artifact == artifact:
            known.turns = 0
            return
        self._drop(key)
        path = self._folder / f"{device}.{artifact.digest}"
        self._waiting[key] = _Upload(device=device, answer=answer, artifact=artifact, path=path)

    def take(self, device: str, piece: Piece, now: float) -> None:
        """Keep a chunk that was asked for; any other is dropped.

        Raises:
            RefusedError: The disk refuses.

        """
        for upload in self._active.values():
            if upload.device == device and upload.artifact.digest[:16] == piece.name.hex():
                self._keep(upload, piece, now)
                return

    def due(self, now: float) -> list[tuple[Address, bytes]]:
        """Return what devices are to be asked for now.

        Raises:
            RefusedError: The disk refuses; the answer of one device waits no longer.

        """
        for key, upload in list(self._active.items()):
            if not self._wanted(upload.device, upload.answer):
                self._drop(key)
            elif now - upload.good_at >= STALL_SECONDS and not upload.whole:
                del self._active[key]
                upload.turns += 1
                if upload.turns < MAX_TURNS:
                    self._waiting[key] = upload
        while self._waiting and len(self._active) < AT_ONCE:
            key, upload = self._waiting.popitem(last=False)
            if self._wanted(upload.device, upload.answer):
                self._begin(upload, now)
                self._active[key] = upload
        return [request for upload in self._active.values() for request in self._ask(upload, now)]

    def finished(self) -> Iterator[Uploaded]:
        """Yield the answers that are whole now; ``done`` lets go of their files.

        Raises:
            RefusedError: The disk refuses.

        """
        for key, upload in list(self._active.items()):
            if key not in self._active or not upload.whole:
                continue
            del self._active[key]
            with _named(upload.path):
                content = upload.path.read_bytes()
            yield Uploaded(device=upload.device, answer=upload.answer, attachment=content)

    def done(self, uploaded: Uploaded) -> None:
        """Let go of the file of an answer that was counted, or never will be."""
        digest = uploaded.answer.upload.digest if uploaded.answer.upload else ""
        with _named(self._folder):
            (self._folder / f"{uploaded.device}.{digest}").unlink(missing_ok=True)

    def tidy(self, now_ms: int) -> None:
        """Remove parts that nobody goes on with."""
        used = {u.path for u in (*self._active.values(), *self._waiting.values())}
        with _named(self._folder):
            for path in self._folder.iterdir() if self._folder.is_dir() else ():
                old = now_ms / 1000 - path.stat().st_mtime > LEFTOVER_SECONDS
                if old and path not in used:
                    path.unlink(missing_ok=True)

    def _drop(self, key: Key) -> None:
        upload = self._active.pop(key, None) or self._waiting.pop(key, None)
        if upload is not None:
            with _named(upload.path):
                upload.path.unlink(missing_ok=True)

    def _begin(self, upload: _Upload, now: float) -> None:
        """Open the file, and look which chunks an earlier try brought."""
        artifact = upload.artifact
        upload.have, upload.good_at = bytearray(artifact.count), now
        upload.asked.clear()
        with _named(upload.path):
            self._folder.mkdir(parents=True, exist_ok=True)
            resumed = upload.path.exists() and upload.path.stat().st_size == artifact.size
            if not resumed:
                require_room(self._folder, artifact.size, self._reserve_bytes)
                with upload.path.open("wb") as file:
                    file.truncate(artifact.size)
                return
            with upload.path.open("rb") as file:
                for index in range(artifact.count):
                    upload.have[index] = _fits(artifact, index, file.read(artifact.chunk_size))

    def _keep(self, upload: _Upload, piece: Piece, now: float) -> None:
        index, artifact = piece.index, upload.artifact
        if index not in upload.asked or not _fits(artifact, index, piece.content):
            return
        with _named(upload.path), upload.path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), piece.content, index * artifact.chunk_size)
        del upload.asked[index]
        upload.have[index] = 1
        upload.good_at = now

    def _ask(self, upload: _Upload, now: float) -> Iterator[tuple[Address, bytes]]:
        lost = {i for i, since in upload.asked.items() if now - since >= AGAIN_SECONDS}
        for index in lost:
            del upload.asked[index]
        room = WINDOW_CHUNKS - len(upload.asked)
        if upload.whole or (room < REFILL_CHUNKS and not lost):
            return
        missing = (i for i, there in enumerate(upload.have) if not there and i not in upload.asked)
        wanted = [index for _, index in zip(range(room), missing, strict=False)]
        if wanted:
            upload.asked.update(dict.fromkeys(wanted, now))
            answer = upload.answer
            ranges = tuple((index, 1) for index in wanted)
            request = UploadRequest(task=answer.task, a=upload.artifact.digest, r=ranges)
            yield UPLOAD_REQUEST.at(upload.device, answer.run), encode(request)


def _fits(artifact: Artifact, index: int, content: bytes) -> bool:
    try:
        artifact.check_chunk(index, content)
    except CorruptError:
        return False
    return True


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise RefusedError(f"upload {path}: {why.strerror or why}") from why
    except DiskFullError as why:
        raise RefusedError(str(why)) from why
