"""A whole signing fleet in a temporary directory, and a device's view of it."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from nacl.signing import SigningKey
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from agent.contract.codec import encode
from agent.contract.keys import Ed25519Signer
from agent.contract.manifest import (
    Artifact,
    Release,
    Tensor,
    Variant,
    describe_artifact,
    encode_release,
)
from agent.contract.messages import Assigned, Assignment
from agent.update.refresh import refresh
from agent.update.trust import Refreshed, RefreshJob, RefreshResult, TrustState, believe, pin
from fleet.signing.ceremony import create_dev, load_targets_keys
from fleet.signing.metadata import LIFETIMES, next_targets
from fleet.signing.repository import OnlineKeys, Repository

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
DEVICE_SEED = bytes(range(32))


def make_release(counter: int = 1, **changes: Any) -> Release:
    """A release of the slot ``motion``; its version is its counter."""
    model: Artifact = describe_artifact(b"model %d" % counter)
    plain = Release(
        target=f"models/motion/v{counter}.json",
        family="motion",
        version=f"v{counter}",
        slot="motion",
        counter=counter,
        created_ms=NOW_MS,
        variants=(
            Variant(
                name="int8",
                runtime="onnx",
                model=model,
                inputs=(Tensor(name="x", dtype="float32", shape=(1, 6, 128)),),
                outputs=(Tensor(name="probabilities", dtype="float32", shape=(1, 7)),),
            ),
        ),
        golden=describe_artifact(b"golden"),
    )
    return msgspec.structs.replace(plain, **changes)


def assign(release: Release) -> Assigned:
    """What a director says about a release."""
    return Assigned(
        target=release.target, digest=encode_release(release)[1], counter=release.counter
    )


def make_assignment(device: str, sequence: int = 1, **changes: Any) -> Assignment:
    """An assignment of release 1 that lives seven days."""
    plain = Assignment(
        device=device,
        fleet="demo",
        director_epoch=1,
        sequence=sequence,
        slots={"motion": assign(make_release())},
        issued_ms=NOW_MS,
        expires_ms=NOW_MS + 7 * 86_400_000,
    )
    return msgspec.structs.replace(plain, **changes)


@dataclass
class SignedFleet:
    """A development fleet whose repository tests may also break by hand."""

    home: Path
    online: OnlineKeys = field(init=False)
    repository: Repository = field(init=False)

    def __post_init__(self) -> None:
        self.online = create_dev(self.home / "keys", self.home / "repository", "demo", NOW)
        self.reopen()

    def reopen(self) -> None:
        self.repository = Repository(
            self.home / "repository",
            snapshot=self.online.snapshot,
            timestamp=self.online.timestamp,
        )

    @property
    def targets_keys(self) -> tuple[Ed25519Signer, ...]:
        return load_targets_keys(self.home / "keys", "", dev=True)

    def root_keys(self) -> list[Ed25519Signer]:
        from fleet.signing import keys

        paths = sorted((self.home / "keys" / "offline").glob("root-*.json"))
        return [keys.load(path, "", dev=True) for path in paths]

    def publish(
        self,
        files: Mapping[str, bytes] | None = None,
        removals: Iterable[str] = (),
        now: datetime = NOW,
    ) -> None:
        """Add targets, signed by the first targets key."""
        files = files or {}
        targets = next_targets(
            self.repository.targets_metadata(),
            additions=files,
            removals=tuple(removals),
            signers=self.targets_keys[:1],
            now=now,
        )
        self.repository.publish(targets, files, now)

    def publish_release(self, release: Release) -> bytes:
        manifest = encode_release(release)[0]
        self.publish({release.target: manifest})
        return manifest

    def copy(self, to: Path) -> "SignedFleet":
        """The same keys and repository, frozen at this moment."""
        shutil.copytree(self.home, to)
        twin = object.__new__(SignedFleet)
        twin.home, twin.online = to, self.online
        twin.reopen()
        return twin

    def rotate(self, version: int = 2, signers: Iterable[int] = (0, 1), **change: Any) -> bytes:
        """Write the next root; ``change`` maps a role to its new signers."""
        current = (self.home / "repository/metadata/1.root.json").read_bytes()
        root: Metadata[Root] = Metadata[Root].from_bytes(current)
        root.signed.version = version
        for role, new in change.items():
            for keyid in tuple(root.signed.roles[role].keyids):
                root.signed.revoke_key(keyid, role)
            for signer in new:
                root.signed.add_key(signer.public_key, role)
        root.signatures.clear()
        held = self.root_keys()
        for index in signers:
            root.sign(held[index], append=True)
        content = root.to_bytes()
        (self.home / f"repository/metadata/{version}.root.json").write_bytes(content)
        return content

    def forge(
        self,
        bundle: dict[str, bytes],
        *,
        targets_signers: Iterable[Ed25519Signer] | None = None,
        targets: Targets | None = None,
        ahead: int = 1,
    ) -> dict[str, bytes]:
        """What a thief of the online keys publishes: any targets, validly snapshotted."""
        signed = targets or Metadata[Targets].from_bytes(bundle["targets.json"]).signed
        snapshot = Metadata[Snapshot].from_bytes(bundle["snapshot.json"]).signed
        timestamp = Metadata[Timestamp].from_bytes(bundle["timestamp.json"]).signed
        content = bundle["targets.json"]
        if targets is not None:
            content = _sign(signed, targets_signers or self.targets_keys[:1])
        snapshot.version += ahead
        snapshot.meta["targets.json"] = _name(signed.version, content)
        timestamp.version += ahead
        snapshot_bytes = _sign(snapshot, [self.online.snapshot])
        timestamp.snapshot_meta = _name(snapshot.version, snapshot_bytes)
        return {
            **bundle,
            "targets.json": content,
            "snapshot.json": snapshot_bytes,
            "timestamp.json": _sign(timestamp, [self.online.timestamp]),
        }


def _sign(signed: Any, signers: Iterable[Ed25519Signer]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def _name(version: int, content: bytes) -> Any:
    from hashlib import sha256

    from tuf.api.metadata import MetaFile

    return MetaFile(version, len(content), {"sha256": sha256(content).hexdigest()})


def pinned(fleet: SignedFleet) -> TrustState:
    """A device that has only pinned the fleet's first root."""
    root = (fleet.home / "repository/metadata/1.root.json").read_bytes()
    from hashlib import sha256

    return pin(root, sha256(root).hexdigest())


def run(
    state: TrustState,
    files: dict[str, bytes],
    wanted: tuple[str, ...] = (),
    now: datetime = NOW + timedelta(minutes=1),
) -> RefreshResult:
    """One refresh, as the child does it."""
    return refresh(
        RefreshJob(state=state, files=files, wanted=wanted, now_ms=int(now.timestamp() * 1000))
    )


def advance(
    state: TrustState,
    files: dict[str, bytes],
    wanted: tuple[str, ...] = (),
    now: datetime = NOW + timedelta(minutes=1),
) -> Refreshed:
    """One refresh that must be believed, or raise."""
    return believe(run(state, files, wanted, now))


def device_key() -> SigningKey:
    """The same device in every test."""
    return SigningKey(DEVICE_SEED)


def text(message: msgspec.Struct) -> bytes:
    return encode(message)


ROOT_LIFETIME = LIFETIMES["root"]
