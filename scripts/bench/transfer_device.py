"""One device of the transfer bench: the agent's own link, inbox and fetch, nothing else.

Usage: transfer_device.py JOB        (a JSON file, see ``Job``)

Rule 1: it says ``ready`` when connected, begins each task at a line on standard input, and
        ends it with one line of figures.
Rule 2: ``kill_after`` chunks it kills itself, after that line, as a power cut of the
        process would; the next one resumes.
Rule 3: processor time is that of the task: the start of Python and its imports are what a
        running agent has behind it.
"""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from agent.contract.codec import encode
from agent.contract.frames import Piece
from agent.contract.manifest import Artifact
from agent.contract.messages import ChunkRequest
from agent.contract.topics import ARTIFACT, ARTIFACT_CAST, ARTIFACT_REQUEST, Topics
from agent.daemon.agenda import Agenda
from agent.daemon.listening import Listening, Surroundings
from agent.disk import Disk
from agent.link.connection import Connection, Outgoing
from agent.link.fetch import Fetch, FetchFailed, Fetching
from agent.link.inbox import Arrived, Connected, Inbox
from agent.link.patience import Pace
from agent.link.session import Broker

STALL_SECONDS = 60.0


class Task(msgspec.Struct, frozen=True):
    """What is fetched; ``listens`` is False for a device that takes part in no cast."""

    artifact: Artifact
    listens: bool = True
    kill_after: int = 0


class Job(msgspec.Struct, frozen=True):
    """Who fetches what, one after the other, from where, into which folder."""

    device: str
    password: str
    url: str
    fleet: str
    folder: str
    tasks: tuple[Task, ...]


class Figures(msgspec.Struct):
    """What one device saw; moments are on the clock that all processes share."""

    began: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    asked: int = 0
    arrived: int = 0
    why: str = ""

    @property
    def chunks(self) -> int:
        """What this device cost: chunks that it asked for, or that came unasked."""
        return max(self.asked, self.arrived)


class Device:
    """The parts of the agent that move artifacts, joined as the daemon joins them."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.topics = Topics(fleet=job.fleet)
        self.inbox = Inbox()
        self.figures = Figures()
        self.broker = Broker(
            Connection(
                url=job.url, username=job.device, password=job.password, client_id=job.device
            ),
            self.topics,
            self.inbox,
            subscriptions=self.topics.heard_by_device(job.device),
            pace=Pace(first_seconds=0.0),
        )
        self.listening = Listening(
            Agenda(),
            Surroundings(
                ask=self._ask,
                listen=self.broker.listen,
                unlisten=self.broker.unlisten,
                monotonic=time.monotonic,
            ),
        )
        Path(job.folder).mkdir(parents=True, exist_ok=True)

    def connect(self) -> None:
        """Return once the broker took us."""
        self.broker.start()
        while not isinstance(self.inbox.get(30.0), Connected):
            pass

    def fetch(self, task: Task) -> None:
        """Fetch an artifact as the agent does: ask, wait, take."""
        self.figures = Figures(began=time.monotonic(), cpu_seconds=-time.process_time())
        disk = Disk(Path(self.job.folder))
        fetch = Fetch(
            task.artifact, disk, now_seconds=time.monotonic(), stall_seconds=STALL_SECONDS
        )
        ask = self.listening.ask if task.listens else self._ask
        while isinstance(progress := fetch.progress(time.monotonic()), Fetching):
            for request in fetch.requests(time.monotonic()):
                ask(request)
            item = self.inbox.get(max(fetch.wait_seconds(time.monotonic()), 0.01))
            if isinstance(item, Arrived) and item.address.channel in {ARTIFACT, ARTIFACT_CAST}:
                self.figures.arrived += 1
                piece = Piece.decode(item.payload)
                if item.address.channel is ARTIFACT_CAST:
                    self.listening.heard(item.address, piece.index)
                fetch.take(piece, time.monotonic())
            if task.kill_after and self.figures.arrived >= task.kill_after:
                self.tell()
                os.kill(os.getpid(), signal.SIGKILL)
        self.listening.stop()
        if isinstance(progress, FetchFailed):
            self.figures.why = progress.why

    def tell(self) -> None:
        """Write the figures."""
        self.figures.ended = time.monotonic()
        self.figures.cpu_seconds += time.process_time()
        print(msgspec.json.encode(self.figures).decode(), flush=True)

    def _ask(self, request: ChunkRequest) -> bool:
        self.figures.asked += sum(count for _, count in request.r)
        address = ARTIFACT_REQUEST.at(self.job.device)
        return self.broker.publish(Outgoing(address=address, payload=encode(request)))


def main() -> int:
    """Run one device."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    device = Device(job)
    device.connect()
    print("ready", flush=True)
    for task in job.tasks:
        if not sys.stdin.readline():
            break  # whoever measures is gone, or has seen enough
        device.fetch(task)
        device.tell()
    device.broker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
