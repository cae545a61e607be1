"""Chunks and metadata out: any device asks, any manager can answer, nothing is remembered.

Rule 1: a device pulls; what it did not ask for is never sent to it alone. What several
        ask for travels once for all that listen (``fanout``), paced by a third bucket.
Rule 2: two token buckets, one for each device and one for all, keep artifacts from
        delaying assignments. What a bucket holds back waits in a bounded queue; what
        the queue cannot hold is forgotten, because the device will ask again.
Rule 3: what is not kept here is refused at once, so that nobody waits for it.
Rule 4: pieces prove nothing here; the device checks them against what was signed.

Token bucket: RFC 2697's committed rate and burst.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from os import fstat, pread

from agent.contract.codec import encode
from agent.contract.frames import Piece, split_file
from agent.contract.limits import CHUNK_BYTES, MAX_CHUNKS_PER_REQUEST
from agent.contract.messages import ChunkRefusal, ChunkRequest, MetaBundle, MetaRequest
from agent.contract.topics import (
    ARTIFACT,
    ARTIFACT_CAST,
    ARTIFACT_REFUSAL,
    EVERYBODY,
    META,
    Address,
)
from fleet.errors import NotFoundError
from fleet.ingest.fanout import Fanout
from fleet.registry.artifacts import Artifacts

MAX_WAITING_CHUNKS = 4 * MAX_CHUNKS_PER_REQUEST
_DIGEST_HEAD = 16


@dataclass(slots=True, kw_only=True)
class Bucket:
    """Bytes that may leave now; refilled by the clock that the caller hands in."""

    bytes_per_second: float
    burst_bytes: float
    level: float = 0.0
    at: float = 0.0

    def refill(self, now: float) -> None:
        """Add what has accrued since the last look (monotonic seconds)."""
        accrued = max(0.0, now - self.at) * self.bytes_per_second
        self.level = min(self.burst_bytes, self.level + accrued)
        self.at = now


@dataclass(slots=True)
class _Lane:
    bucket: Bucket
    waiting: deque[tuple[str, int]] = field(default_factory=deque)


class ChunkServer:
    """Answers chunk requests within byte budgets.

    Args:
        artifacts: Where the bytes of releases are.
        records: Where those of federated rounds are.
        device_bytes_per_second: Budget of one device.
        total_bytes_per_second: Budget of all together.
        cast_bytes_per_second: Pace of what travels for many at once; the slowest of them
            should keep up.

    """

    def __init__(
        self,
        artifacts: Artifacts,
        records: Artifacts | None = None,
        *,
        device_bytes_per_second: float = 256e6,
        total_bytes_per_second: float = 256e6,
        cast_bytes_per_second: float = 96e6,
    ) -> None:
        self._shelves = (artifacts,) if records is None else (artifacts, records)
        self._rate = device_bytes_per_second
        self._all = Bucket(
            bytes_per_second=total_bytes_per_second, burst_bytes=total_bytes_per_second / 4
        )
        self._pace = Bucket(
            bytes_per_second=cast_bytes_per_second,
            burst_bytes=max(cast_bytes_per_second / 16, 2.0 * CHUNK_BYTES),
        )
        self._fanout = Fanout()
        self._refusals: dict[tuple[str, str], None] = {}
        self._now = 0.0
        self._lanes: dict[str, _Lane] = {}
        self._files: dict[str, FileIO] = {}

    def ask(self, device: str, request: ChunkRequest) -> None:
        """Queue what a device asks for; far chunks are forgotten, an unknown artifact refused."""
        shelf = self._shelf_of(request.a)
        if shelf is None:
            if len(self._refusals) < MAX_WAITING_CHUNKS:
                self._refusals[device, request.a] = None
            return
        total = -(-shelf.size(request.a) // CHUNK_BYTES)
        lane = self._lanes.setdefault(device, _Lane(self._new_bucket()))
        asked = [i for first, count in request.r for i in range(first, min(first + count, total))]
        if request.g:  # the time of the last look is near enough
            asked = self._fanout.take(
                device, request.a, asked, total, self._now, heard=request.heard
            )
        known = set(lane.waiting)
        for index in asked:
            if len(lane.waiting) >= MAX_WAITING_CHUNKS:
                return
            if (request.a, index) not in known:
                lane.waiting.append((request.a, index))

    def ready(self, now: float, *, room_bytes: float = float("inf")) -> list[tuple[Address, bytes]]:
        """Return what may leave now: refusals, casts, then a piece for each device in turn.

        Args:
            now: Monotonic seconds, for the budgets.
            room_bytes: What the connection takes beside them before other messages wait.

        """
        self._now = now
        self._all.refill(now)
        for device, lane in list(self._lanes.items()):
            lane.bucket.refill(now)
            if not lane.waiting and lane.bucket.level >= lane.bucket.burst_bytes:
                del self._lanes[device]
        pieces = [*self._refused(), *self._cast(now, room_bytes)]
        room_bytes -= sum(len(piece) for _, piece in pieces)
        turn = deque(device for device, lane in self._lanes.items() if lane.waiting)
        while turn and min(self._all.level, room_bytes) >= CHUNK_BYTES:
            device = turn.popleft()
            lane = self._lanes.pop(device)
            self._lanes[device] = lane  # last in the next turn, so that everybody has one
            if lane.bucket.level < CHUNK_BYTES:
                continue
            digest, index = lane.waiting.popleft()
            piece = self._piece(digest, index)
            if piece is not None:
                lane.bucket.level -= CHUNK_BYTES
                self._all.level -= CHUNK_BYTES
                room_bytes -= CHUNK_BYTES
                pieces.append((ARTIFACT.at(device, digest[:_DIGEST_HEAD]), piece))
            if lane.waiting:
                turn.append(device)
        self._close_files()
        return pieces

    @property
    def waiting(self) -> bool:
        """Whether a budget, or the connection, holds something back."""
        return self._fanout.waiting or any(lane.waiting for lane in self._lanes.values())

    def _refused(self) -> list[tuple[Address, bytes]]:
        why = "the manager keeps no such artifact; it may have been withdrawn"
        refusals = [
            (ARTIFACT_REFUSAL.at(device, digest[:_DIGEST_HEAD]), ChunkRefusal(a=digest, why=why))
            for device, digest in self._refusals
        ]
        self._refusals.clear()
        return [(address, encode(refusal)) for address, refusal in refusals]

    def _cast(self, now: float, room_bytes: float) -> list[tuple[Address, bytes]]:
        self._pace.refill(now)
        pieces: list[tuple[Address, bytes]] = []
        while min(self._pace.level, self._all.level, room_bytes) >= CHUNK_BYTES:
            due = self._fanout.next(now)
            if due is None:
                break
            digest, index = due
            piece = self._piece(digest, index)
            if piece is not None:
                self._pace.level -= CHUNK_BYTES
                self._all.level -= CHUNK_BYTES
                room_bytes -= CHUNK_BYTES
                pieces.append((ARTIFACT_CAST.at(EVERYBODY, digest[:_DIGEST_HEAD]), piece))
        return pieces

    def _piece(self, digest: str, index: int) -> bytes | None:
        file = self._files.get(digest)
        try:
            if file is None:
                shelf = self._shelf_of(digest) or self._shelves[0]
                file = self._files[digest] = shelf.open(digest)
        except NotFoundError:  # withdrawn while it waited
            return None
        total = -(-fstat(file.fileno()).st_size // CHUNK_BYTES)
        content = pread(file.fileno(), CHUNK_BYTES, index * CHUNK_BYTES)
        name = bytes.fromhex(digest[:_DIGEST_HEAD])
        return Piece(name=name, index=index, total=total, content=content).encode()

    def _shelf_of(self, digest: str) -> Artifacts | None:
        return next((shelf for shelf in self._shelves if shelf.has(digest)), None)

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _new_bucket(self) -> Bucket:
        return Bucket(bytes_per_second=self._rate, burst_bytes=self._rate / 4, level=self._rate / 4)


def metadata_pieces(
    device: str, request: MetaRequest, files: Mapping[str, bytes]
) -> list[tuple[Address, bytes]]:
    """Return the answer to a metadata request, cut into pieces."""
    bundle = encode(MetaBundle(files=dict(files)))
    pieces = split_file(bytes.fromhex(request.id), bundle)
    return [(META.at(device), piece.encode()) for piece in pieces]
