"""One device of the transfer bench: the agent's own link, inbox and fetch, nothing else.

Usage: transfer_device.py JOB        (a JSON file, see ``Job``)

Rule 1: it says ``ready`` when connected, begins at a line on standard input, and ends
        with one line of figures.
Rule 2: ``kill_after`` chunks it kills itself, after that line, as a power cut of the
        process would; the next one resumes.
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


class Job(msgspec.Struct, frozen=True):
    """Who fetches what, from where, into which folder."""

    device: str
    password: str
    url: str
    fleet: str
    folder: str
    artifact: Artifact
    kill_after: int = 0


class Figures(msgspec.Struct):
    """What one device saw; moments are on the clock that all processes share."""

    began: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    asked: int = 0
    arrived: int = 0
    why: str = ""


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

    def fetch(self) -> None:
        """Fetch the artifact as the agent does: ask, wait, take."""
        self.figures.began = time.monotonic()
        disk = Disk(Path(self.job.folder))
        fetch = Fetch(
            self.job.artifact, disk, now_seconds=time.monotonic(), stall_seconds=STALL_SECONDS
        )
        while isinstance(progress := fetch.progress(time.monotonic()), Fetching):
            for request in fetch.requests(time.monotonic()):
                self.listening.ask(request)
            item = self.inbox.get(max(fetch.wait_seconds(time.monotonic()), 0.01))
            if isinstance(item, Arrived) and item.address.channel in {ARTIFACT, ARTIFACT_CAST}:
                self.figures.arrived += 1
                piece = Piece.decode(item.payload)
                if item.address.channel is ARTIFACT_CAST:
                    self.listening.heard(item.address, piece.index)
                fetch.take(piece, time.monotonic())
            if self.job.kill_after and self.figures.arrived >= self.job.kill_after:
                self.tell()
                os.kill(os.getpid(), signal.SIGKILL)
        self.listening.stop()
        if isinstance(progress, FetchFailed):
            self.figures.why = progress.why

    def tell(self) -> None:
        """Write the figures."""
        self.figures.ended = time.monotonic()
        self.figures.cpu_seconds = time.process_time()
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
    if not sys.stdin.readline():
        return 1  # whoever measures is gone
    device.fetch()
    device.tell()
    device.broker.stop()
    return 1 if device.figures.why else 0


if __name__ == "__main__":
    sys.exit(main())
