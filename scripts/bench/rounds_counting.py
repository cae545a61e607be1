"""What the rounds bench counts: bytes at a TCP proxy, and the memory of process trees.

Rule 1: bytes are those of the streams in both directions, TLS and HTTP/2 included, without
        what TCP and IP add.
Rule 2: memory is that of a process and of all that it started, whoever they are.
"""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Self

from agent.observe.resources import pss_bytes, rss_bytes

_PIECE = 65_536
_LOOK_SECONDS = 0.05


class Proxy:
    """Carries every connection on to another port of this machine, and counts."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._carried = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def carried(self) -> int:
        """Bytes so far, both ways together."""
        with self._lock:
            return self._carried

    def close(self) -> None:
        """End every connection."""
        self._server.close()
        for stream in self._open:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                if self._server.fileno() < 0:
                    return
                near.close()
                continue
            far.settimeout(None)
            for stream in (near, far):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open.append(stream)
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                with self._lock:
                    self._carried += len(piece)
                sink.sendall(piece)
        for stream in (source, sink):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)


def tree(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def tree_pss(root: int) -> int:
    """Return the proportional memory of a process and its descendants, bytes."""
    return sum(pss_bytes(pid) for pid in tree(root))


class Peaks:
    """The most memory that some process trees had at a time while the block lasted, bytes."""

    def __init__(self, roots: list[int]) -> None:
        self._peaks = dict.fromkeys(roots, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def mean(self) -> float:
        """The mean of the trees' peaks."""
        return sum(self._peaks.values()) / len(self._peaks)

    def _look(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            for root in self._peaks:
                now = sum(rss_bytes(pid) for pid in tree(root))
                self._peaks[root] = max(self._peaks[root], now)
