"""One connection to a worker: HTTP/1.1 requests over a Unix socket, one after the other.

Rule 1: a worker answers with a Content-Length; head and body have their limits, and are
        refused before anything is made of them.
Rule 2: a time-out is over the whole exchange, however slowly the bytes come.
Rule 3: after any failure the connection is of no more use.
"""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from agent.errors import MalformedError
from agent.infer.oip.exchange import Framed

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 1024**3
_BLOCK: Final = 256 * 1024
_SMALL: Final = 64 * 1024
"""Up to here one copy is cheaper than another system call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """One response.

    Attributes:
        status: Of HTTP.
        json_length: How much of the body is JSON, where tensors follow it; else None.
        body: All of it; nobody else holds it.

    """

    status: int
    json_length: int | None
    body: bytes


class ExternalLink:
    """A connection to the socket at ``path``.

    Raises:
        OSError: Nobody listens there.

    """

    def __init__(self, path: Path) -> None:
        self._busy = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(5.0)
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise

    def get(self, target: str, seconds: float) -> HttpAnswer:
        """Ask for something; see ``post``."""
        head = f"GET {target} HTTP/1.1\r\nHost: worker\r\n\r\n".encode()
        return self._exchange((head,), seconds)

    def post(self, target: str, asked: Framed, seconds: float) -> HttpAnswer:
        """Send JSON, and tensors behind it.

        Raises:
            TimeoutError: No whole answer came in ``seconds``.
            OSError: The worker hung up.
            MalformedError: What it answered is outside the rules.

        """
        head = f"POST {target} HTTP/1.1\r\nHost: worker\r\nContent-Length: {len(asked.content)}\r\n"
        if asked.json_length is not None:
            head += (
                "Content-Type: application/octet-stream\r\n"
                f"Inference-Header-Content-Length: {asked.json_length}\r\n"
            )
        start = f"{head}\r\n".encode()
        if len(asked.content) <= _SMALL:
            return self._exchange((start + asked.content,), seconds)
        return self._exchange((start, asked.content), seconds)

    def close(self) -> None:
        """Hang up; an exchange that is going on in another thread fails."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._busy:  # its number may be another file's as soon as it is closed
            self._socket.close()

    def _exchange(self, parts: Sequence[bytes], seconds: float) -> HttpAnswer:
        with self._busy:
            return self._exchange_alone(parts, seconds)

    def _exchange_alone(self, parts: Sequence[bytes], seconds: float) -> HttpAnswer:
        ends = monotonic() + seconds
        self._socket.settimeout(seconds)
        for part in parts:
            self._socket.sendall(part)
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > MAX_HEAD_BYTES:
                raise MalformedError(f"the worker's answer has a head over {MAX_HEAD_BYTES} bytes")
            received += self._receive(ends)
        status, size, json_length = _read_head(bytes(received[:end]))
        if size > MAX_BODY_BYTES:
            raise MalformedError(f"the worker's answer of {size} bytes is over {MAX_BODY_BYTES}")
        del received[: end + 4]
        self._fill(received, size, ends)
        return HttpAnswer(status=status, json_length=json_length, body=bytes(received))

    def _fill(self, received: bytearray, size: int, ends: float) -> None:
        at = len(received)
        if at > size:
            raise MalformedError("the worker's answer is longer than it says")
        if at == size:
            return
        received.extend(bytes(size - at))
        with memoryview(received) as view:
            while at < size:
                self._patience(ends)
                found = self._socket.recv_into(view[at:])
                if not found:
                    raise ConnectionResetError("the worker hung up")
                at += found

    def _receive(self, ends: float) -> bytes:
        self._patience(ends)
        found = self._socket.recv(_BLOCK)
        if not found:
            raise ConnectionResetError("the worker hung up")
        return found

    def _patience(self, ends: float) -> None:
        left = ends - monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)


def _read_head(head: bytes) -> tuple[int, int, int | None]:
    """Return status, length of the body, and length of its JSON part."""
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():  # noqa: PLR2004 - version and status
        raise MalformedError(f"the worker answers {first[:80]!r}, which is no HTTP/1.1")
    size, json_length = None, None
    for line in lines:
        name, _, value = line.partition(b":")
        match name.strip().lower():
            case b"content-length":
                size = _length(value)
            case b"inference-header-content-length":
                json_length = _length(value)
            case _:
                pass
    if size is None:
        raise MalformedError("the worker answers without Content-Length")
    return int(words[1]), size, json_length


def _length(value: bytes) -> int:
    text = value.strip()
    if not text.isdigit() or len(text) > 12:  # noqa: PLR2004 - digits of a terabyte
        raise MalformedError(f"the worker says a length of {text[:40]!r}")
    return int(text)
