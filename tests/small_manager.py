"""A manager of one thread and no memory on disk, made of the fleet's own parts.

It signs, serves and acknowledges as the real one does, so that an agent can be tested
against a real broker without the real manager's registry and rollouts.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Self

import msgspec
from nacl.signing import VerifyKey

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.codec import decode, encode
from agent.contract.enrolment import EnrolmentFile, EnrolReply
from agent.contract.envelope import Boot, Stamp, check_report, device_id
from agent.contract.frames import unpack_parcel
from agent.contract.messages import (
    Ack,
    Assigned,
    Assignment,
    ChunkRequest,
    Event,
    Fresh,
    FreshRequest,
    Inventory,
    ManagerPresence,
    MetaRequest,
    Presence,
    Reported,
)
from agent.contract.rounds import Task, TaskAnswer
from agent.contract.sealing import wrap_key
from agent.contract.telemetry import Prediction, Telemetry
from agent.contract.topics import (
    ACK,
    ARTIFACT_REQUEST,
    ASSIGNMENT,
    ENROL_REPLY,
    ENROL_REQUEST,
    EVENT,
    FRESH,
    FRESH_REQUEST,
    INVENTORY,
    MANAGER_PRESENCE,
    META_REQUEST,
    PREDICTION,
    PRESENCE,
    REPORTED,
    ROUND_ANSWER,
    ROUND_OFFER,
    TELEMETRY,
    Address,
)
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Arrived, Message
from fleet.ingest.mosquitto import ENROL_USER
from fleet.ingest.serve import ChunkServer, metadata_pieces
from fleet.registry.artifacts import Artifacts
from fleet.release.build import BuiltRelease, Placement, build_release, find_head
from fleet.release.delta import Earlier
from fleet.signing.assignment import sign_ack, sign_assignment, sign_fresh, sign_task
from fleet.signing.ceremony import create_dev, load_targets_keys
from fleet.signing.enrolment import Admitted, Pending, Refused, Token, judge_request, seal_reply
from fleet.signing.metadata import next_targets
from fleet.signing.repository import Repository
from tests.brokers import Mosquitto

DAY_MS = 86_400_000


def now_ms() -> int:
    return int(time.time() * 1000)


@dataclass
class Heard:
    """What one device said."""

    reports: dict[tuple[Boot, int], tuple[Address, bytes]] = field(default_factory=dict)
    repeated: int = 0
    presence: list[Presence] = field(default_factory=list)
    inventory: list[Inventory] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    answers: list[tuple[TaskAnswer, bytes]] = field(default_factory=list)

    def events(self, kind: str) -> list[Event]:
        found = [decode(Event, p) for a, p in list(self.reports.values()) if a.channel is EVENT]
        return [event for event in found if event.type == kind]

    def telemetry(self) -> list[Telemetry]:
        said = list(self.reports.values())
        return [decode(Telemetry, p) for a, p in said if a.channel is TELEMETRY]

    def outcome_of(self, digest: str) -> list[str | None]:
        return [event.outcome for event in self.events("update") if event.release == digest]


class SmallManager:
    """See above; ``with`` starts and stops its thread."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.broker = broker
        self.topics = broker.topics
        self.keys = create_dev(
            folder / "keys", folder / "repository", self.topics.fleet, datetime.now(UTC)
        )
        self.targets_keys = load_targets_keys(folder / "keys", "", dev=True)
        self.repository = Repository(
            folder / "repository", snapshot=self.keys.snapshot, timestamp=self.keys.timestamp
        )
        self.artifacts = Artifacts(folder / "artifacts")
        self.chunks = ChunkServer(self.artifacts)
        self.devices: dict[str, VerifyKey] = {}
        self.heard: dict[str, Heard] = {}
        self.tokens: dict[str, Token] = {}
        self.approved: set[str] = set()
        self.epoch = 1
        self.acknowledges = True
        self.assignments: dict[str, bytes] = {}
        self.content_keys: dict[str, bytes] = {}
        self._sequence = 0
        self._outgoing: list[Message] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._provisioner = broker.provisioner()
        self._link: BrokerLink | None = None
        self._thread: threading.Thread | None = None
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._stop.clear()
        filters = tuple((name, 1) for name in self.topics.of_manager())
        self._link = BrokerLink(self.broker.manager(), subscriptions=filters)
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)
        self._thread.start()
        presence = ManagerPresence(s="online", epoch=self.epoch)
        self.send(MANAGER_PRESENCE.at("manager"), encode(presence))

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(20)
        if self._link:
            self._link.close()
        self._provisioner.close()
        self.epoch += 1

    def token(self, *, uses: int = 1, approval: str = "auto", expired: bool = False) -> bytes:
        """Return the content of an enrolment file."""
        from nacl.signing import SigningKey

        key = SigningKey.generate()
        expires = now_ms() + (-1000 if expired else DAY_MS)
        self.tokens[bytes(key.verify_key).hex()] = Token(
            uses_left=uses,
            expires_ms=expires,
            approval="manual" if approval == "manual" else "auto",
        )
        accounts = self.broker.accounts
        return encode(
            EnrolmentFile(
                fleet=self.topics.fleet,
                prefix=self.topics.prefix,
                enrol_url=self.broker.enrol_url,
                username=ENROL_USER,
                password=accounts.enrol,
                root_digest=self.repository.root_digest(),
                token=bytes(key).hex(),
                expires_ms=now_ms() + DAY_MS,
            )
        )

    def publish(
        self,
        model: bytes,
        placement: Placement,
        *,
        only_manifest: bool = False,
        earlier: Sequence[Earlier] | None = None,
        encrypt: bool = False,
    ) -> BuiltRelease:
        """Sign a release into the repository and keep its artifacts."""
        named = msgspec_replace(placement, head=find_head(model))
        built = build_release(
            model,
            named,
            golden_inputs=None,
            metrics={},
            now_ms=now_ms(),
            earlier=earlier,
            encrypt=encrypt,
        )
        self.content_keys |= built.keys
        if not only_manifest:
            for content in built.artifacts.values():
                self.artifacts.put(content)
        files = {built.release.target: built.manifest}
        now = datetime.now(UTC)
        targets = next_targets(
            self.repository.targets_metadata(),
            additions=files,
            removals=(),
            signers=self.targets_keys[:1],
            now=now,
        )
        with self._lock:
            self.repository.publish(targets, files, now)
        return built

    def assign(self, device: str, built: BuiltRelease, *, slot: str = "motion") -> None:
        release = built.release
        self.assign_slots(
            device,
            {slot: Assigned(target=release.target, digest=built.digest, counter=release.counter)},
        )

    def assign_slots(self, device: str, slots: dict[str, Assigned]) -> None:
        self._sequence += 1
        authority = self.repository.authority()
        assignment = Assignment(
            device=device,
            fleet=self.topics.fleet,
            director_epoch=authority.director_epoch,
            sequence=self._sequence,
            slots=slots,
            issued_ms=now_ms(),
            expires_ms=now_ms() + 7 * DAY_MS,
            keys={
                digest: wrap_key(key, self.devices[device])
                for digest, key in self.content_keys.items()
            },
        )
        payload = sign_assignment(
            self.keys.director, assignment, authority=authority, now_ms=now_ms()
        )
        self.assignments[device] = payload
        self.send(ASSIGNMENT.at(device), payload)

    def offer(self, task: Task, attachment: bytes) -> None:
        payload = sign_task(
            self.keys.director, task, attachment, authority=self.repository.authority()
        )
        address = ROUND_OFFER.at(task.device, task.run)
        self.send(address, payload, content_type="application/octet-stream")

    def send(
        self, address: Address, payload: bytes, content_type: str = "application/json"
    ) -> None:
        channel = address.channel
        message = Message(
            topic=self.topics.write(address),
            payload=payload,
            qos=channel.qos,
            retain=channel.retain,
            expiry_seconds=channel.expiry_seconds,
            content_type=content_type,
        )
        with self._lock:
            self._outgoing.append(message)
        if self._link:
            self._link.wake()

    def heard_of(self, device: str) -> Heard:
        return self.heard.setdefault(device, Heard())

    def _run(self) -> None:
        link = self._link
        assert link
        while not self._stop.is_set():
            arrived = [news for news in link.poll(0.2) if isinstance(news, Arrived)]
            for message in arrived:
                try:
                    self._take(message)
                except Exception as why:  # noqa: BLE001 - kept for the test, which asserts none
                    self.problems.append(f"{message.topic}: {why!r}")
            link.settle(arrived)
            for address, piece in self.chunks.ready(time.monotonic()):
                self.send(address, piece, content_type="application/octet-stream")
            with self._lock:
                outgoing, self._outgoing = self._outgoing, []
            unsent = [message for message in outgoing if not link.publish(message)]
            with self._lock:
                self._outgoing = unsent + self._outgoing

    def _take(self, message: Arrived) -> None:
        if not message.payload:
            return
        address = self.topics.read(message.topic)
        if address.channel is ENROL_REQUEST:
            self._enrol(address.who, message.payload)
            return
        device, heard = address.who, self.heard_of(address.who)
        if address.channel is PREDICTION:
            heard.predictions.append(decode(Prediction, message.payload))
            return
        stamp = Stamp.read(message.properties)
        check_report(self.devices[device], address.logical, stamp, message.payload)
        channel, payload = address.channel, message.payload
        if channel in (TELEMETRY, EVENT):
            self._report(device, heard, stamp, address, payload)
        elif channel is PRESENCE:
            heard.presence.append(decode(Presence, payload))
        elif channel is INVENTORY:
            heard.inventory.append(decode(Inventory, payload))
        elif channel is REPORTED:
            heard.reported.append(decode(Reported, payload))
        elif channel is FRESH_REQUEST:
            self._fresh(device, decode(FreshRequest, payload))
        elif channel is META_REQUEST:
            request = decode(MetaRequest, payload)
            with self._lock:
                files = self.repository.bundle(request.root, request.targets)
            for where, piece in metadata_pieces(device, request, files):
                self.send(where, piece, content_type="application/octet-stream")
        elif channel is ARTIFACT_REQUEST:
            self.chunks.ask(device, decode(ChunkRequest, payload))
        elif channel is ROUND_ANSWER:
            document, attachment = unpack_parcel(payload)
            heard.answers.append((decode(TaskAnswer, document), attachment))
        else:
            raise AssertionError(f"nobody expected {message.topic}")

    def _report(
        self, device: str, heard: Heard, stamp: Stamp, address: Address, payload: bytes
    ) -> None:
        key = (stamp.boot, stamp.sequence)
        heard.repeated += key in heard.reports
        heard.reports[key] = (address, payload)
        recorded = 0
        while (stamp.boot, recorded + 1) in heard.reports:
            recorded += 1
        if self.acknowledges:
            ack = Ack(device=device, boot=str(stamp.boot), sequence=recorded)
            authority = self.repository.authority()
            self.send(ACK.at(device), sign_ack(self.keys.director, ack, authority=authority))

    def _fresh(self, device: str, request: FreshRequest) -> None:
        authority = self.repository.authority()
        newest = self.assignments.get(device)
        fresh = Fresh(
            device=device,
            nonce=request.nonce,
            director_epoch=authority.director_epoch,
            sequence=self._sequence,
            digest=sha256(newest).hexdigest() if newest else None,
            now_ms=now_ms(),
        )
        self.send(FRESH.at(device), sign_fresh(self.keys.director, fresh, authority=authority))

    def _enrol(self, nonce: str, payload: bytes) -> None:
        judged = judge_request(
            payload,
            fleet=self.topics.fleet,
            nonce=nonce,
            token=self.tokens.get,
            known=lambda d: "enrolled" if d in self.approved or d in self.devices else None,
            seen=lambda _: False,
            now_ms=now_ms(),
        )
        status, why, password = "refused", "", None
        match judged:
            case Admitted(request=request, device=device):
                token = self.tokens[request.token_key]
                if device not in token.used_by:
                    self.tokens[request.token_key] = msgspec_replace(
                        token, uses_left=token.uses_left - 1, used_by=(*token.used_by, device)
                    )
                self.devices[device] = VerifyKey(bytes.fromhex(request.device_key))
                status, password = "enrolled", self._provisioner.grant(device)
            case Pending(request=request, device=device, why=why):
                status = "pending"
            case Refused(request=request, device=device, why=why):
                pass
        reply = EnrolReply(
            device=device,
            nonce=nonce,
            fleet=self.topics.fleet,
            status=status,
            why=why,
            broker_url=self.broker.url,
            username=device if password else None,
            password=password,
        )
        metadata = self.repository.bundle(0, (AUTHORITY_TARGET,))
        sealed = seal_reply(request, reply, key=self.keys.enrolment, metadata=metadata)
        self.send(ENROL_REPLY.at(nonce), sealed, content_type="application/octet-stream")


def msgspec_replace(value, **changes):
    """``dataclasses.replace`` or its msgspec twin."""
    with suppress(TypeError):
        return msgspec.structs.replace(value, **changes)
    from dataclasses import replace

    return replace(value, **changes)


__all__ = ["Heard", "SmallManager", "device_id", "now_ms"]
