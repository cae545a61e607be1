"""Chunks and metadata out: any device asks, any manager can answer, nothing is remembered.

Rule 1: a device pulls; what it did not ask for is never sent.
Rule 2: two token buckets, one for each device and one for all, keep artifacts from
        delaying assignments. What a bucket holds back waits in a bounded queue; what
        the queue cannot hold is forgotten, because the device will ask again.
Rule 3: pieces prove nothing here; the device checks them against what was signed.

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
from agent.contract.messages import ChunkRequest, MetaBundle, MetaRequest
from agent.contract.topics import ARTIFACT, META, Address
from fleet.errors import NotFoundError
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
        artifacts: Where the bytes are.
        device_bytes_per_second: Budget of one device.
        total_bytes_per_second: Budget of all together.

    """

    def __init__(
        self,
        artifacts: Artifacts,
        *,
        device_bytes_per_second: float = 256e6,
        total_bytes_per_second: float = 256e6,
    ) -> None:
        self._artifacts = artifacts
        self._rate = device_bytes_per_second
        self._all = Bucket(
            bytes_per_second=total_bytes_per_second, burst_bytes=total_bytes_per_second / 4
        )
        self._lanes: dict[str, _Lane] = {}
        self._files: dict[str, FileIO] = {}

    def ask(self, device: str, request: ChunkRequest) -> None:
        """Queue what a device asks for; an unknown artifact and far chunks are forgotten."""
        if not self._artifacts.has(request.a):
            return
        total = -(-self._artifacts.size(request.a) // CHUNK_BYTES)
        lane = self._lanes.setdefault(device, _Lane(self._new_bucket()))
        asked = (i for first, count in request.r for i in range(first, min(first + count, total)))
        known = set(lane.waiting)
        for index in asked:
            if len(lane.waiting) >= MAX_WAITING_CHUNKS:
                return
            if (request.a, index) not in known:
                lane.waiting.append((request.a, index))

    def ready(self, now: float, *, room_bytes: float = float("inf")) -> list[tuple[Address, bytes]]:
        """Return the pieces that may leave now, one for each device in turn.

        Args:
            now: Monotonic seconds, for the budgets.
            room_bytes: What the connection takes beside them before other messages wait.

        """
        self._all.refill(now)
        for device, lane in list(self._lanes.items()):
            lane.bucket.refill(now)
            if not lane.waiting and lane.bucket.level >= lane.bucket.burst_bytes:
                del self._lanes[device]
        pieces: list[tuple[Address, bytes]] = []
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
        return any(lane.waiting for lane in self._lanes.values())

    def _piece(self, digest: str, index: int) -> bytes | None:
        file = self._files.get(digest)
        try:
            file = self._files[digest] = file or self._artifacts.open(digest)
        except NotFoundError:  # withdrawn while it waited
            return None
        total = -(-fstat(file.fileno()).st_size // CHUNK_BYTES)
        content = pread(file.fileno(), CHUNK_BYTES, index * CHUNK_BYTES)
        name = bytes.fromhex(digest[:_DIGEST_HEAD])
        return Piece(name=name, index=index, total=total, content=content).encode()

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
