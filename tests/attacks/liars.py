"""A whole device beside a real broker and a manager that lies on demand.

What the lies do is the business of ``test_attacks_alarms``; here is how they reach a device:
over the wire, through the manager's own answers, or by a release that its offline keys signed.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from nacl.signing import SigningKey
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from agent.config_file import load_config
from agent.contract.envelope import sign_document
from agent.contract.keys import Ed25519Signer
from agent.contract.manifest import Release, describe_artifact, encode_release
from agent.contract.messages import Ack, Assigned, Assignment, Event, Fresh, FreshRequest
from agent.contract.topics import ACK, ASSIGNMENT, FRESH, HINT, Address
from fleet.release.build import BuiltRelease
from fleet.signing import keys
from fleet.signing.assignment import sign_fresh
from fleet.signing.metadata import next_targets
from tests.benches import PIPELINE, Bench, placement
from tests.brokers import Mosquitto, eventually
from tests.many_agents import ThreadedAgent
from tests.small_manager import DAY_MS, SmallManager, now_ms
from tests.small_models import classifier

Files = dict[str, bytes]
STRANGER = SigningKey(b"s" * 32)
SETTINGS = "reserve_bytes = 0\n" + PIPELINE


class LyingRepository:
    """The manager's repository, whose bundles are changed on their way."""

    def __init__(self, honest: Any) -> None:
        self._honest = honest
        self.lie: Callable[[Files], Files] = lambda files: files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def bundle(self, root: int, targets: Iterable[str]) -> Files:
        return self.lie(self._honest.bundle(root, targets))


class LyingChunks:
    """The manager's chunks, spoiled or kept back on their way."""

    def __init__(self, honest: Any) -> None:
        self._honest = honest
        self.spoil: Callable[[bytes], bytes | None] = lambda piece: piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def ready(self, now: float) -> list[tuple[Address, bytes]]:
        spoiled = [(where, self.spoil(piece)) for where, piece in self._honest.ready(now)]
        return [(where, piece) for where, piece in spoiled if piece is not None]


