"""Answers to tasks, kept on the medium and sent: in one message, or in chunks on request.

Rule 1: an answer is on the medium before it is sent, and sent again when it is asked for.
Rule 2: one that is too large for a message is announced, and its chunks are sent as the
        manager asks for them. Requests are unsigned: they can bring the manager nothing
        but this answer, and each connection sends it a few times at most.
Rule 3: the oldest answers make room for new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from agent.contract.codec import decode, encode
from agent.contract.frames import Piece, pack_parcel, unpack_parcel
from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.contract.rounds import Task, TaskAnswer, UploadRequest
from agent.contract.shared_arrays import in_chunks
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import StoreError

FOLDER: Final = "answers"
MAX_KEPT_ANSWERS: Final = 32
MAX_KEPT_BYTES: Final = 64 * 1024 * 1024
MAX_SENT_TIMES: Final = 4
_ROOM_BYTES: Final = 1024
"""Left for the topic and the stamp of an answer that is sent in one message."""

Publish = Callable[[str, bytes], bool]


@dataclass(slots=True)
class _Open:
    """The large answer that is being asked for; ``begins`` is where its attachment does."""

    name: str
    told: TaskAnswer
    begins: int
    sent: dict[int, int] = field(default_factory=dict)


class RoundAnswers:
    """The answers of this device.

    Args:
        disk: The state directory.
        answer: Publishes a parcel for a run; False when offline.
        chunk: Publishes a piece by the head of its attachment's digest; False when offline.

    """

    def __init__(self, disk: Disk, answer: Publish, chunk: Publish) -> None:
        self._disk = disk
        self._answer = answer
        self._chunk = chunk
        self._open: _Open | None = None

    def has(self, task: Task) -> bool:
        """Return whether a task is answered."""
        return self._disk.path(_place(task.run, task.task)).is_file()

    def keep(self, said: TaskAnswer, attachment: bytes) -> None:
        """Keep an answer, announced in chunks where it does not fit into one message.

        Raises:
            DiskFullError, StoreError: The disk refuses.

        """
        self._disk.replace(_place(said.run, said.task), framed(said, attachment))
        names = [f"{FOLDER}/{name}" for name in self._disk.names(FOLDER)]
        told = {name: self._disk.path(name).stat() for name in names}
        oldest = sorted(names, key=lambda name: told[name].st_mtime_ns)
        total = sum(stat.st_size for stat in told.values())
        for number, name in enumerate(oldest[:-1]):
            if len(oldest) - number <= MAX_KEPT_ANSWERS and total <= MAX_KEPT_BYTES:
                return
            self._disk.remove(name)
            total -= told[name].st_size

    def send(self, run: str, task: str) -> bool:
        """Send a kept answer, or announce it; False where there is none, or when offline."""
        content = self._disk.read(_place(run, task))
        return content is not None and self._answer(run, shortened(content))

    def connected(self) -> None:
        """Count anew what is sent on this connection."""
        self._open = None

    def asked(self, run: str, wanted: UploadRequest) -> None:
        """Send chunks of an answer.

        Raises:
            StoreError: The disk refuses.

        """
        opened = self._find(run, wanted)
        if opened is None or opened.told.upload is None:
            log.info(event("upload-unknown", run=run, task=wanted.task))
            return
        artifact = opened.told.upload
        name = bytes.fromhex(artifact.digest[:16])
        try:
            with self._disk.path(opened.name).open("rb") as file:
                for index in (i for first, count in wanted.r for i in range(first, first + count)):
                    if index >= artifact.count or opened.sent.get(index, 0) >= MAX_SENT_TIMES:
                        continue
                    opened.sent[index] = opened.sent.get(index, 0) + 1
                    file.seek(opened.begins + index * artifact.chunk_size)
                    left = artifact.size - index * artifact.chunk_size
                    content = file.read(min(artifact.chunk_size, left))
                    piece = Piece(name=name, index=index, total=artifact.count, content=content)
                    self._chunk(artifact.digest[:16], piece.encode())
        except OSError as why:
            raise StoreError(f"{opened.name}: {why.strerror or why}") from why

    def _find(self, run: str, wanted: UploadRequest) -> _Open | None:
        name, known = _place(run, wanted.task), self._open
        if known is None or known.name != name:
            content = self._disk.read(name)
            if content is None:
                return None
            document, attachment = unpack_parcel(content)
            told = decode(TaskAnswer, document)
            known = self._open = _Open(name, told, len(content) - len(attachment))
        upload = known.told.upload
        return known if upload is not None and upload.digest == wanted.a else None


def framed(said: TaskAnswer, attachment: bytes) -> bytes:
    """Return an answer as it is kept: with the description of its chunks where it is large."""
    parcel = pack_parcel(encode(said), attachment)
    if len(parcel) <= MAX_PAYLOAD_BYTES - _ROOM_BYTES:
        return parcel
    return pack_parcel(encode(replace(said, upload=in_chunks(attachment))), attachment)


def shortened(parcel: bytes) -> bytes:
    """Return a kept answer as it is sent first: without what is sent in chunks."""
    if len(parcel) <= MAX_PAYLOAD_BYTES - _ROOM_BYTES:
        return parcel
    document, _ = unpack_parcel(parcel)
    announced = decode(TaskAnswer, document).upload is not None  # by earlier agents, none is
    return pack_parcel(document, b"") if announced else parcel


def _place(run: str, task: str) -> str:
    return f"{FOLDER}/{run}.{task}"
