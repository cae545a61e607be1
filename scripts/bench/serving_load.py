"""The client of the serving bench: prebuilt requests over kept connections, as fast as answered.

A process of its own, told by JSON on standard input and answering on standard output, so that
it has a processor beside the server's. It is the same for every server: raw sockets, no HTTP
library; of a reply it looks at the status and the length only.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

WARM_REQUESTS = 50


@dataclass(slots=True)
class Line:
    """One connection, on which one request is under way."""

    there: socket.socket
    request: bytes
    began: float = 0.0
    held: bytearray = field(default_factory=bytearray)

    def ask(self) -> None:
        """Send the request; it fits a socket's buffer or is waited for."""
        self.began = time.perf_counter()
        self.there.sendall(self.request)

    def hear(self) -> bool:
        """Take what came; True when the reply is whole."""
        self.held += self.there.recv(262_144)
        end = self.held.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self.held[:end]).lower()
        at = head.find(b"content-length:")
        stop = head.find(b"\r\n", at)
        length = int(head[at + 15 : stop if stop > 0 else None])
        if len(self.held) < end + 4 + length:
            return False
        if not head.startswith(b"http/1.1 200"):
            raise SystemExit(f"serving: the server answered {bytes(self.held[:500])!r}")
        self.held.clear()
        return True


def connect(address: Any) -> socket.socket:
    """Connect to ``[host, port]`` or to the path of a Unix socket."""
    if isinstance(address, str):
        there = socket.socket(socket.AF_UNIX)
        there.connect(address)
        return there
    there = socket.create_connection(tuple(address))
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return there


def ask_one(line: Line, seconds: float) -> list[float]:
    """Ask over one connection, again as soon as it answered; return the latencies."""
    latencies = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        line.ask()
        while not line.hear():
            pass
        latencies.append(time.perf_counter() - began)
    return latencies


def ask_several(lines: list[Line], seconds: float) -> list[float]:
    """The same over several connections, each with one request under way."""
    latencies = []
    end = time.perf_counter() + seconds
    with selectors.EpollSelector() as selector:
        for line in lines:
            selector.register(line.there, selectors.EVENT_READ, line)
            line.ask()
        waiting = len(lines)
        while waiting:
            for key, _ in selector.select():
                line = key.data
                if line.hear():
                    now = time.perf_counter()
                    latencies.append(now - line.began)
                    if now < end:
                        line.ask()
                    else:
                        waiting -= 1
    return latencies


def main() -> None:
    """Measure as told, line by line."""
    for told in sys.stdin:
        wanted = json.loads(told)
        request = bytes.fromhex(wanted["request"])
        count = wanted["connections"]
        lines = [Line(connect(wanted["address"]), request) for _ in range(count)]
        for line in lines:
            for _ in range(WARM_REQUESTS):
                line.ask()
                while not line.hear():
                    pass
        began = time.perf_counter()
        seconds = wanted["seconds"]
        latencies = ask_one(lines[0], seconds) if count == 1 else ask_several(lines, seconds)
        took = time.perf_counter() - began
        for line in lines:
            line.there.close()
        sys.stdout.write(json.dumps({"seconds": took, "latencies": latencies}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
