"""The one queue that the daemon's loop reads.

Rule 1: ``put`` never blocks, whoever calls it; network and inference threads only put.
Rule 2: CONTROL is never dropped. It is bounded by its writers: the broker sends no more
        QoS 1 messages than the receive maximum that the agent announced.
Rule 3: CHUNKS (everything of QoS 0) has a cap in bytes and LOCAL a cap in items; what
        does not fit is dropped and counted, because its receiver asks again.
Rule 4: ``get`` serves CONTROL first, then LOCAL, then CHUNKS, each in order.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from threading import Condition

from agent.contract.topics import Address

CHUNK_LANE_BYTES = 4 * 1024 * 1024
LOCAL_LANE_ITEMS = 1024


class Lane(Enum):
    """How an item may be treated when the reader is slow."""

    CONTROL = "control"
    LOCAL = "local"
    CHUNKS = "chunks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker took us and the subscriptions stand.

    Attributes:
        session_present: The broker kept the session and what was queued in it.
        epoch: Number of this connection in this process, as the Will has it.
        place: Number of the address that it was made to; see ``Broker.redirect``.

    """

    session_present: bool
    epoch: int
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The broker cannot be reached or turned us away; the link tries again by itself.

    Attributes:
        reason: One sentence.
        code: MQTT 5 reason code of the refusal, None where no broker answered.
        retry_seconds: When the link tries again.
        place: Number of the address that was tried.

    """

    reason: str
    code: int | None
    retry_seconds: float
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """An established connection ended."""

    why: str
    retry_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the broker waits for: valid on the connection of ``epoch`` only."""

    epoch: int
    mid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One message on one of our topics; ``receipt`` is None for QoS 0."""

    address: Address
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    retained: bool = False
    receipt: Receipt | None = None


class Inbox:
    """A bounded queue with lanes; safe for any number of threads."""

    def __init__(
        self, *, chunk_bytes: int = CHUNK_LANE_BYTES, local_items: int = LOCAL_LANE_ITEMS
    ) -> None:
        self._lanes: dict[Lane, deque[tuple[object, int]]] = {lane: deque() for lane in Lane}
        self._in_order = tuple(self._lanes.values())
        self._changed = Condition()
        self._chunk_room = chunk_bytes
        self._local_items = local_items
        self._dropped = dict.fromkeys(Lane, 0)

    def put(self, lane: Lane, item: object, *, size_bytes: int = 0) -> bool:
        """Add an item; False when its lane is full and the item was dropped."""
        with self._changed:
            if not self._fits(lane, size_bytes):
                self._dropped[lane] += 1
                return False
            if lane is Lane.CHUNKS:
                self._chunk_room -= size_bytes
            self._lanes[lane].append((item, size_bytes))
            self._changed.notify()
            return True

    def get(self, timeout_seconds: float | None) -> object | None:
        """Return the next item, or None after the time-out; None waits for ever."""
        with self._changed:
            if not any(self._in_order):
                self._changed.wait_for(lambda: any(self._in_order), timeout_seconds)
            for waiting in self._in_order:
                if waiting:
                    item, size_bytes = waiting.popleft()
                    if waiting is self._lanes[Lane.CHUNKS]:
                        self._chunk_room += size_bytes
                    return item
            return None

    def dropped(self, lane: Lane) -> int:
        """Return how many items did not fit since the start."""
        with self._changed:
            return self._dropped[lane]

    def _fits(self, lane: Lane, size_bytes: int) -> bool:
        match lane:
            case Lane.CONTROL:
                return True
            case Lane.LOCAL:
                return len(self._lanes[lane]) < self._local_items
            case Lane.CHUNKS:
                return size_bytes <= self._chunk_room
