"""The fleet's TUF repository on disk: what devices verify before they believe anything.

    metadata/N.root.json  N.targets.json  N.snapshot.json  timestamp.json
    targets/models/motion/<sha256>.3.json

Rule 1: files are written beside and renamed, each on the medium before the next:
        targets' files, targets, snapshot, and last ``timestamp.json``. What the timestamp
        does not reach does not exist; a crash before that line changes nothing.
Rule 2: online keys only re-sign snapshot and timestamp. New targets metadata comes from
        ``next_targets``, on the machine of a release engineer with an offline key.
Rule 3: nothing is published that root's targets keys did not sign, that does not follow
        the version before, or whose files are not the ones it names.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from agent.contract.codec import decode
from agent.contract.keys import Ed25519Signer, register
from agent.contract.marks import require_distinct_keys
from agent.contract.messages import AUTHORITY_TARGET, Authority
from agent.errors import ContractError, TrustError
from fleet.errors import SigningError
from fleet.signing.metadata import (
    check_target,
    next_snapshot,
    next_timestamp,
    parse,
    stored_name,
    verify,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineKeys:
    """The keys that the manager holds while it runs."""

    snapshot: Ed25519Signer
    timestamp: Ed25519Signer
    director: Ed25519Signer
    enrolment: Ed25519Signer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """One consistent state, verified under its root. Bytes and values belong together."""

    root: Root
    root_bytes: bytes
    timestamp: Timestamp
    timestamp_bytes: bytes
    snapshot: Snapshot
    snapshot_bytes: bytes
    targets: Targets
    targets_bytes: bytes
    authority: Authority


class Repository:
    """A published repository.

    One thread writes; any thread may read.

    Args:
        folder: Its directory.
        snapshot, timestamp: The online keys.

    Raises:
        SigningError: There is no repository, or it does not verify.

    """

    def __init__(self, folder: Path, *, snapshot: Ed25519Signer, timestamp: Ed25519Signer) -> None:
        register()
        self._folder = folder
        self._snapshot_key = snapshot
        self._timestamp_key = timestamp
        self._published = self._load()

    def publish(self, new_targets: bytes, files: Mapping[str, bytes], now: datetime) -> None:
        """Put new targets metadata and its files into force.

        Publishing what is in force already changes nothing.

        Args:
            new_targets: From ``next_targets``.
            files: Bytes of every target that was not published before, by name.
            now: Aware datetime.

        Raises:
            SigningError: It is not signed, expired, not the next version, names no
                authority, or a file is missing or another; nothing changes.

        """
        held = self._published
        if new_targets == held.targets_bytes:
            return
        targets = verify(held.root, Targets, new_targets)
        if targets.version != held.targets.version + 1:
            raise SigningError(
                f"targets metadata is version {targets.version},"
                f" after {held.targets.version} comes {held.targets.version + 1}"
            )
        if targets.is_expired(now):
            raise SigningError(f"targets metadata ran out at {targets.expires}")
        for path, content in self._check_files(targets, files).items():
            write_whole(path, content)
        write_whole(self._metadata(f"{targets.version}.targets.json"), new_targets)
        self._sign_online(new_targets, now)

    def refresh(self, now: datetime, *, under: timedelta = timedelta(days=6)) -> bool:
        """Re-sign snapshot and timestamp if they live less than ``under``.

        Returns:
            Whether anything was signed.

        Raises:
            SigningError: Files cannot be read or written.

        """
        held = self._published
        if min(held.snapshot.expires, held.timestamp.expires) - now >= under:
            return False
        self._sign_online(held.targets_bytes, now)
        return True

    def bundle(self, root_above: int, targets: Iterable[str]) -> dict[str, bytes]:
        """Return what answers a ``MetaRequest``, by name.

        Args:
            root_above: The root version that the device holds; 0 for none.
            targets: Names of wanted targets; unknown ones are left out.
                ``fleet/authority.json`` is always there.

        Raises:
            SigningError: A file of the repository is missing.

        """
        held = self._published
        roots = [f"{n}.root.json" for n in range(root_above + 1, held.root.version + 1)]
        files = {name: _read(self._metadata(name)) for name in roots}
        files["timestamp.json"] = held.timestamp_bytes
        files["snapshot.json"] = held.snapshot_bytes
        for name, meta in held.snapshot.meta.items():
            files[name] = _read(self._metadata(f"{meta.version}.{name}"))
        for name in (AUTHORITY_TARGET, *targets):
            content = self._read_signed(held.targets, name)
            if content is not None:
                files[name] = content
        return files

    def root_digest(self) -> str:
        """Return the SHA-256 (hex) of the newest root: what enrolment files pin."""
        return sha256(self._published.root_bytes).hexdigest()

    def authority(self) -> Authority:
        """Return who may direct and enrol."""
        return self._published.authority

    def target(self, name: str) -> bytes | None:
        """Return the bytes of a published target, or None.

        Raises:
            SigningError: Its file is missing.

        """
        return self._read_signed(self._published.targets, name)

    def targets_metadata(self) -> bytes:
        """Return the targets metadata in force."""
        return self._published.targets_bytes

    def expires(self) -> dict[str, datetime]:
        """Return when each role's metadata runs out."""
        held = self._published
        roles = (held.root, held.targets, held.snapshot, held.timestamp)
        return {role.type: role.expires for role in roles}

    def _sign_online(self, targets: bytes, now: datetime) -> None:
        held = self._published
        snapshot = next_snapshot(held.snapshot, targets, self._snapshot_key, now)
        timestamp = next_timestamp(held.timestamp, snapshot, self._timestamp_key, now)
        verify(held.root, Snapshot, snapshot)
        verify(held.root, Timestamp, timestamp)
        write_whole(self._metadata(f"{held.snapshot.version + 1}.snapshot.json"), snapshot)
        write_whole(self._metadata("timestamp.json"), timestamp)
        self._published = self._load()

    def _check_files(self, targets: Targets, files: Mapping[str, bytes]) -> dict[Path, bytes]:
        """Return what is to be written; every target has its right bytes afterwards."""
        unnamed = sorted(set(files) - set(targets.targets))
        if unnamed or AUTHORITY_TARGET not in targets.targets:
            raise SigningError(f"targets metadata does not name {unnamed or AUTHORITY_TARGET}")
        new: dict[Path, bytes] = {}
        for name, file in targets.targets.items():
            path = self._folder / "targets" / stored_name(file)
            content = files[name] if name in files else _read(path)
            check_target(file, content)
            if name == AUTHORITY_TARGET:
                _parse_authority(content)
            if name in files:
                new[path] = content
        return new

    def _read_signed(self, targets: Targets, name: str) -> bytes | None:
        file = targets.targets.get(name)
        if file is None:
            return None
        content = _read(self._folder / "targets" / stored_name(file))
        check_target(file, content)
        return content

    def _metadata(self, name: str) -> Path:
        return self._folder / "metadata" / name

    def _load(self) -> _Published:
        versions = [
            int(path.name.removesuffix(".root.json"))
            for path in (self._folder / "metadata").glob("[1-9]*.root.json")
        ]
        if not versions:
            raise SigningError(f"there is no repository in {self._folder}: run init first")
        root_bytes = _read(self._metadata(f"{max(versions)}.root.json"))
        root = parse(Root, root_bytes).signed
        verify(root, Root, root_bytes)
        try:
            require_distinct_keys(root_bytes)
        except (ContractError, TrustError) as why:
            raise SigningError(f"root metadata is not in order: {why}") from why
        timestamp_bytes = _read(self._metadata("timestamp.json"))
        timestamp = verify(root, Timestamp, timestamp_bytes)
        snapshot_bytes = _read(self._metadata(f"{timestamp.snapshot_meta.version}.snapshot.json"))
        snapshot = verify(root, Snapshot, snapshot_bytes)
        version = snapshot.meta["targets.json"].version
        targets_bytes = _read(self._metadata(f"{version}.targets.json"))
        targets = verify(root, Targets, targets_bytes)
        return _Published(
            root=root,
            root_bytes=root_bytes,
            timestamp=timestamp,
            timestamp_bytes=timestamp_bytes,
            snapshot=snapshot,
            snapshot_bytes=snapshot_bytes,
            targets=targets,
            targets_bytes=targets_bytes,
            authority=_parse_authority(self._read_signed(targets, AUTHORITY_TARGET)),
        )


def _parse_authority(content: bytes | None) -> Authority:
    if content is None:
        raise SigningError(f"the repository has no {AUTHORITY_TARGET}")
    try:
        return decode(Authority, content)
    except ContractError as why:
        raise SigningError(f"{AUTHORITY_TARGET} is not in order: {why}") from why


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as why:
        raise SigningError(f"{path} cannot be read: {why.strerror or why}") from why


def write_whole(path: Path, content: bytes) -> None:
    """Put a whole file in place; on the medium on return.

    Raises:
        SigningError: It cannot be written.

    """
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as why:
        raise SigningError(f"{path} cannot be written: {why.strerror or why}") from why