class Liar(SmallManager):
    """A manager in the hands of somebody else, or beside somebody who writes to its topics."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        super().__init__(folder, broker)
        self.folder = folder
        self.honest = self.repository
        self.repository = LyingRepository(self.honest)  # type: ignore[assignment]
        self.chunks = LyingChunks(self.chunks)  # type: ignore[assignment]
        self.told: dict[str, Any] = {}

    def _fresh(self, device: str, request: FreshRequest) -> None:
        if not self.told:
            super()._fresh(device, request)
            return
        newest = self.assignments.get(device)
        said = Fresh(
            device=device,
            nonce=request.nonce,
            director_epoch=self.honest.authority().director_epoch,
            sequence=self._sequence,
            digest=sha256(newest).hexdigest() if newest else None,
            now_ms=now_ms(),
        )
        said = msgspec.structs.replace(said, **self.told)
        authority = self.honest.authority()
        self.send(FRESH.at(device), sign_fresh(self.keys.director, said, authority=authority))


class World:
    """One broker, one liar, one device in threads that serves a good release."""

    def __init__(self, folder: Path) -> None:
        self.broker = Mosquitto(folder / "broker").start()
        self.manager = Liar(folder / "home", self.broker)
        self.manager.start()
        bench = Bench(folder, self.manager, SETTINGS)
        self.bench = bench
        text = bench.config.read_text()
        for slow, quick in (("answer_seconds = 2", "answer_seconds = 0.3"),
                            ("stall_seconds = 5", "stall_seconds = 1.5")):  # fmt: skip
            assert slow in text
            text = text.replace(slow, quick)
        bench.config.write_text(text)
        self.agent = ThreadedAgent.__new__(ThreadedAgent)
        self.agent.folder, self.agent.config = bench.folder, load_config(bench.config)
        self.agent._loop = self.agent._thread = None
        self.device = bench.device
        self.counter = 10
        self.undo: Callable[[], None] = lambda: None
        self.good = self.manager.publish(classifier(0), placement(self.counter))
        self.before = self.manager.honest.bundle(1, ())
        self.agent.start()
        self.manager.assign(self.device, self.good)
        eventually(lambda: bench.current() == self.good.digest, 40)

    def close(self) -> None:
        self.agent.stop()
        self.manager.stop()
        self.broker.stop()
        assert self.manager.problems == []

    # what is observed

    def alarms(self, code: str) -> list[Event]:
        return [event for event in self.bench.heard.events("alarm") if event.code == code]

    def require_inference(self) -> None:
        """Return once a window that began after this call shows answers of the good release."""
        count = len(self.bench.heard.telemetry())

        def answered() -> bool:
            later = [w for t in self.bench.heard.telemetry()[count + 1 :] for w in t.windows]
            return any(w.release == self.good.digest and w.inferences for w in later)

        eventually(answered, 20)
        assert self.bench.current() == self.good.digest

    # how lies travel

    def puzzle(self) -> None:
        """Make the device collect metadata: somebody unknown acknowledges its reports."""
        said = Ack(device=self.device, boot="1-00112233445566ff", sequence=1)
        self.manager.send(ACK.at(self.device), sign_document(STRANGER, _at(ACK, self.device), said))

    def hint(self) -> None:
        self.manager.send(HINT.at("all"), b"")

    def say_assignment(
        self, key: SigningKey | None = None, *, of: str | None = None, **changes: Any
    ) -> None:
        """Send an assignment that is not retained, so that the good one stays the broker's."""
        if "sequence" not in changes:
            self.manager._sequence += 1
        plain = Assignment(
            device=self.device,
            fleet=self.manager.topics.fleet,
            director_epoch=self.manager.honest.authority().director_epoch,
            sequence=self.manager._sequence,
            slots={"motion": self.wish(self.good)},
            issued_ms=now_ms(),
            expires_ms=now_ms() + DAY_MS,
        )
        said = msgspec.structs.replace(plain, **changes)
        topic = _at(ASSIGNMENT, of or self.device)
        signer = key or self.manager.keys.director.signing
        self.manager.send(ASSIGNMENT.at(self.device), sign_document(signer, topic, said))

    @staticmethod
    def wish(built: BuiltRelease) -> Assigned:
        release = built.release
        return Assigned(target=release.target, digest=built.digest, counter=release.counter)

    def publish(self, content: bytes, golden: bytes = b"", **changes: Any) -> Assigned:
        """Have the offline keys sign a release of these bytes, by mistake, and keep them."""
        self.counter += 1
        version = f"v{self.counter}"
        variant = self.good.release.variants[0]
        made: Release = msgspec.structs.replace(
            self.good.release,
            target=f"models/motion/{version}.json",
            version=version,
            counter=self.counter,
            variants=(msgspec.structs.replace(variant, model=describe_artifact(content)),),
        )
        if golden:
            made = msgspec.structs.replace(made, golden=describe_artifact(golden))
        made = msgspec.structs.replace(made, **changes)
        manifest, digest = encode_release(made)
        for file in filter(None, (content, golden)):
            self.manager.artifacts.put(file)
        self.sign_targets({made.target: manifest})
        return Assigned(target=made.target, digest=digest, counter=made.counter)

    def sign_targets(self, files: Files) -> None:
        now = datetime.now(UTC)
        targets = next_targets(
            self.manager.honest.targets_metadata(),
            additions=files,
            removals=(),
            signers=self.manager.targets_keys[:1],
            now=now,
        )
        with self.manager._lock:
            self.manager.honest.publish(targets, files, now)

    def repair(self) -> None:
        """Let the honest repository overtake what a thief of its online keys has signed."""
        self.undo = lambda: None
        repository = self.manager.repository
        repository.lie = lambda files: files  # type: ignore[attr-defined]
        for number in range(2):
            self.sign_targets({"fleet/note.json": b'{"v":1,"note":%d}' % number})

    # what a thief signs

    def forged_timestamp(self, files: Files, ahead: int = 1, **changes: Any) -> Files:
        timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"])
        timestamp.signed.version += ahead
        for name, value in changes.items():
            setattr(timestamp.signed, name, value)
        timestamp.signatures.clear()
        timestamp.sign(self.manager.keys.timestamp)
        return {**files, "timestamp.json": timestamp.to_bytes()}

    def forged_targets(self, files: Files, thief: Ed25519Signer) -> Files:
        targets = Metadata[Targets].from_bytes(files["targets.json"])
        targets.signed.version += 1
        targets.signatures.clear()
        targets.sign(thief)
        content = targets.to_bytes()
        snapshot = Metadata[Snapshot].from_bytes(files["snapshot.json"])
        snapshot.signed.version += 1
        snapshot.signed.meta["targets.json"] = _named(targets.signed.version, content)
        snapshot.signatures.clear()
        snapshot.sign(self.manager.keys.snapshot)
        named = _named(snapshot.signed.version, snapshot.to_bytes())
        forged = self.forged_timestamp(files, snapshot_meta=named)
        return {**forged, "snapshot.json": snapshot.to_bytes(), "targets.json": content}

    def next_root(self, change: Callable[[Root], None], signers: tuple[int, ...] = (0, 1)) -> bytes:
        held = self.manager.folder / "repository" / "metadata" / "1.root.json"
        root = Metadata[Root].from_bytes(held.read_bytes())
        root.signed.version = 2
        root.signed.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        change(root.signed)
        root.signatures.clear()
        offline = sorted((self.manager.folder / "keys" / "offline").glob("root-*.json"))
        for index in signers:
            root.sign(keys.load(offline[index], "", dev=True), append=True)
        return root.to_bytes()


def _named(version: int, content: bytes) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": sha256(content).hexdigest()})


def _at(channel: Any, device: str) -> str:
    return str(channel.at(device).logical)
