"""Flower's own deployment on loopback: a SuperLink and SuperNodes, as its manual starts them.

Rule 1: without TLS, accounts or a database: the quickest and lightest that it has.
Rule 2: SuperNodes reach the SuperLink through the counting proxy; telemetry, update checks and
        the installation of dependencies at run time are off.
Rule 3: each round is timed by the app itself, from where its strategy configures it to where
        the next one is configured.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.bench.programs import Program, free_ports, started, until
from scripts.bench.rounds_counting import Peaks, Proxy, tree

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venvs" / "flwr-newest" / "bin"
APP = Path(__file__).with_name("rounds_app")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What one run of either side took; ``bytes_judged`` is what its end took beside rounds."""

    seconds: tuple[float, ...]
    bytes_a_round: float
    rss_bytes: float
    head: tuple[NDArray[np.float32], NDArray[np.float32]]
    bytes_judged: int = 0


@dataclass(slots=True)
class Flower:
    """A running deployment."""

    folder: Path
    samples: list[Path]
    proxy: Proxy
    environment: dict[str, str]
    nodes: list[Program] = field(default_factory=list)
    runs: int = 0

    @property
    def roots(self) -> list[int]:
        """The process of each device."""
        return [node.process.pid for node in self.nodes]

    def run(self, model: Path, rounds: int, *, kills_in: int = 0) -> Rounds:
        """Run the app; ``kills_in`` is the round in which the last SuperNode is killed."""
        self.runs += 1
        out = self.folder / f"out-{self.runs}"
        config = (
            f"num-server-rounds={rounds} nodes={len(self.nodes)} "
            f"model='{model.with_suffix('.npz')}' out='{out}'"
        )
        before = self.proxy.carried
        command = [str(BIN / "flwr"), "run", str(APP), "edge", "--stream", "--run-config", config]
        log = self.folder / f"run-{self.runs}.log"
        with started(command, log, self.environment) as app, Peaks(self.roots) as peaks:
            if kills_in:
                until("the round begins", lambda: len(_stamps(out)) >= kills_in)
                self._kill_last()
            until("Flower's run is over", lambda: _is_over(out, log))
            with contextlib.suppress(subprocess.TimeoutExpired):
                app.process.wait(20)
        stamps = _stamps(out)
        with np.load(out.with_suffix(".npz")) as arrays:
            head = arrays["weight"], arrays["bias"]
        return Rounds(
            seconds=tuple(b - a for a, b in pairwise(stamps)),
            bytes_a_round=(self.proxy.carried - before) / rounds,
            rss_bytes=peaks.mean,
            head=head,
        )

    def work_seconds(self) -> float:
        """Return how long a device trained in a round of the last run, on average."""
        worked = json.loads((self.folder / f"out-{self.runs}.work").read_text())
        return round(sum(worked) / len(worked), 3)

    def _kill_last(self) -> None:
        for pid in tree(self.nodes[-1].process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def flower(folder: Path, samples: list[Path]) -> Iterator[Flower]:
    """Start a SuperLink, and a SuperNode for each device."""
    home = folder / "home"
    home.mkdir(parents=True)
    port, *clients = free_ports(1 + len(samples))
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "edge"\n[superlink.edge]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    environment = _environment(home)
    proxy = Proxy(port)
    with ExitStack() as stack:
        link = [
            str(BIN / "flower-superlink"), "--insecure", "--host", "127.0.0.1",
            "--port", str(port), "--disable-runtime-dependency-installation",
        ]  # fmt: skip
        server = stack.enter_context(started(link, folder / "superlink.log", environment))
        until("the SuperLink listens", lambda: _listens(port), server)
        made = Flower(folder, samples, proxy, environment)
        for number, file in enumerate(samples):
            node = [
                str(BIN / "flower-supernode"), "--insecure",
                "--superlink", f"127.0.0.1:{proxy.port}",
                "--host", "127.0.0.1", "--port", str(clients[number]),
                "--node-config",
                f"partition-id={number} num-partitions={len(samples)} samples-path='{file}'",
            ]  # fmt: skip
            log = folder / f"supernode-{number}.log"
            made.nodes.append(stack.enter_context(started(node, log, environment)))
        stack.callback(proxy.close)
        yield made


def _stamps(out: Path) -> list[float]:
    file = out.with_suffix(".json")
    return list(json.loads(file.read_text())) if file.exists() else []


def _is_over(out: Path, log: Path) -> bool:
    if "Exit Code" in log.read_text():
        sys.exit(f"rounds: Flower's run failed:\n{log.read_text()[-2000:]}")
    return out.with_suffix(".npz").exists()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _environment(home: Path) -> dict[str, str]:
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return single | {
        "FLWR_HOME": str(home),
        "HOME": str(home),
        "PATH": f"{BIN}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
