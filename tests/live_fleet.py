"""A fleet of real processes that can be killed: mosquitto, the manager, and agents that train."""

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import msgspec

from agent.contract.broker_url import BrokerUrl
from fleet.cli.client import ManagerClient
from fleet.config import FleetConfig
from fleet.service.founding import Ports, found_dev
from fleet.service.views import DeviceView, RolloutView, RunView, StatusView
from fleet.service.wishes import RunWish
from tests.agents import RunningAgent, command, write_config
from tests.brokers import PROGRAM, accepts, eventually, free_port
from tests.manager_home import MODEL, ROOT

LEARNING = """
[pipeline.motion]
source = { kind = "replay", path = "recording.npz", speed = 20, loop = true }
[learn]
samples = "labelled.npz"
train = true
evaluate = true
"""
PLACES = ((5, "left"), (6, "right"), (7, "left"), (8, "right"))
OVER = {"finished", "failed", "stopped"}


class LiveFleet:
    """See above; ``with`` starts everything but the model, and ends it."""

    def __init__(self, folder: Path, devices: int, *, program: str = "fleet") -> None:
        self.folder, self._program = folder, program
        ports = Ports(devices=free_port(), enrolment=free_port())
        self.config: FleetConfig = found_dev(folder / "home", "demo", kind="mosquitto", ports=ports)
        self.home = self.config.home
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.agents: dict[str, RunningAgent] = {}
        self.folders: dict[str, Path] = {}
        self._wanted = devices

    def __enter__(self) -> Self:
        self.start_broker()
        self.start_manager()
        try:
            for person, side in PLACES[: self._wanted]:
                self._enrol(self.folder / f"person-{person}", person, side)
            eventually(lambda: self.online() == self._wanted, 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self.agents.values():
            agent.child.terminate()
        for agent in self.agents.values():
            agent.child.wait(30)
        for child in reversed(self._children.values()):
            child.terminate()
            child.wait(30)

    @property
    def client(self) -> ManagerClient:
        eventually(self._answers, 60)
        return ManagerClient(self.config.socket)

    def pid_of(self, name: str) -> int:
        """Return the process id of ``broker``, ``manager`` or a device's agent."""
        return self.agents[name].child.pid if name in self.agents else self._children[name].pid

    def __call__(self, *words: object) -> str:
        """Run a command of the operator that has to succeed, and return what it printed."""
        ended = subprocess.run(
            [sys.executable, "-m", "fleet", *map(str, words), "--home", str(self.home)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def roll_out_motion(self) -> None:
        """Publish the motion model and bring it to every device."""
        self("model", "publish", MODEL, "--version", "v1")
        asked = self("rollout", "create", "motion/v1", "--canary", self._wanted, "--soak", 0,
                     "-o", "json")  # fmt: skip
        made = msgspec.json.decode(asked, type=RolloutView)
        with self.client as client:
            path = f"/rollouts/{made.id}"
            eventually(lambda: client.get(path, RolloutView).status == "done", 120)

    def start_run(self, **wish: object) -> str:
        """Start a run as soon as every device is online, and return its name."""
        eventually(lambda: self.online() == self._wanted, 60)
        with self.client as client:
            return client.post("/runs", RunWish(slot="motion", **wish), RunView).id

    def ended_run(self, run: str, seconds: float = 90) -> RunView:
        """Return a run when it is over; what died meanwhile is started again."""

        def over() -> bool:
            self.revive()
            return self._status(run) in OVER

        try:
            eventually(over, seconds)
        except AssertionError:
            raise AssertionError(f"{run} is {self._status(run)}\n{self.words()}") from None
        self.revive()
        with self.client as client:
            return client.get(f"/runs/{run}", RunView)

    def _status(self, run: str) -> str:
        """Look into the registry, which is there whoever lives."""
        where = f"{self.config.registry.as_uri()}?mode=ro"
        with closing(sqlite3.connect(where, uri=True)) as registry:
            found = registry.execute("SELECT status FROM runs WHERE id = ?", (run,)).fetchone()
        return str(found[0])

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.config.socket)) == 0

    def revive(self) -> list[str]:
        """Start again whatever has died; returns what that was."""
        dead = [name for name, child in self._children.items() if child.poll() is not None]
        for name in dead:
            self.start_broker() if name == "broker" else self.start_manager()
        for name, agent in list(self.agents.items()):
            if agent.child.poll() is not None:
                dead.append(name)
                self.agents[name] = RunningAgent(self.folders[name])
        return dead

    def online(self) -> int:
        with self.client as client:
            return client.get("/status", StatusView).online

    def devices(self) -> list[DeviceView]:
        with self.client as client:
            return client.get("/devices", list[DeviceView])

    def words(self) -> str:
        """Return the last words of everybody."""
        logs = [self.folder / "manager.log", *(f / "agent.log" for f in self.folders.values())]
        return "\n".join(f"--- {log}\n{log.read_text()[-2500:]}" for log in logs if log.exists())

    def start_broker(self) -> None:
        broker = self.config.broker
        self._start(
            "broker", [str(PROGRAM), "-c", str(self.config.broker_folder / "mosquitto.conf")]
        )
        ports = [BrokerUrl.parse(url).port for url in (broker.url, broker.enrol_url)]
        eventually(lambda: all(accepts(port) for port in ports))

    def start_manager(self) -> None:
        serve = [sys.executable, "-m", self._program, "serve", "--home", str(self.home)]
        self._start("manager", serve)

    def _start(self, name: str, words: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=_environment(),
            )

    def _enrol(self, folder: Path, person: int, side: str) -> None:
        maker = ROOT / "scripts" / "base_model" / "devices"
        subprocess.run([sys.executable, str(maker), str(person), side, str(folder)], check=True)
        token = folder / "fleet.enrol"
        self("token", "create", "--file", token)
        write_config(folder, LEARNING)
        ended = command("enrol", token, "--state-dir", folder / "state")
        assert ended.returncode == 0, ended.stderr
        known = set(self.folders)
        (name,) = {view.id for view in self.devices()} - known
        self.folders[name] = folder
        self.agents[name] = RunningAgent(folder)


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
