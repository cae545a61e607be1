"""Connections of strangers, before anything is known of them: few, and none for long.

Rule 1: no more connections than there is room for, also before their TLS handshake.
Rule 2: one that does not bring a whole request in time is cut.
"""

import asyncio
import errno
import socket
from contextlib import suppress
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from fleet.errors import ConfigError, ConflictError

IDLE_SECONDS: Final = 15.0
"""A connection without a whole request is cut after this."""


class Listener(socket.socket):
    """Holds no more connections than there is room for, also before their TLS handshake.

    Each of them is a descriptor of the manager's process, which has others to open.
    """

    most: int = 0

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._open: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection, or turn it away as the event loop understands it."""
        taken, peer = super().accept()
        self._open = [one for one in self._open if one.fileno() >= 0]
        if len(self._open) >= self.most:
            taken.close()
            raise ConnectionAbortedError
        self._open.append(taken)
        return taken, peer


class Impatient(H11Protocol):  # type: ignore[misc]  # uvicorn is untyped here
    """HTTP/1.1 that cuts whoever is not getting to the point."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Give a connection its time for a request."""
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        with suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came; only a whole request stops the clock."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._timer is None:
            self._timer = self.loop.call_later(IDLE_SECONDS, self.transport.abort)
        elif not waiting and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def listen(host: str, port: int) -> Listener:
    """Return what listens on an address.

    Raises:
        ConfigError: The address cannot be listened on.
        ConflictError: Something else listens there.

    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as why:
        told = f"downloads cannot listen on {host} port {port}: {why.strerror or why}"
        if why.errno == errno.EADDRINUSE:
            raise ConflictError(f"{told}; set downloads.port to a free one") from why
        raise ConfigError(f"{told}; set downloads.bind and downloads.port") from why
    return Listener(listener.detach())
