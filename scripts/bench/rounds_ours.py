"""A fleet of ours on loopback: mosquitto with TLS and accounts, the manager, and agents.

Rule 1: nothing is left out: every device has its own account and key, tasks and answers are
        signed, the run is journalled and its answers are spooled.
Rule 2: devices reach the broker through the counting proxy, which carries their TLS as it is.
Rule 3: rounds are timed by the manager's own journal, from push to push.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.tensors import ArrayRecord, Failure, decode_message
from scripts.bench.programs import Program, attempt, devices, free_ports, run, started, until
from scripts.bench.rounds_counting import Peaks, Proxy, tree
from scripts.bench.rounds_flower import Rounds

FIELDFARE = [sys.executable, "-I", "-m", "fleet"]
AGENT = [sys.executable, "-I", "-m", "agent"]
LIMIT_BYTES = 64 * 1024 * 1024
OVER = {"finished", "failed", "stopped"}
IDLE = """\
[agent]
state_dir = "state"
"""
TRAINING = (
    IDLE
    + """
[update]
probation_seconds = 60.0
look_seconds = 0.5
min_windows = 0
min_agreement = 0.0  # heads that nobody has trained yet take each other's place
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20.0, loop = true }
[learn]
samples = "labelled.npz"
train = true
evaluate = true
"""
)


@dataclass(slots=True)
class Ours:
    """A running fleet."""

    folder: Path
    home: Path
    samples: list[Path]
    proxy: Proxy
    agents: dict[str, Program] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)
    manager: Program | None = None

    @property
    def roots(self) -> list[int]:
        """The process of each device."""
        return [agent.process.pid for agent in self.agents.values()]

    def operate(self, *words: str) -> Any:
        """Run an operator's command and return what it prints as JSON."""
        return json.loads(run([*FIELDFARE, *words, "-o", "json", "--home", str(self.home)]))

    def start_agents(self, settings: str) -> None:
        """Start every agent anew with these settings, and wait until all are connected."""
        for agent in self.agents.values():
            agent.process.terminate()
            agent.process.wait(30)
        for file in self.samples:
            place = file.parent
            (place / "agent.toml").write_text(settings)
            self.start_agent(place)
        self._wait_for_all()

    def start_agent(self, place: Path) -> None:
        """Start one agent."""
        command = [*AGENT, "run", "--config", str(place / "agent.toml")]
        made = self.stack.enter_context(started(command, place / "agent.log"))
        self.agents[place.name] = made

    def roll_out(self, model: Path) -> None:
        """Publish a model and wait until every device has proved it."""
        words = ["model", "publish", str(model), "--version", model.stem]
        run([*FIELDFARE, *words, "--home", str(self.home)])
        many = str(len(self.samples))
        asked = ("--canary", many, "--soak", "0", "--one-way")
        made = self.operate("rollout", "create", f"motion/{model.stem}", *asked)

        def done() -> bool:
            (found,) = [r for r in self.operate("rollout", "list") if r["id"] == made["id"]]
            if found["status"] == "halted":
                said = {d["why"] for d in self.operate("rollout", "show", made["id"])["devices"]}
                why = "; ".join([found["why"], *sorted(filter(None, said))])
                sys.exit(f"rounds: the rollout was halted: {why}")
            return bool(found["status"] == "done")

        until("every device runs the model", done)

    def run(
        self, rounds: int, *words: str, epochs: int = 5, kills_in: int = 0, victim: str = ""
    ) -> Rounds:
        """Train; in round ``kills_in``, ``victim`` (an agent or ``manager``) is killed.

        A killed device comes back once the rounds are over: the judgement of the candidate,
        which Flower's side has not, is not timed.
        """
        self._wait_for_all()
        before = self.proxy.carried
        with Peaks(self.roots) as peaks:
            asked = ("--rounds", str(rounds), "--epochs", str(epochs), *words)
            name = str(self.operate("run", "start", "motion", *asked)["id"])
            if kills_in:
                self._wait(name, lambda events: _began(events) >= kills_in)
                time.sleep(0.2)
                self.kill(victim)
            self._wait(name, lambda e: _is_trained(e) or self._status(name) in OVER)
            carried = self.proxy.carried - before
            if kills_in and victim != "manager":
                self.start_agent(self.samples[0].parent.parent / victim)
            self._wait(name, lambda _: self._status(name) in OVER)
        if self._status(name) != "finished":
            raise NotMeasuredError(str(self.operate("run", "show", name)["why"]))
        judged = self.proxy.carried - before - carried
        events = self._events(name)
        stamps = [e["at_ms"] / 1000 for e in events if e["type"] in {"pushed", "child-finished"}]
        return Rounds(
            seconds=tuple(b - a for a, b in pairwise(stamps)),
            bytes_a_round=carried / rounds,
            bytes_judged=judged,
            rss_bytes=peaks.mean,
            head=self._head(name),
        )

    def kill(self, victim: str) -> None:
        """End a part with all it started as a power cut would; the manager is started again."""
        program = self.manager if victim == "manager" else self.agents[victim]
        assert program is not None
        for pid in tree(program.process.pid):
            os.kill(pid, signal.SIGKILL)
        program.process.wait()
        if victim == "manager":
            self.start_manager()

    def start_manager(self) -> None:
        """Start the manager."""
        command = [*FIELDFARE, "serve", "--home", str(self.home)]
        log = self.folder / f"manager-{time.monotonic_ns()}.log"
        self.manager = self.stack.enter_context(started(command, log))

    def _wait_for_all(self) -> None:
        listing = [*FIELDFARE, "device", "list", "-o", "json", "--home", str(self.home)]
        many = len(self.samples)

        def all_here() -> bool:
            return sum(d["presence"] == "online" for d in devices(listing)) == many

        until("every device is online", all_here)

    def _wait(self, name: str, holds: Any) -> None:
        deadline = time.monotonic() + 180
        while not holds(self._events(name)):
            if time.monotonic() > deadline:
                raise NotMeasuredError(f"{name} was not over in 180 s")
            time.sleep(0.02)

    def _query(self, text: str, *values: str) -> list[tuple[Any, ...]]:
        where = f"{(self.home / 'registry.db').as_uri()}?mode=ro"
        with closing(sqlite3.connect(where, uri=True, timeout=10)) as registry:
            return registry.execute(text, values).fetchall()

    def _events(self, name: str) -> list[dict[str, Any]]:
        found = self._query("SELECT event FROM run_steps WHERE run = ? ORDER BY number", name)
        return [json.loads(text) for (text,) in found]

    def _status(self, name: str) -> str:
        return str(self._query("SELECT status FROM runs WHERE id = ?", name)[0][0])

    def _head(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = self._query("SELECT payload FROM run_blobs WHERE run = ? AND name = 'final'", name)
        content = decode_message(found[0][0], limit=LIMIT_BYTES).content
        assert not isinstance(content, Failure)
        record = content["arrays"]
        assert isinstance(record, ArrayRecord)
        return record.items["weight"], record.items["bias"]


class NotMeasuredError(Exception):
    """A run did not come to its end; the sentence says why."""


@contextmanager
def ours(folder: Path, samples: list[Path]) -> Iterator[Ours]:
    """Found a fleet, start broker and manager, and enrol a device beside each file of samples."""
    home = folder / "home"
    port, enrol = free_ports(2)
    ports = ["--port", str(port), "--enrol-port", str(enrol)]
    run([*FIELDFARE, "init", "--dev", "--fleet", "bench", *ports, "--home", str(home)])
    proxy = Proxy(port)
    with ExitStack() as stack:
        broker = [*FIELDFARE, "broker", "run", "--home", str(home)]
        stack.enter_context(started(broker, folder / "broker.log"))
        made = Ours(folder, home, samples, proxy, stack=stack)
        made.start_manager()
        status = [*FIELDFARE, "fleet", "status", "--home", str(home)]
        until("the manager answers", lambda: attempt(status))
        for file in samples:
            _enrol(made, file.parent, port)
        stack.callback(proxy.close)
        yield made


def _enrol(fleet: Ours, place: Path, port: int) -> None:
    token, state = place / "fleet.enrol", place / "state"
    run([*FIELDFARE, "token", "create", "--file", str(token), "--home", str(fleet.home)])
    run([*AGENT, "enrol", str(token), "--state-dir", str(state)])
    credentials = state / "enrolled.json"
    told = json.loads(credentials.read_text())
    told["broker_url"] = told["broker_url"].replace(f":{port}", f":{fleet.proxy.port}")
    credentials.write_text(json.dumps(told))


def _began(events: list[dict[str, Any]]) -> int:
    return sum(event["type"] == "pushed" for event in events)


def _is_trained(events: list[dict[str, Any]]) -> bool:
    return any(event["type"] == "child-finished" for event in events)


def make_device(person: int, side: str, folder: Path) -> Path:
    """Write one device's recording and labelled windows; return the file of windows."""
    maker = Path(__file__).parents[1] / "base_model" / "devices"
    subprocess.run([sys.executable, str(maker), str(person), side, str(folder)], check=True)
    return folder / "labelled.npz"
