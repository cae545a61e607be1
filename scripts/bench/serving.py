"""The motion model over HTTP: an enrolled agent beside Seldon's MLServer.

Both answer the same JSON bytes over TCP on loopback, in turns of a few seconds within one
run, asked by one client (``serving_load.py``) over 1 and over 4 connections; the agent also
answers binary tensors over its Unix socket. A turn's ratio is that of neighbours in time;
the ratios that are reported are medians over turns, and of 1 and 4 connections the worse.

    json_throughput_ratio   agent over MLServer, JSON over TCP
    json_p99_ratio          the same of the 99th percentile of latency; below 1 is quicker
    best_throughput_ratio   agent with binary tensors over its Unix socket, over MLServer with
                            the best that it accepts (it is asked for binary as well)
    best_ratio_at           the same at each number of connections; one connection waits for
                            every answer, so it measures how long one takes

Ratios are the worse of those at 1 and at 4 connections.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np

from agent.infer.oip import exchange as oip
from scripts.bench.serving_load import connect
from scripts.bench.serving_sides import ROOT, TOKEN, Side, agent, mlserver

CONNECTIONS = (1, 4)
PATH = "/v2/models/motion/infer"


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--turns", type=int, default=7, help="of each way, 1 and 4 connections")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with agent(folder) as ours, mlserver(folder) as theirs:
            figures = measure(ours, theirs, arguments.turns, arguments.seconds)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def measure(ours: Side, theirs: Side, turns: int, seconds: float) -> dict[str, Any]:
    """Ask each way in turns; return what is reported."""
    ways = {
        "agent_json": (ours.tcp, json_request()),
        "mlserver_json": (theirs.tcp, json_request()),
        "agent_binary_unix": (ours.unix, binary_request()),
    }
    require_equal_answers(ours, theirs)
    if answers_ok(theirs, binary_request()):
        ways["mlserver_binary"] = (theirs.tcp, binary_request())
    taken: dict[str, dict[int, list[dict[str, float]]]] = {
        way: {count: [] for count in CONNECTIONS} for way in ways
    }
    with Client() as client:
        for turn in range(turns):
            for count in CONNECTIONS:
                order = list(ways) if turn % 2 else list(reversed(ways))
                for way in order:
                    address, request = ways[way]
                    taken[way][count].append(client.measure(address, request, count, seconds))
    return summary(taken)


def summary(taken: dict[str, dict[int, list[dict[str, float]]]]) -> dict[str, Any]:
    """Return ratios and raw figures."""

    def ratios(way: str, figure: str, count: int, others: list[str]) -> float:
        best = [
            max(turn[figure] for turn in turns)
            for turns in zip(*(taken[other][count] for other in others), strict=True)
        ]
        mine = [turn[figure] for turn in taken[way][count]]
        return statistics.median(m / b for m, b in zip(mine, best, strict=True))

    theirs = [way for way in taken if way.startswith("mlserver")]
    return {
        "json_throughput_ratio": round(
            min(ratios("agent_json", "per_second", n, ["mlserver_json"]) for n in CONNECTIONS), 2
        ),
        "json_p99_ratio": round(
            max(ratios("agent_json", "p99_us", n, ["mlserver_json"]) for n in CONNECTIONS), 3
        ),
        "best_throughput_ratio": round(
            min(ratios("agent_binary_unix", "per_second", n, theirs) for n in CONNECTIONS), 2
        ),
        "best_ratio_at": {
            str(n): round(ratios("agent_binary_unix", "per_second", n, theirs), 2)
            for n in CONNECTIONS
        },
        "mlserver_accepts_binary": "mlserver_binary" in taken,
        "agent": "enrolled, connected, monitoring on, every request recorded",
        "connections": {
            str(count): {
                way: {
                    figure: round(statistics.median(turn[figure] for turn in turns[count]), 1)
                    for figure in ("per_second", "p50_us", "p99_us")
                }
                for way, turns in taken.items()
            }
            for count in CONNECTIONS
        },
    }


class Client:
    """The loading process."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("serving_load.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def measure(
        self, address: object, request: bytes, connections: int, seconds: float
    ) -> dict[str, float]:
        """Ask for some seconds; return requests per second and percentiles of latency."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wanted = {
            "address": address,
            "request": request.hex(),
            "connections": connections,
            "seconds": seconds,
        }
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        if not told:
            sys.exit("serving: the client ended; its words are above")
        found = json.loads(told)
        latencies = np.array(found["latencies"]) * 1e6
        return {
            "per_second": len(latencies) / found["seconds"],
            "p50_us": float(np.percentile(latencies, 50)),
            "p99_us": float(np.percentile(latencies, 99)),
        }


def window() -> np.ndarray:
    """Return one window of a real recording, as the model takes it."""
    with np.load(ROOT / "tests" / "data" / "watch_motion.npz") as motion:
        return np.ascontiguousarray(motion["samples"][:128].T[None]).astype(np.float32)


def json_request() -> bytes:
    """Return a request in JSON, the same for both."""
    x = window()
    tensor = {"name": "window", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    return framed(json.dumps({"inputs": [tensor]}).encode())


def binary_request() -> bytes:
    """Return the same window as raw bytes, and outputs wanted so."""
    written = oip.write_request({"window": window()})
    return framed(written.content, f"Inference-Header-Content-Length: {written.json_length}\r\n")


def framed(body: bytes, more: str = "") -> bytes:
    """Return an HTTP request; both servers get the token that one of them wants."""
    kind = "application/octet-stream" if more else "application/json"
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: {kind}\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def require_equal_answers(ours: Side, theirs: Side) -> None:
    """Return if both say the same about the same window."""
    said = []
    for side in (ours, theirs):
        outputs = json.loads(body_of(side, json_request()))["outputs"]
        said.append({one["name"]: np.array(one["data"]).ravel() for one in outputs})
    if said[0].keys() != said[1].keys() or any(
        not np.allclose(said[0][name], said[1][name], atol=1e-5) for name in said[0]
    ):
        sys.exit("serving: the two servers do not answer the same")


def answers_ok(side: Side, request: bytes) -> bool:
    """Return whether a server takes this request."""
    return raw_reply(side, request).startswith(b"HTTP/1.1 200")


def body_of(side: Side, request: bytes) -> bytes:
    """Return the body of a reply."""
    return raw_reply(side, request).partition(b"\r\n\r\n")[2]


def raw_reply(side: Side, request: bytes) -> bytes:
    """Ask once, and return everything until the other side closes."""
    closing = request.replace(b"\r\nHost:", b"\r\nConnection: close\r\nHost:", 1)
    with connect(side.tcp) as there:
        there.settimeout(20)
        there.sendall(closing)
        said = b""
        with suppress(ConnectionError, TimeoutError):
            while more := there.recv(65536):
                said += more
    return said


if __name__ == "__main__":
    sys.exit(main())
