"""A manager's and some devices' ends of a round's large arrays, on a simulated clock."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from agent.contract.codec import decode
from agent.contract.frames import Piece, unpack_parcel
from agent.contract.messages import ChunkRefusal, ChunkRequest, Quality
from agent.contract.rounds import Task, TaskAnswer, UploadRequest
from agent.contract.tensors import (
    ArrayRecord,
    FlowerMessage,
    Metadata,
    MetricRecord,
    decode_message,
    encode_message,
)
from agent.contract.topics import ARTIFACT, ARTIFACT_CAST, ARTIFACT_REFUSAL, Address
from agent.daemon import listening
from agent.daemon.agenda import Agenda
from agent.daemon.learning import Learning, Surroundings
from agent.daemon.round_models import RoundModels
from agent.disk import Disk
from agent.learn.offer import Conditions
from agent.worker.jobs import LearnAnswer
from fleet.ingest.round_records import RoundRecords
from fleet.ingest.serve import ChunkServer
from fleet.ingest.uploads import Uploads
from fleet.registry.artifacts import Artifacts
from fleet.service.round_traffic import whole_answer

BACKBONE = "a" * 64
RUN = "run-1"
GOOD = Quality(right=3, windows=4)


def weights(count: int = 100_000, seed: int = 0, spread: float = 0.05) -> dict[str, np.ndarray]:
    """Return a model of so many parameters, and few more."""
    chance = np.random.default_rng(seed)
    return {
        "weight": chance.normal(0, spread, count).astype(np.float32),
        "bias": chance.normal(0, spread, 10).astype(np.float32),
    }


def flower(arrays, *, node: int = 7, kind: str = "train", reply: bool = False) -> bytes:
    """Return a Flower message with these arrays; a reply tells an invented loss."""
    head = Metadata(
        run_id=1,
        message_id=f"m-{node}",
        src_node_id=node if reply else 1,
        dst_node_id=1 if reply else node,
        message_type=kind,
    )
    content: dict[str, object] = {"arrays": ArrayRecord(arrays)}
    if reply:
        content["metrics"] = MetricRecord({"num-examples": 40, "train-loss": 0.25})
    return encode_message(FlowerMessage(metadata=head, content=content))  # type: ignore[arg-type]


def arrays_of(message: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a message."""
    return dict(decode_message(message, limit=2**27).content["arrays"].items)  # type: ignore[index, union-attr]


class Device:
    """The rooms of a device that take part; a task adds ``step`` to every weight."""

    def __init__(self, world: "World", name: str, *, quota_bytes: int = 2**28) -> None:
        self.world, self.name = world, name
        self.quota_bytes = quota_bytes
        self.disk = Disk(world.folder / name)
        self.disk.root.mkdir(exist_ok=True)
        self.online = True
        self.step = 1e-4
        self.heard: set[Address] = set()
        self.alarms: list[str] = []
        self.said: list[TaskAnswer] = []
        self.down_bytes = self.up_bytes = 0
        self.boot()

    def boot(self) -> None:
        """Start the rooms anew; the disk stays."""
        self.agenda = Agenda()
        self.work: list[tuple[Task, bytes]] = []
        around = listening.Surroundings(
            ask=self._ask,
            listen=self._listen,
            unlisten=self.heard.discard,
            monotonic=self.world.monotonic,
        )
        self.models = RoundModels(
            self.disk,
            self.agenda,
            listening.Listening(self.agenda, around),
            monotonic=self.world.monotonic,
            stall_seconds=20.0,
            quota_bytes=self.quota_bytes,
        )
        self.learning = Learning(
            self.disk,
            Surroundings(
                conditions=self._conditions,
                start=lambda task, message: self.work.append((task, message)),
                answer=self._answer,
                alarm=lambda _code, why: self.alarms.append(why),
                monotonic=self.world.monotonic,
                chunk=self._chunk,
                gather=self.models.gather,
            ),
        )

    def train(self) -> None:
        """Do what was started."""
        while self.work:
            task, message = self.work.pop(0)
            trained = {k: a + np.float32(self.step) for k, a in arrays_of(message).items()}
            reply = flower(trained, node=7, kind=task.kind, reply=True)
            self.learning.finished(LearnAnswer(reply=reply, decide=GOOD, withheld=GOOD))

    def _ask(self, request: ChunkRequest) -> bool:
        if self.online:
            self.world.chunks.ask(self.name, request)
        return self.online

    def _listen(self, address: Address) -> bool:
        self.heard.add(address)
        return self.online

    def _answer(self, _run: str, parcel: bytes) -> bool:
        if self.online:
            self.up_bytes += len(parcel)
            self.world.answered.append((self.name, parcel))
        return self.online

    def _chunk(self, _name: str, piece: bytes) -> bool:
        if self.online:
            self.up_bytes += len(piece)
            self.world.pieces.append((self.name, piece))
        return self.online

    def _conditions(self, busy_with: str | None) -> Conditions:
        return Conditions(
            device=self.name,
            trains=True,
            evaluates=True,
            train_windows=50,
            decide_windows=50,
            backbones=frozenset({BACKBONE}),
            busy_with=busy_with,
        )


