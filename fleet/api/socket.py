"""The manager's door: HTTP on a Unix socket that only its own user and root may use.

Rule 1: the socket's folder and mode keep strangers out; peer credentials
        (``SO_PEERCRED``, unix(7)) are checked as well, once for each connection.
Rule 2: whoever starts it is told if the thread ends by itself: without its door a manager
        would seem to run, and nobody could reach it.
Rule 3: a socket file left by a killed manager is replaced; one that answers is not.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from fleet.errors import ConflictError

LOG = logging.getLogger(__name__)
Ended = Callable[[str], None]
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class PeerChecked(H11Protocol):  # type: ignore[misc]  # uvicorn is untyped here
    """HTTP/1.1 that hangs up on other users' processes."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Accept the connection if the peer is this user or root."""
        peer: socket.socket = transport.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, _gid = _CREDENTIALS.unpack(raw)
        if uid not in {0, os.getuid()}:
            transport.abort()
            return
        super().connection_made(transport)


class SocketServer:
    """Serves an application on a Unix socket from a thread of its own.

    Raises:
        ConflictError: Another manager answers on this socket.

    """

    def __init__(self, path: Path, app: FastAPI) -> None:
        self._path = path
        self._socket = _listen(path)
        config = uvicorn.Config(
            app,
            http=PeerChecked,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
        )
        self._server = uvicorn.Server(config)
        self._ended: Ended | None = None
        self._stopping = False
        self._thread = Thread(target=self._run, name="api", daemon=True)

    def start(self, ended: Ended | None = None) -> None:
        """Begin to answer; ``ended`` is called if that ends before ``stop``."""
        self._ended = ended
        self._thread.start()

    def stop(self) -> None:
        """Answer what is being asked, then close and remove the socket."""
        self._stopping = True
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        # Signals belong to the manager's own thread.
        self._server.install_signal_handlers = _nothing
        why = "it was told to"
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        except BaseException as raised:  # whatever ends this thread, the manager must hear of it
            why = f"{type(raised).__name__}: {raised}".rstrip(": ")
            LOG.exception("api end=unexpected")
        if not self._stopping and self._ended is not None:
            self._ended(f"the thread that answers the command line has ended ({why})")


def _nothing() -> None:
    return None


def _listen(path: Path) -> socket.socket:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    else:
        raise ConflictError(f"another manager answers on {path}; stop it first")
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(old)
    listener.listen(64)
    return listener
