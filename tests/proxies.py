"""An HTTP proxy on this machine that lets tunnels through, or refuses in some way."""

import base64
import socket
import threading
from contextlib import suppress
from typing import Self

WELCOME = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
WHO = b'HTTP/1.1 407 Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n'


class HttpProxy:
    """Tunnels are counted; ``answer`` replaces the welcome, None says nothing at all."""

    def __init__(self, *, login: str = "", answer: bytes | None = WELCOME, port: int = 0) -> None:
        self._login = base64.b64encode(login.encode()).decode() if login else ""
        self._answer = answer
        self._server = socket.create_server(("127.0.0.1", port))
        self._open: list[socket.socket] = []
        self.asked: list[str] = []
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)
        for stream in self._open:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self._server.accept()
            except OSError:
                return
            self._open.append(stream)
            threading.Thread(target=self._serve_one, args=(stream,), daemon=True).start()

    def _serve_one(self, stream: socket.socket) -> None:
        with suppress(OSError):  # the other side may hang up at any moment
            self._answer_one(stream)

    def _answer_one(self, stream: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            more = stream.recv(4096)
            if not more:
                return
            asked += more
        lines = asked.decode().split("\r\n")
        where = lines[0].split(" ")[1]
        self.asked.append(where)
        if self._login and f"Proxy-Authorization: Basic {self._login}" not in lines:
            stream.sendall(WHO)
            stream.shutdown(socket.SHUT_RDWR)
            return
        if self._answer is None:
            return
        if self._answer != WELCOME:
            stream.sendall(self._answer)
            stream.shutdown(socket.SHUT_RDWR)
            return
        host, _, port = where.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)), 5)
        except OSError:
            stream.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            stream.shutdown(socket.SHUT_RDWR)
            return
        far.settimeout(None)
        self._open.append(far)
        stream.sendall(WELCOME)
        threading.Thread(target=_carry, args=(far, stream), daemon=True).start()
        _carry(stream, far)


def _carry(near: socket.socket, far: socket.socket) -> None:
    with suppress(OSError):
        while True:
            piece = near.recv(65536)
            if not piece:
                break
            far.sendall(piece)
    for end in (near, far):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
