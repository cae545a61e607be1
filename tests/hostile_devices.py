"""Devices made by hand, with credentials and keys of their own, that answer tasks as they like.

They speak MQTT to the real broker under the accounts that the manager would have given them,
and sign what they say; what they say is up to the test.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np
from nacl.signing import SigningKey

from agent.contract.authority import Authority
from agent.contract.belief import believe_task
from agent.contract.codec import encode
from agent.contract.envelope import Boot, device_id, stamp_report
from agent.contract.frames import pack_parcel
from agent.contract.messages import Inventory, Presence, Reported, SlotReport
from agent.contract.rounds import Task, TaskAnswer
from agent.contract.tensors import (
    ArrayRecord,
    FlowerMessage,
    MetricRecord,
    decode_message,
    encode_message,
)
from agent.contract.topics import INVENTORY, PRESENCE, REPORTED, ROUND_ANSWER, ROUND_OFFER, Topics
from agent.learn.samples import LabelledWindows
from agent.learn.trainer import answer_task
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Arrived, Connected, Connection, Message
from tests.small_rounds import mean_over_time

Said = tuple[TaskAnswer, bytes]


@dataclass(frozen=True, slots=True)
class Offered:
    """A task, its Flower message, and what an honest device would answer."""

    task: Task
    message: bytes
    honest: bytes

    def says(self, reply: bytes, **changes: object) -> Said:
        known: dict[str, object] = {
            "run": self.task.run,
            "task": self.task.task,
            "outcome": "done",
            "digest": sha256(reply).hexdigest(),
        }
        return TaskAnswer(**(known | changes)), reply  # type: ignore[arg-type]

    def with_arrays(self, change: Callable[[np.ndarray], np.ndarray]) -> Said:
        """Answer with another weight."""
        message = decode_message(self.honest)
        arrays = message.content["arrays"].items
        changed = arrays | {"weight": change(arrays["weight"].copy())}
        return self._with({"arrays": ArrayRecord(changed)})

    def with_metrics(self, **changes: object) -> Said:
        """Answer with other metrics; dashes are underscores here, None leaves one out."""
        message = decode_message(self.honest)
        ((name, record),) = [
            (n, r) for n, r in message.content.items() if isinstance(r, MetricRecord)
        ]
        told = record.items | {key.replace("_", "-"): value for key, value in changes.items()}
        return self._with({name: MetricRecord({k: v for k, v in told.items() if v is not None})})

    def with_metadata(self, **changes: object) -> Said:
        message = decode_message(self.honest)
        changed = replace(message, metadata=replace(message.metadata, **changes))
        return self.says(encode_message(changed))

    def _with(self, records) -> Said:
        message = decode_message(self.honest)
        content = {**message.content, **records}
        return self.says(encode_message(FlowerMessage(metadata=message.metadata, content=content)))


Answering = Callable[[Offered], Iterable[Said]]


def honestly(offered: Offered) -> Iterable[Said]:
    """Answer as every device should."""
    yield offered.says(offered.honest)


@dataclass
class HandMade:
    """One device; ``connect`` before use. It answers whatever it is offered in ``turn``."""

    seed: int
    topics: Topics
    answering: Answering = honestly
    key: SigningKey = field(init=False)
    said: list[Message] = field(default_factory=list)
    offered: list[Offered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = SigningKey(sha256(b"hand made %d" % self.seed).digest())
        self.boot = Boot(1, os.urandom(8).hex())
        self._sequence = 2**40
        self._link: BrokerLink | None = None

    @property
    def id(self) -> str:
        return device_id(self.key.verify_key)

    def connect(self, url: str, ca: str, password: str) -> None:
        """Log in, and listen."""
        connection = Connection(
            url=url, ca=ca, username=self.id, password=password, client_id=self.id,
            longest_wait_seconds=0.5,
        )  # fmt: skip
        filters = tuple((name, 1) for name in self.topics.of_device(self.id))
        self._link = BrokerLink(connection, subscriptions=filters)
        deadline = time.monotonic() + 20
        while not any(isinstance(news, Connected) for news in self._link.poll(0.1)):
            assert time.monotonic() < deadline, "the broker does not let it in"

    def announce(self, digest: str, presence: str = "online") -> None:
        """Say that it trains, and that it runs a release."""
        now = int(time.time() * 1000)
        told = Presence(s=presence, boot=str(self.boot), epoch=now)
        inventory = Inventory(
            rev=1, ts=now, hardware="generic-linux", arch="x86_64", system="Linux",
            python="3.11", agent="0.1.0", memory_bytes=10**9, slots=("motion",), trains=True,
        )  # fmt: skip
        reported = Reported(rev=1, ts=now, slots={"motion": SlotReport(current=digest)})
        self._say(INVENTORY.at(self.id), encode(inventory))
        self._say(REPORTED.at(self.id), encode(reported))
        self._say(PRESENCE.at(self.id), encode(told))

    def turn(self, authority: Authority, seconds: float = 0.02) -> None:
        """Answer the offers that have come."""
        assert self._link is not None
        arrived = [news for news in self._link.poll(seconds) if isinstance(news, Arrived)]
        for message in arrived:
            address = self.topics.read(message.topic)
            if address.channel is ROUND_OFFER:
                self._answer(*believe_task(
                    message.payload, authority=authority, device=self.id, run=address.name or ""
                ))  # fmt: skip
        self._link.settle(arrived)

    def repeat(self, number: int = -1) -> None:
        """Publish the very bytes of an earlier answer again, stamp and all."""
        assert self._link is not None
        assert self._link.publish(self.said[number])

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def answer(self, said: Said) -> None:
        answer, attachment = said
        payload = pack_parcel(encode(answer), attachment)
        self.said.append(self._say(ROUND_ANSWER.at(self.id, answer.run), payload))

    def _answer(self, task: Task, message: bytes) -> None:
        assert not task.shared, "these devices take whole messages only"
        offered = Offered(task, message, self._train(message, task.kind))
        self.offered.append(offered)
        for said in self.answering(offered):
            self.answer(said)

    def _train(self, message: bytes, kind: str) -> bytes:
        head = decode_message(message).content["arrays"].items["weight"]
        return answer_task(
            message, kind, mean_over_time, some_windows(self.seed, *head.shape)
        ).reply

    def _say(self, address, payload: bytes) -> Message:
        assert self._link is not None
        self._sequence += 1
        stamp = stamp_report(self.key, address.logical, self.boot, self._sequence, payload)
        message = Message(
            topic=self.topics.write(address),
            payload=payload,
            retain=address.channel.retain,
            properties=stamp.properties(),
            content_type="application/octet-stream",
        )
        assert self._link.publish(message)
        return message


def some_windows(seed: int, classes: int, width: int, count: int = 84) -> LabelledWindows:
    """Windows whose means over time are clouds, one for each class."""
    chance = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centres = np.random.default_rng(0).normal(0, 1, (classes, width))
    x = (centres[y] + chance.normal(0, 0.5, (count, width))).astype(np.float32)
    split = (np.arange(count) // classes % 3).astype(np.uint8)
    return LabelledWindows(x=np.repeat(x[:, :, None], 2, axis=2), y=y.astype(np.int64), split=split)