@dataclass
class World:
    """The manager's end, and what is on its way."""

    folder: Path
    now: float = 100.0
    sent_bytes: int = 0
    answered: deque[tuple[str, bytes]] = field(default_factory=deque)
    pieces: deque[tuple[str, bytes]] = field(default_factory=deque)
    replies: dict[str, tuple[TaskAnswer, bytes]] = field(default_factory=dict)
    loses: int = 0

    def __post_init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.start()

    def start(self) -> None:
        """Start the manager's side anew; its files stay."""
        self.records = RoundRecords(self.folder / "rounds")
        self.chunks = ChunkServer(Artifacts(self.folder / "artifacts"), self.records.shelf)
        self.uploads = Uploads(self.folder / "uploads", lambda _d, a: a.task not in self.replies)

    def monotonic(self) -> float:
        return self.now

    def device(self, name: str, **settings: int) -> Device:
        """Let a device take part."""
        made = self.devices[name] = Device(self, name, **settings)
        return made

    def offer(self, message: bytes, name: str, *, to: str, updates: str = "f32") -> Task:
        """Offer a device the task of this name."""
        frame, shared = self.records.share(RUN, message)
        if updates != "f32":
            self.records.keep(RUN, message)
        task = Task(
            device=to,
            run=RUN,
            task=name,
            kind="train",
            backbone=BACKBONE,
            digest=sha256(message).hexdigest(),
            lasts_seconds=600,
            shared=shared,
            updates=updates,
        )
        self.devices[to].learning.offered(task, frame, lambda: None)
        return task

    def settle(self, seconds: float = 60.0) -> None:
        """Carry everything to and fro until nothing moves, or the time is over."""
        until = self.now + seconds
        while self.now < until:
            if not self._move():
                if all(not device.agenda._appointments for device in self.devices.values()):
                    return
                self.now += 0.05

    def run_until(self, holds: Callable[[], bool]) -> None:
        """Carry to and fro until something holds, but take no chunks of answers."""
        for _ in range(1000):
            if holds():
                return
            self._move(uploads=False)
            self._fetch()
            self.now += 0.01
        raise AssertionError("it never held")

    def take_chunks(self) -> None:
        """Take the chunks of answers that came."""
        while self.pieces:
            name, piece = self.pieces.popleft()
            self.uploads.take(name, Piece.decode(piece), self.now)

    def _move(self, *, uploads: bool = True) -> bool:
        moved = False
        for device in self.devices.values():
            for action in device.agenda.due(self.now):
                action()
            device.train()
        for address, payload in self.chunks.ready(self.now):
            moved = True
            self.sent_bytes += len(payload)
            self._deliver(address, payload)
        while self.answered:
            moved = True
            self._take_answer(*self.answered.popleft())
        if uploads:
            moved = moved or bool(self.pieces)
            self.take_chunks()
            self._fetch()
        return moved

    def _deliver(self, address: Address, payload: bytes) -> None:
        if self.loses and address.channel in (ARTIFACT, ARTIFACT_CAST):
            self.loses -= 1
            return
        for device in self.devices.values():
            if not device.online:
                continue
            if address.channel is ARTIFACT_CAST and address in device.heard:
                device.down_bytes += len(payload)
                device.models.heard(address, Piece.decode(payload))
            elif address.channel is ARTIFACT and address.who == device.name:
                device.down_bytes += len(payload)
                device.models.take(Piece.decode(payload))
            elif address.channel is ARTIFACT_REFUSAL and address.who == device.name:
                device.models.refused(decode(ChunkRefusal, payload))

    def _take_answer(self, name: str, parcel: bytes) -> None:
        document, attachment = unpack_parcel(parcel)
        answer = decode(TaskAnswer, document)
        self.devices[name].said.append(answer)
        if answer.outcome != "done":
            return
        if answer.upload is None:
            self.replies[answer.task] = whole_answer(self.records, answer, attachment)
        else:
            self.uploads.offer(name, answer)

    def _fetch(self) -> None:
        for uploaded in self.uploads.finished():
            found = whole_answer(self.records, uploaded.answer, uploaded.attachment)
            self.replies[uploaded.answer.task] = found
            self.uploads.done(uploaded)
        for address, payload in self.uploads.due(self.now):
            device = self.devices[address.who]
            if device.online:
                assert address.name is not None
                device.learning.upload_asked(address.name, decode(UploadRequest, payload))
