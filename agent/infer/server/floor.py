"""What the connections of one server share, and the requests that they bring."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from agent.infer.server.desk import Desk
from agent.infer.server.door import Door, Head
from agent.infer.server.replies import Reply
from agent.infer.server.tally import Tally


class Watched(Protocol):
    """A connection, as the server sees it."""

    tcp: bool

    def look(self, now: float) -> None:
        """End what has lasted too long."""

    def end_when_answered(self) -> None:
        """Close now if nothing is asked, else after the answer."""

    def abort(self) -> None:
        """End at once."""


@dataclass(slots=True, kw_only=True, eq=False)
class Floor:
    """See above.

    Attributes:
        body_bytes: Of one request.
        all_bytes: Of all bodies that are held together.
        most_connections: Of the socket and of the port, each.
        idle_seconds, receive_seconds: How long the next request is waited for, and the rest of
            one that has begun.
        held_bytes: Of bodies, now.
        open: The connections there are.
        empty: Set when the last one has gone.
        stopping: Whether each reply is the last of its connection.

    """

    door: Door
    desk: Desk
    tally: Tally
    body_bytes: int
    all_bytes: int
    most_connections: int
    idle_seconds: float
    receive_seconds: float
    held_bytes: int = 0
    open: set[Watched] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False


@dataclass(slots=True, eq=False)
class Message:
    """A request that is being received, or waits for its answer.

    Attributes:
        refusal: Its answer, where its head or size was enough to refuse it.
        chunks: Its body.
        size: Bytes of the body so far, also of what is not kept.

    """

    head: Head
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    keep_alive: bool = True
    refusal: Reply | None = None

    @property
    def body(self) -> bytes:
        """The whole of it."""
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
