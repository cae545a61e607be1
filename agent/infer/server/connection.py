"""One connection: requests in, replies out in the same order.

Rule 1: one request of a connection is answered at a time; a few may wait behind it, and
        then nothing more is read.
Rule 2: every wait has an end: for a head, for a body, for the next request, for a reader of
        replies. ``look`` is called once a second for all connections, not a timer for each.
Rule 3: a connection that is ended while its client still sends is half closed first, so that
        the last reply arrives.
"""

import asyncio
import logging
import socket
import struct
import time
from collections import deque
from functools import partial
from http import HTTPStatus
from typing import Final, cast

from agent.infer.server.desk import Pending
from agent.infer.server.floor import Floor, Message
from agent.infer.server.reading import Reader
from agent.infer.server.replies import CONTINUE, Reply, refuse

log = logging.getLogger(__name__)

MAX_PIPELINED: Final = 16
LINGER_SECONDS: Final = 2.0
WRITE_SECONDS: Final = 30.0
_PEER: Final = struct.Struct("3i")


class Connection(asyncio.Protocol):
    """See the rules above; made by the server for whoever connects."""

    def __init__(self, floor: Floor, *, tcp: bool) -> None:
        self.tcp = tcp
        self._floor = floor
        self._client = ""
        self._transport: asyncio.Transport | None = None
        self._reader: Reader | None = None
        self._arrived: deque[Message] = deque()
        self._answering: Message | None = None
        self._pending: Pending | None = None
        self._working = False
        self._heard_all = False
        self._patience = floor.receive_seconds
        self._since = time.monotonic()
        self._blocked_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; one connection too many is told so."""
        self._transport = cast("asyncio.Transport", transport)
        self._client = _name_client(transport, tcp=self.tcp)
        self._reader = Reader(
            self._floor,
            self._client,
            tcp=self.tcp,
            arrived=self._queue,
            continues=self._say_continue,
        )
        floor = self._floor
        floor.open.add(self)
        if sum(one.tcp is self.tcp for one in floor.open) > floor.most_connections:
            sentence = f"{floor.most_connections} connections are open already: ask again"
            self._reader.end(refuse(HTTPStatus.SERVICE_UNAVAILABLE, "connections", sentence))
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything that was asked here."""
        del exc
        self._transport = None
        if self._pending is not None:
            self._pending.drop()
        if self._reader is not None and self._reader.receiving is not None:
            self._forget(self._reader.receiving)
        for message in self._arrived:
            self._forget(message)
        if self._answering is not None:
            self._forget(self._answering)
        self._arrived.clear()
        self._answering = None
        self._floor.open.discard(self)
        if not self._floor.open:
            self._floor.empty.set()

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer what is whole."""
        if self._reader is not None:
            self._reader.feed(data)
            self._go_on()

    def eof_received(self) -> bool:
        """Stay open for the answer: who shuts down the sending half may still read."""
        self._heard_all = True
        return self._answering is not None or bool(self._arrived)

    def pause_writing(self) -> None:
        """Answer nothing more until the client reads."""
        self._blocked_since = time.monotonic()

    def resume_writing(self) -> None:
        """Go on."""
        self._blocked_since = None
        self._since = time.monotonic()
        self._go_on()

    def look(self, now: float) -> None:
        """End what has lasted too long."""
        reader = self._reader
        if self._transport is None or reader is None:
            return
        waited = now - self._since
        if self._blocked_since is not None:
            if now - self._blocked_since > WRITE_SECONDS:
                self._transport.abort()
        elif reader.deaf:
            if self._idle and waited > LINGER_SECONDS:
                self._transport.abort()
        elif reader.receiving is not None:
            if now - reader.since > self._floor.receive_seconds and self._answering is None:
                seconds = self._floor.receive_seconds
                sentence = f"the request did not come whole within {seconds:g} seconds"
                reader.end(refuse(HTTPStatus.REQUEST_TIMEOUT, "slow", sentence))
                self._go_on()
        elif self._idle and waited > self._patience:
            self._transport.close()

    def end_when_answered(self) -> None:
        """Close now if nothing is asked, else after the answer."""
        receiving = self._reader is not None and self._reader.receiving is not None
        if self._idle and not receiving and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def _idle(self) -> bool:
        return self._answering is None and not self._arrived

    def _queue(self, message: Message) -> None:
        if message.refusal is not None:
            self._forget(message)
        self._arrived.append(message)
        if len(self._arrived) > MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()

    def _say_continue(self) -> None:
        if self._idle and self._transport is not None:
            self._transport.write(CONTINUE)

    def _go_on(self) -> None:
        """Answer what arrived, one after the other."""
        if self._working:
            return
        self._working = True
        try:
            while self._arrived and self._answering is None and self._blocked_since is None:
                self._answering = message = self._arrived.popleft()
                if len(self._arrived) == MAX_PIPELINED and self._transport is not None:
                    self._transport.resume_reading()
                self._pending = None
                if message.refusal is not None:
                    self._deliver(message, message.refusal)
                else:
                    self._pending = self._floor.desk.answer(
                        message.head, message.body, partial(self._deliver, message)
                    )
        finally:
            self._working = False

    def _deliver(self, message: Message, reply: Reply) -> None:
        transport, reader = self._transport, self._reader
        if transport is None or reader is None or self._answering is not message:
            return
        self._count(reply)
        self._forget(message)
        self._answering = None
        self._since, self._patience = time.monotonic(), self._floor.idle_seconds
        ends = self._floor.stopping or (self._heard_all and not self._arrived)
        keep_alive = message.keep_alive and not ends
        transport.write(reply.written(keep_alive=keep_alive))
        if not keep_alive:
            self._end(transport, reader)
        else:
            self._go_on()

    def _count(self, reply: Reply) -> None:
        times = self._floor.tally.count(reply)
        if reply.reason and times.bit_count() == 1:  # 1, 2, 4, …: nobody fills the disk
            log.warning(
                "request=refused client=%s status=%d reason=%s times=%d",
                self._client,
                reply.status,
                reply.reason,
                times,
            )

    def _end(self, transport: asyncio.Transport, reader: Reader) -> None:
        for message in self._arrived:
            self._forget(message)
        self._arrived.clear()
        if reader.deaf and not self._heard_all:
            transport.write_eof()  # it still sends: a close would take the reply from it
        else:
            reader.deaf = True
            transport.close()

    def _forget(self, message: Message) -> None:
        self._floor.held_bytes -= sum(map(len, message.chunks))
        message.chunks.clear()


def _name_client(transport: asyncio.BaseTransport, *, tcp: bool) -> str:
    if tcp:
        peer = transport.get_extra_info("peername")
        return str(peer[0]) if peer else "a stranger"
    there = transport.get_extra_info("socket")
    raw = there.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return f"uid {_PEER.unpack(raw)[1]}"
