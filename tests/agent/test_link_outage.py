"""Outbox and fetch across a real broker that is killed while they work."""

from pathlib import Path
from time import monotonic

import pytest
from nacl.signing import SigningKey

from agent.contract.codec import decode, encode
from agent.contract.envelope import Boot, Stamp, check_report, stamp_report
from agent.contract.frames import Piece
from agent.contract.limits import CHUNK_BYTES
from agent.contract.manifest import Artifact, describe_artifact
from agent.contract.messages import Ack, ChunkRequest
from agent.contract.topics import ACK, ARTIFACT, ARTIFACT_REQUEST, TELEMETRY
from agent.disk import Disk
from agent.link.connection import Connection, Outgoing
from agent.link.fetch import Fetch, Fetched, Fetching
from agent.link.inbox import Arrived, Connected, Inbox
from agent.link.outbox import Outbox
from agent.link.patience import Pace
from agent.link.session import Broker
from fleet.ingest.mail import Arrived as Heard
from fleet.ingest.mail import Message
from tests.brokers import TOPICS, Listener, Mosquitto

pytestmark = pytest.mark.broker
DEVICE = "d-one"
KEY = SigningKey(bytes(32))
BOOT = Boot(1, "00112233445566ff")


def sign(topic: str, boot: Boot, sequence: int, payload: bytes) -> bytes:
    return stamp_report(KEY, topic, boot, sequence, payload).signature


class Agent:
    """The smallest loop that uses the link as the daemon does."""

    def __init__(self, mosquitto: Mosquitto, root: Path, boot: Boot = BOOT) -> None:
        provisioner = mosquitto.provisioner()
        password = provisioner.grant(DEVICE)
        provisioner.close()
        self.inbox = Inbox()
        self.outbox = Outbox(
            Disk(root),
            device=DEVICE,
            boot=boot,
            sign=sign,
            moment=lambda: (0, 0),
            resend_seconds=1.0,
        )
        self.fetch: Fetch | None = None
        self.connects = 0
        self.broker = Broker(
            Connection(url=mosquitto.url, username=DEVICE, password=password, client_id=DEVICE),
            TOPICS,
            self.inbox,
            subscriptions=TOPICS.of_device(DEVICE),
            pace=Pace(first_seconds=0.0, shortest_seconds=0.1, longest_seconds=0.3),
        )
        self.broker.start()

    def turn(self) -> None:
        for record in self.outbox.due(monotonic()):
            stamped = record.stamp.properties()
            if not self.broker.publish(
                Outgoing(address=record.address, payload=record.payload, properties=stamped)
            ):
                break
            self.outbox.sent(record, monotonic())
        if self.fetch is not None:
            for request in self.fetch.requests(monotonic()):
                self.broker.publish(
                    Outgoing(address=ARTIFACT_REQUEST.at(DEVICE), payload=encode(request))
                )
        while (item := self.inbox.get(0.005)) is not None:
            match item:
                case Connected():
                    self.connects += 1
                    self.outbox.reconnected()
                case Arrived(address=address) if address.channel is ACK:
                    ack = decode(Ack, item.payload)
                    self.outbox.acknowledge(Boot.parse(ack.boot), ack.sequence)
                    self.broker.settle(item)
                case Arrived(address=address) if address.channel is ARTIFACT:
                    if self.fetch is not None:
                        self.fetch.take(Piece.decode(item.payload), monotonic())


class Manager:
    """Records, acknowledges and serves chunks, as intake and serve do."""

    def __init__(self, mosquitto: Mosquitto) -> None:
        self.listener = Listener(mosquitto.manager(), f"{TOPICS.root}/up/#")
        self.recorded: dict[int, bytes] = {}
        self.resent = 0
        self.body = b""
        self.artifact: Artifact | None = None

    def turn(self) -> None:
        for news in self.listener.turn(0.005):
            if not isinstance(news, Heard):
                continue
            address = TOPICS.read(news.topic)
            if address.channel is ARTIFACT_REQUEST:
                self._serve(decode(ChunkRequest, news.payload))
                continue
            stamp = Stamp.read(news.properties)
            check_report(KEY.verify_key, address.logical, stamp, news.payload)
            self.resent += stamp.sequence in self.recorded
            assert self.recorded.setdefault(stamp.sequence, news.payload) == news.payload
            self._acknowledge()

    def _acknowledge(self) -> None:
        last = 0
        while last + 1 in self.recorded:
            last += 1
        ack = encode(Ack(device=DEVICE, boot=str(BOOT), sequence=last))
        self.listener.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=ack))

    def _serve(self, request: ChunkRequest) -> None:
        assert self.artifact
        for first, count in request.r:
            for index in range(first, first + count):
                piece = Piece(
                    name=bytes.fromhex(request.a[:16]),
                    index=index,
                    total=self.artifact.count,
                    content=self.body[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES],
                )
                topic = TOPICS.write(ARTIFACT.at(DEVICE, request.a[:16]))
                self.listener.link.publish(Message(topic=topic, payload=piece.encode(), qos=0))


def test_a_killed_broker_loses_no_report_and_doubles_none(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "broker").start()
    agent, manager = Agent(mosquitto, tmp_path / "device"), Manager(mosquitto)
    try:
        for n in range(120):
            agent.outbox.append(TELEMETRY, "windows", f"report {n}".encode())
            agent.turn()
            manager.turn()
            if n % 50 == 30:
                mosquitto.kill()
                agent.outbox.append(TELEMETRY, "windows", b"while it was away")
                agent.turn()
                mosquitto.start()
        deadline = monotonic() + 30
        while agent.outbox.totals().pending and monotonic() < deadline:
            agent.turn()
            manager.turn()
        totals = agent.outbox.totals()
        assert agent.connects == 3
        assert (totals.appended, totals.acknowledged, totals.dropped) == (122, 122, 0)
        assert sorted(manager.recorded) == list(range(1, 123))
    finally:
        agent.broker.stop()
        manager.listener.close()
        mosquitto.stop()


def test_a_fetch_goes_on_after_the_broker_was_killed(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "broker").start()
    agent, manager = Agent(mosquitto, tmp_path / "device"), Manager(mosquitto)
    manager.body = b"".join(n.to_bytes(4, "big") for n in range(4 * 1024 * 1024))
    artifact = manager.artifact = describe_artifact(manager.body)
    disk = Disk(tmp_path / "device")
    disk.write("store/.keep", b"")
    agent.fetch = Fetch(artifact, disk, now_seconds=monotonic())
    killed = False
    try:
        deadline = monotonic() + 60
        while isinstance(progress := agent.fetch.progress(monotonic()), Fetching):
            assert monotonic() < deadline
            agent.turn()
            manager.turn()
            if progress.chunks > 60 and not killed:
                killed = True
                mosquitto.kill()
                agent.turn()
                mosquitto.start()
        assert progress == Fetched(digest=artifact.digest)
        assert disk.read(f"store/{artifact.digest}") == manager.body
        assert killed
    finally:
        agent.broker.stop()
        manager.listener.close()
        mosquitto.stop()
