"""One artifact in one place, moved in several ways, each by processes of its own.

Rule 1: every process says ``ready``, waits for ``go``, and says its figures.
Rule 2: whoever is not done in time, or fails, ends the bench with a sentence.
"""

import select
import subprocess
import sys
from pathlib import Path

import msgspec

from agent.contract.manifest import Artifact, describe_artifact
from agent.contract.topics import ARTIFACT, ARTIFACT_CAST, EVERYBODY, Address
from scripts.bench import transfer_device, transfer_raw
from scripts.bench.transfer_device import Task
from scripts.bench.transfer_place import FLEET, SENDER, TOPICS, Place

HERE = Path(__file__).parent
RAW = "d-raw"
LONGEST_SECONDS = 90.0


class Child:
    """A process that says ``ready``, waits for ``go`` and then says its figures."""

    def __init__(self, place: Place, *command: str, before: tuple[str, ...] = ()) -> None:
        self._name = Path(command[0]).name
        self._process = subprocess.Popen(
            [*before, sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        place.endings.append(self._kill)

    def ready(self) -> None:
        """Return once it can begin."""
        said = self.line()
        if said != "ready":
            raise SystemExit(f"transfer: {self._name} said {said!r} instead of 'ready'")

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """Return its next line."""
        out = self._process.stdout
        assert out
        if not select.select([out], [], [], LONGEST_SECONDS)[0]:
            raise SystemExit(f"transfer: {self._name} said nothing for {LONGEST_SECONDS:.0f} s")
        return out.readline().decode().strip()

    def end(self) -> None:
        """Wait for its end."""
        self._process.communicate(timeout=30)

    def _kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Device:
    """One device of the bench, which does one task after the other."""

    def __init__(
        self, place: Place, name: str, password: str, tasks: tuple[Task, ...], *before: str
    ) -> None:
        job = transfer_device.Job(
            device=name,
            password=password,
            url=place.config.broker.url,
            fleet=FLEET,
            folder=str(place.folder / name),
            tasks=tasks,
        )
        program = str(HERE / "transfer_device.py")
        self.child = Child(place, program, write_job(place, name, job), before=before)

    def figures(self) -> transfer_device.Figures:
        """Return what the task cost that it was let begin."""
        figures = msgspec.json.decode(self.child.line(), type=transfer_device.Figures)
        if figures.why:
            raise SystemExit(f"transfer: {figures.why}")
        return figures


def together(devices: list[Device]) -> tuple[float, float]:
    """Let devices begin their next task together; return its wall and processor seconds."""
    for device in devices:
        device.child.go()
    figures = [device.figures() for device in devices]
    wall = max(f.ended for f in figures) - min(f.began for f in figures)
    return wall, sum(f.cpu_seconds for f in figures)


class Bench:
    """One artifact in one place, moved in several ways."""

    def __init__(self, place: Place, content: bytes, raws: int) -> None:
        self.place = place
        self.artifact: Artifact = describe_artifact(content)
        place.artifacts.put(content)
        self.source = place.folder / "source"
        self.source.write_bytes(content)
        self.raws = [f"{RAW}-{number}" for number in range(raws)]
        self.passwords = place.grant(*self.raws)

    def raw(self, count: int) -> tuple[float, float]:
        """Copy the artifact to so many receivers without any of our code.

        Returns:
            Seconds until the last of them has it, and processor seconds of all.

        """
        address = ARTIFACT.at(self.raws[0], "raw")
        if count > 1:
            address = ARTIFACT_CAST.at(EVERYBODY, "raw")
        program = str(HERE / "transfer_raw.py")
        receiving = [
            Child(self.place, program, "receive", self._raw_job(name, address))
            for name in self.raws[:count]
        ]
        sending = Child(self.place, program, "send", self._raw_job(SENDER, address))
        for child in (*receiving, sending):
            child.ready()
        sending.go()
        began = float(sending.line())
        ended, cpu = zip(*(map(float, child.line().split()) for child in receiving), strict=True)
        for child in (*receiving, sending):
            child.end()
        for name in self.raws[:count]:
            if self._copy(name).read_bytes() != self.source.read_bytes():
                raise SystemExit("transfer: a raw copy is not the source")
            self._copy(name).unlink()
        return max(ended) - began, sum(cpu)

    def one(self, name: str, kill_after: int = 0) -> transfer_device.Figures:
        """Fetch the artifact with one device."""
        device = self.device(name, kill_after)
        device.child.ready()
        device.child.go()
        figures = device.figures()
        device.child.end()
        return figures

    def device(self, name: str, kill_after: int = 0) -> Device:
        """Start a device that will fetch the artifact."""
        task = Task(artifact=self.artifact, kill_after=kill_after)
        return Device(self.place, name, self.passwords[name], (task,))

    def _raw_job(self, name: str, address: Address) -> str:
        sends = name == SENDER
        job = transfer_raw.Job(
            username=name,
            password=self.place.accounts.manager if sends else self.passwords[name],
            host=self.place.host,
            port=self.place.port,
            topic=TOPICS.write(address),
            source=str(self.source),
            target=str(self._copy(name)),
        )
        return write_job(self.place, f"job-{name}", job)

    def _copy(self, name: str) -> Path:
        return self.place.folder / f"copy-{name}"


def write_job(place: Place, name: str, job: msgspec.Struct) -> str:
    """Write what a process is to do, and return where."""
    path = place.folder / f"{name}.json"
    path.write_bytes(msgspec.json.encode(job))
    return str(path)
