"""What it costs a device to be sure of a staged artifact, beside hashing it once.

Rule 1: staged means that every chunk is on the medium. The cost is all that the device
        then does before a model may answer, by its own code: the end of the transfer
        (``Transfers``), the check in a child (``Store.require`` with the seals that a
        ``CheckJob`` carries, as JSON), and loading it to serve (``Store.require``).
Rule 2: once is ``hashlib.file_digest`` of the same bytes with SHA-256.
Rule 3: both take turns in changing order, on warm files; ``ratio`` is that of the medians.
        ``ratio_unsealed`` is the same work with the seals broken: what it would cost otherwise.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from hashlib import file_digest
from pathlib import Path

import msgspec

from agent.contract.manifest import Artifact, describe_artifact
from agent.daemon.agenda import Agenda
from agent.daemon.transfers import Surroundings, Transfers
from agent.disk import Disk
from agent.link.chunk_map import write_map
from agent.link.fetch import FetchFailed
from agent.update.store import Store
from agent.worker.jobs import CheckJob

MIB = 1024 * 1024


class Place:
    """A device's disk with one artifact staged on it, again and again."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.artifact: Artifact = describe_artifact(content)
        self.disk = Disk(folder)
        self._content = content

    def stage(self) -> None:
        """Put every chunk on the medium, as a transfer leaves them before it looks."""
        name = f"store/{self.artifact.digest}"
        self.disk.remove(name)
        self.disk.write(f"{name}.part", self._content)
        write_map(self.disk, f"{name}.map", self.artifact, bytearray([1]) * self.artifact.count)

    def once(self) -> float:
        """Return the seconds of hashing the staged bytes once."""
        began = time.perf_counter()
        with self.disk.path(f"store/{self.artifact.digest}.part").open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
        seconds = time.perf_counter() - began
        if found != self.artifact.digest:
            raise SystemExit("verify: the staged bytes are not the artifact")
        return seconds

    def device(self, *, sealed: bool) -> float:
        """Return the seconds from staged to served; not ``sealed`` forgets what was hashed."""
        began = time.perf_counter()
        store = Store(self.disk)
        self._end_transfer(store)
        if not sealed:
            store = Store(self.disk)
        said = msgspec.json.encode(self._job(store))
        child = Store(self.disk)
        child.seals.adopt(msgspec.json.decode(said, type=CheckJob).sealed)
        child.require(self.artifact.digest)
        store.require(self.artifact.digest)
        return time.perf_counter() - began

    def _job(self, store: Store) -> CheckJob:
        return CheckJob(
            state_dir=str(self.disk.root),
            digest=self.artifact.digest,
            hardware="any",
            installed=(),
            sealed=store.seals.fresh(),
        )

    def _end_transfer(self, store: Store) -> None:
        ended: list[str] = []
        agenda = Agenda()

        def failed(_slot: str, _release: str, failure: FetchFailed) -> None:
            raise SystemExit(f"verify: {failure.why}")

        around = Surroundings(
            ask=lambda _: True,
            done=lambda _, release: ended.append(release),
            failed=failed,
            monotonic=time.monotonic,
            hashed=store.seal,
        )
        transfers = Transfers(self.disk, agenda, around, stall_seconds=60.0)
        transfers.begin("bench", self.artifact.digest, (self.artifact,))
        for action in agenda.due(time.monotonic()):
            action()
        if not ended:
            raise SystemExit("verify: the staged artifact asks for more")


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, float]:
    """Return the medians in seconds, and their ratios."""
    place = Place(folder, os.urandom(megabytes * MIB))
    once, sealed, unsealed = list[float](), list[float](), list[float]()
    for number in range(rounds):
        place.stage()
        if number % 2:
            once.append(place.once())
            sealed.append(place.device(sealed=True))
        else:
            place.once()  # both find the same warm file
            sealed.append(place.device(sealed=True))
            place.stage()
            once.append(place.once())
        place.stage()
        unsealed.append(place.device(sealed=False))
    return {
        "megabytes": megabytes,
        "rounds": rounds,
        "once_seconds": round(statistics.median(once), 4),
        "device_seconds": round(statistics.median(sealed), 4),
        "ratio": round(statistics.median(sealed) / statistics.median(once), 3),
        "ratio_unsealed": round(statistics.median(unsealed) / statistics.median(once), 3),
    }


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--megabytes", type=int, default=50, help="size of the artifact")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        figures = measure(Path(folder), arguments.megabytes, arguments.rounds)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
