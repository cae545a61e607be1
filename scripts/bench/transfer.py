"""Artifacts through a real broker: one device beside a raw copy, a resumed one, and a fleet.

Rule 1: the manager, the broker and every device are processes of their own; the device
        is the agent's own link and fetch (``transfer_device``).
Rule 2: one device and the raw copy (``transfer_raw``: same bytes, same broker, the
        receiver writes and fsyncs) take turns; the ratio is that of their medians.
        ``mqtt_ratio`` is raw seconds over ours: 1.0 would be as fast as the raw copy.
Rule 3: a resumed transfer is one whose process killed itself half-way. What it cost is
        what both lives asked for beyond the artifact, in windows of 32 chunks.
Rule 4: the fleet is devices (20) that begin together. ``egress_ratio`` is what the broker
        was handed meanwhile, over the artifact; ``fleet_ratio`` is until the last of them
        is done, over one device alone. All of them share this machine's processor, which
        ``fleet_cpu_seconds`` is theirs of, and bounds that ratio from below.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from agent.contract.limits import MAX_CHUNKS_PER_REQUEST
from agent.contract.manifest import Artifact, describe_artifact
from agent.contract.topics import ARTIFACT
from scripts.bench import delta, transfer_device, transfer_raw
from scripts.bench.transfer_place import FLEET, SENDER, TOPICS, Egress, Place

HERE = Path(__file__).parent
MIB = 1024 * 1024
ROUNDS = 3
RAW = "d-raw"


class Child:
    """A process that says ``ready``, waits for ``go`` and then says its figures."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        said = self._line()
        if said != "ready":
            raise SystemExit(f"transfer: {command[0]} said {said!r} instead of 'ready'")

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def figures(self) -> str:
        """Return its last line and wait for its end."""
        line = self._line()
        self._process.communicate(timeout=30)
        return line

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


class Bench:
    """One artifact in one place, moved in several ways."""

    def __init__(self, place: Place, content: bytes) -> None:
        self.place = place
        self.artifact: Artifact = describe_artifact(content)
        place.artifacts.put(content)
        self.source = place.folder / "source"
        self.source.write_bytes(content)
        self.passwords = place.grant(RAW)

    def raw_seconds(self) -> float:
        """Copy the artifact without any of our code."""
        target = self.place.folder / "copy"
        job = transfer_raw.Job(
            username=RAW,
            password=self.passwords[RAW],
            port=self.place.port,
            topic=TOPICS.write(ARTIFACT.at(RAW, "raw")),
            source=str(self.source),
            target=str(target),
        )
        password = self.place.accounts.manager
        sender = msgspec.structs.replace(job, username=SENDER, password=password)
        program = str(HERE / "transfer_raw.py")
        receiving = Child(program, "receive", self._write_job("raw-in", job))
        sending = Child(program, "send", self._write_job("raw-out", sender))
        sending.go()
        began, ended = float(sending.figures()), float(receiving.figures())
        if target.read_bytes() != self.source.read_bytes():
            raise SystemExit("transfer: the raw copy is not the source")
        return ended - began

    def one_device(self, device: str) -> transfer_device.Figures:
        """Fetch the artifact with one device."""
        return self._fetch(self._device(device))

    def resumed_windows(self, device: str) -> float:
        """Kill a device half-way, let it go on, and return the windows asked for twice."""
        half = self.artifact.count // 2
        first = self._fetch(self._device(device, kill_after=half))
        second = self._fetch(self._device(device))
        extra = first.asked + second.asked - self.artifact.count
        return extra / MAX_CHUNKS_PER_REQUEST

    def fleet(self, devices: list[str]) -> dict[str, float]:
        """Fetch the artifact with many devices that begin together."""
        egress = Egress(self.place)
        children = [self._device(device) for device in devices]
        before = egress.settled()
        for child in children:
            child.go()
        lines = [msgspec.json.decode(c.figures(), type=transfer_device.Figures) for c in children]
        sent = egress.settled() - before
        egress.close()
        if failed := [line.why for line in lines if line.why]:
            raise SystemExit(f"transfer: {failed[0]}")
        began, ended = min(line.began for line in lines), max(line.ended for line in lines)
        return {
            "seconds": ended - began,
            "artifacts": sent / self.artifact.size,
            "cpu_seconds": sum(line.cpu_seconds for line in lines),
        }

    def _fetch(self, child: Child) -> transfer_device.Figures:
        child.go()
        figures = msgspec.json.decode(child.figures(), type=transfer_device.Figures)
        if figures.why:
            raise SystemExit(f"transfer: {figures.why}")
        return figures

    def _device(self, device: str, kill_after: int = 0) -> Child:
        job = transfer_device.Job(
            device=device,
            password=self.passwords[device],
            url=self.place.config.broker.url,
            fleet=FLEET,
            folder=str(self.place.folder / device),
            artifact=self.artifact,
            kill_after=kill_after,
        )
        return Child(str(HERE / "transfer_device.py"), self._write_job(device, job))

    def _write_job(self, name: str, job: msgspec.Struct) -> str:
        path = self.place.folder / f"{name}.json"
        path.write_bytes(msgspec.json.encode(job))
        return str(path)


def measure(folder: Path, megabytes: int, fleet_size: int) -> dict[str, float]:
    """Return the figures of all ways."""
    ones = [f"d-one-{number}" for number in range(ROUNDS)]
    many = [f"d-many-{number}" for number in range(fleet_size)]
    with Place(folder, [*ones, "d-resume", *many]) as place:
        bench = Bench(place, os.urandom(megabytes * MIB))
        raw, ours = [], []
        for device in ones:
            raw.append(bench.raw_seconds())
            ours.append(bench.one_device(device))
        one = statistics.median(f.ended - f.began for f in ours)
        resumed = bench.resumed_windows("d-resume")
        fleet = bench.fleet(many)
        return {
            "megabytes": megabytes,
            "raw_seconds": round(statistics.median(raw), 3),
            "mqtt_seconds": round(one, 3),
            "mqtt_ratio": round(statistics.median(raw) / one, 3),
            "device_cpu_seconds": round(statistics.median(f.cpu_seconds for f in ours), 3),
            "resume_windows": round(resumed, 2),
            "fleet_devices": fleet_size,
            "fleet_seconds": round(fleet["seconds"], 3),
            "fleet_cpu_seconds": round(fleet["cpu_seconds"], 3),
            "fleet_ratio": round(fleet["seconds"] / one, 2),
            "egress_ratio": round(fleet["artifacts"], 3),
            **delta.measure(),
        }


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--megabytes", type=int, default=50, help="size of the artifact")
    parser.add_argument("--devices", type=int, default=20, help="size of the fleet")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
        figures = measure(Path(folder), arguments.megabytes, arguments.devices)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
