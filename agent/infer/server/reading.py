"""From bytes to requests, within limits: HTTP/1.1 (RFC 9112), parsed by llhttp (``httptools``).

Rule 1: a request is refused as soon as its head is known, before its body is read. Where
        the next request can still be found behind it, the connection goes on.
Rule 2: what is held is bounded: one head, one body, and all bodies of the server together.
"""

import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import httptools

from agent.infer.server.door import Head
from agent.infer.server.floor import Floor, Message
from agent.infer.server.replies import Reply, of_bug, refuse

log = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 16 * 1024
_KNOWN: Final = {
    b"host": "host",
    b"origin": "origin",
    b"sec-fetch-site": "fetch_site",
    b"authorization": "authorization",
    b"content-length": "content_length",
    b"inference-header-content-length": "json_length",
    b"content-encoding": "encoding",
    b"expect": "expect",
}
"""Headers that matter here, and where they go in ``Head``."""
_AROUND_TARGET: Final = len("GET  HTTP/1.1\r\n")
_AROUND_HEADER: Final = len(": \r\n")
_AROUND_CHUNK: Final = 8
"""Bytes around each byte of a body that comes in chunks of one."""


class Reader:
    """Reads the requests of one connection.

    Args:
        floor: Of the server.
        client: Its name at the door.
        tcp: Whether it came over the network.
        arrived: Takes each request, in order, whole or refused.
        continues: Called when a client waits to hear that its body is wanted.

    Attributes:
        receiving: The request that has begun and is not whole.
        since: When it began, on the monotonic clock.
        deaf: Whether nothing that still comes is looked at.

    """

    def __init__(
        self,
        floor: Floor,
        client: str,
        *,
        tcp: bool,
        arrived: Callable[[Message], None],
        continues: Callable[[], None],
    ) -> None:
        self.receiving: Message | None = None
        self.since = 0.0
        self.deaf = False
        self._floor = floor
        self._client = client
        self._tcp = tcp
        self._arrived = arrived
        self._continues = continues
        self._in_head = False
        self._head_bytes = 0
        self._accounted = 0
        self._unended = 0
        self._last: Message | None = None
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, received: bytes) -> None:
        """Take what came."""
        if self.deaf:
            return
        self._accounted = 0
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserUpgrade:  # is not offered: the request is answered as it is
            self.deaf = True
            if self._last is not None:
                self._last.keep_alive = False
        except httptools.HttpParserCallbackError as why:
            log.exception("connection=failed client=%s", self._client)
            self.end(of_bug(why))
        except httptools.HttpParserError as why:
            self._fail(f"this is no HTTP/1.1: {str(why)[:200]}")
        else:
            self._look_at_the_rest(len(received))

    def end(self, refusal: Reply) -> None:
        """Refuse what is being received, in its turn, and hear nothing more."""
        if self.deaf:
            return
        self.deaf = True
        message, self.receiving = self.receiving, None
        if message is None:
            message = Message(Head(client=self._client, tcp=self._tcp))
        message.refusal, message.keep_alive = refusal, False
        self._arrived(message)

    # what the parser calls

    def on_message_begin(self) -> None:
        """Begin a request."""
        if not self.deaf:
            self.receiving = Message(Head(client=self._client, tcp=self._tcp))
            self._in_head, self._head_bytes = True, 0
            self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        if self.receiving is not None:
            self.receiving.head.target += url
            self._head_grew(len(url) + _AROUND_TARGET)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        message = self.receiving
        if message is None:
            return
        size = len(name) + len(value) + _AROUND_HEADER
        self._accounted += size
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._head_grew(0)
        known = _KNOWN.get(name.lower())
        if known is not None:
            if getattr(message.head, known):
                message.refusal = refuse(
                    HTTPStatus.BAD_REQUEST, "http", f"the header {name.decode()} stands there twice"
                )
            setattr(message.head, known, value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Decide whether the request may come in."""
        message = self.receiving
        if message is None:
            return
        self._in_head = False
        head = message.head
        head.method = self._parser.get_method()
        message.keep_alive = self._parser.should_keep_alive()
        length = int(head.content_length) if head.content_length else 0
        refusal = message.refusal or self._floor.door.refuse(head)
        if refusal is None and length > self._floor.body_bytes:
            refusal = self._too_large(f"a body of {length} bytes")
        message.refusal = refusal
        if refusal is not None and (head.expect or length > self._floor.body_bytes):
            self.end(refusal)
        elif head.expect:
            self._continues()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        message, floor = self.receiving, self._floor
        self._accounted += len(body)
        if message is None:
            return
        message.size += len(body)
        if message.size > floor.body_bytes:
            self.end(self._too_large("a body"))
        elif message.refusal is None:
            message.chunks.append(body)
            floor.held_bytes += len(body)
            if floor.held_bytes > floor.all_bytes:
                sentence = "too many large bodies are being received: ask again"
                self.end(refuse(HTTPStatus.SERVICE_UNAVAILABLE, "bodies", sentence))

    def on_message_complete(self) -> None:
        """Hand the request on."""
        message, self.receiving = self.receiving, None
        if message is not None:
            self._last = message
            self._arrived(message)

    def _look_at_the_rest(self, size: int) -> None:
        """Count what came of a header or trailer that has not ended: the parser collects it."""
        rest = max(0, size - self._accounted)
        self._unended = rest if self._accounted else self._unended + rest
        room = MAX_HEAD_BYTES + _AROUND_CHUNK * self._accounted
        if self._in_head:
            room = MAX_HEAD_BYTES - self._head_bytes
        if self.receiving is not None and self._unended > room:
            self._head_grew(MAX_HEAD_BYTES)

    def _fail(self, sentence: str) -> None:
        self.end(refuse(HTTPStatus.BAD_REQUEST, "http", sentence))

    def _head_grew(self, size: int) -> None:
        self._head_bytes += size
        self._accounted += size
        if self._head_bytes > MAX_HEAD_BYTES:
            sentence = f"the head of the request is over {MAX_HEAD_BYTES} bytes"
            self.end(refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head", sentence))

    def _too_large(self, what: str) -> Reply:
        sentence = f"{what} is over the limit of {self._floor.body_bytes} bytes"
        return refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "oversized", sentence)
