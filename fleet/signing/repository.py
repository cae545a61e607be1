"""The fleet's TUF repository on disk: what devices verify before they believe anything.

Rule 1: files are written beside and renamed, each on the medium before the next:
        targets' files, targets, snapshot, root if there is a new one, and last
        ``timestamp.json``. What the timestamp does not reach does not exist; a crash
        before that line changes nothing, or ``refresh`` finishes it.
Rule 2: online keys only re-sign snapshot and timestamp. New targets metadata and new roots
        come signed, from machines with offline keys (``proposal``, ``rotation``, and the
        release engineer's ``next_targets``).
Rule 3: nothing is published that may not come after what is in force (``succession``), or
        that leaves no room for devices to enrol.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from tuf.api.metadata import Snapshot, Targets, Timestamp

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET, Authority
from agent.contract.keys import Ed25519Signer, register
from agent.contract.limits import MAX_PAYLOAD_BYTES
from fleet.errors import SigningError
from fleet.signing.lifting import MAX_AHEAD
from fleet.signing.metadata import (
    delegated_role,
    next_snapshot,
    next_timestamp,
    verify,
)
from fleet.signing.published import (
    OWN_TARGETS,
    Published,
    parse_authority,
    read_file,
    read_published,
    read_signed,
    write_whole,
)
from fleet.signing.scrutiny import scrutinise_owners
from fleet.signing.succession import check_files, check_roles, check_root

MAX_ENROLLING_BYTES: Final = (MAX_PAYLOAD_BYTES - 24 * 1024) * 3 // 4
"""Metadata that fits a sealed reply: base64 in one message, beside credentials and the CA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineKeys:
    """The keys that the manager holds while it runs."""

    snapshot: Ed25519Signer
    timestamp: Ed25519Signer
    director: Ed25519Signer
    enrolment: Ed25519Signer


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
        self._published = read_published(folder)

    def publish(self, new_targets: bytes, files: Mapping[str, bytes], now: datetime) -> None:
        """Put new targets metadata and its files into force; see ``publish_roles``."""
        self.publish_roles({"targets": new_targets}, files, now)

    def publish_roles(
        self, changed: Mapping[str, bytes], files: Mapping[str, bytes], now: datetime
    ) -> None:
        """Put new metadata of targets, of delegated roles, or of both, into force.

        Publishing what is in force already changes nothing.

        Args:
            changed: Signed metadata by role name: ``targets``, ``models-motion``.
            files: Bytes of every target that was not published before, by name.
            now: Aware datetime.

        Raises:
            SigningError: It is not signed, expired, not the next version, names no
                authority, or a file is missing or another; nothing changes.

        """
        held = self._published
        in_force = {"targets": held.targets_bytes, **held.delegated_bytes}
        new = {role: content for role, content in changed.items() if in_force.get(role) != content}
        if not new:
            return
        targets = held.targets
        if "targets" in new:
            targets = verify(held.root, Targets, new["targets"])
        signed = check_roles(held, new, targets, now)
        checked = check_files(self._folder, held, targets, signed, files)
        said = parse_authority(files[AUTHORITY_TARGET]) if AUTHORITY_TARGET in files else None
        scrutinise_owners(held.root, targets, said or held.authority)
        if set(targets.targets) - set(held.targets.targets) - set(OWN_TARGETS):
            self._require_room(new["targets"])
        for path, content in checked.items():
            write_whole(path, content)
        for role, content in new.items():
            write_whole(self._metadata(f"{signed[role].version}.{role}.json"), content)
        targets_bytes = new.pop("targets", held.targets_bytes)
        self._sign_online(targets_bytes, now, delegated=new)

    def publish_root(
        self,
        root: bytes,
        *,
        targets: bytes | None,
        snapshot: Ed25519Signer,
        timestamp: Ed25519Signer,
        now: datetime,
    ) -> None:
        """Put the next root into force.

        Publishing the root that is in force changes nothing.

        Args:
            root: Signed by enough keys of the root in force and enough of its own.
            targets: Targets metadata signed by the new root's targets keys, where the
                one in force no longer is.
            snapshot: The snapshot key that the new root names.
            timestamp: Its timestamp key.
            now: Aware datetime.

        Raises:
            SigningError: It does not follow the root in force, or what it needs is
                missing; nothing changes.

        """
        held = self._published
        if root == held.root_bytes:
            return
        new = check_root(held.root, root, now)
        targets_bytes = held.targets_bytes if targets is None else targets
        signed = verify(new, Targets, targets_bytes)
        scrutinise_owners(new, signed, held.authority)
        if targets is not None:
            check_roles(held, {"targets": targets}, signed, now)
            check_files(self._folder, held, signed, {"targets": signed}, {})
        snapshot_bytes = next_snapshot(held.snapshot, targets_bytes, snapshot, now)
        timestamp_bytes = next_timestamp(held.timestamp, snapshot_bytes, timestamp, now)
        verify(new, Snapshot, snapshot_bytes)
        verify(new, Timestamp, timestamp_bytes)
        write_whole(self._metadata(f"{signed.version}.targets.json"), targets_bytes)
        write_whole(self._metadata(f"{held.snapshot.version + 1}.snapshot.json"), snapshot_bytes)
        write_whole(self._metadata(f"{new.version}.root.json"), root)
        write_whole(self._metadata("timestamp.json"), timestamp_bytes)
        self._snapshot_key, self._timestamp_key = snapshot, timestamp
        self._published = read_published(self._folder)

    def refresh(self, now: datetime, *, under: timedelta = timedelta(days=6)) -> bool:
        """Re-sign snapshot and timestamp if they live less than ``under``.

        Returns:
            Whether anything was signed.

        Raises:
            SigningError: Files cannot be read or written.

        """
        held = self._published
        lives = min(held.snapshot.expires, held.timestamp.expires) - now
        if lives >= under and not held.interrupted:
            return False
        self._sign_online(held.targets_bytes, now)
        return True

    def overtake(self, seen: Mapping[str, int], now: datetime) -> bool:
        """Sign snapshot and timestamp above versions that devices have seen.

        Args:
            seen: Versions by role; those too far ahead to be true are not believed.
            now: Aware datetime.

        Returns:
            Whether anything was signed.

        Raises:
            SigningError: Files cannot be read or written.

        """
        held = self._published
        own = {"snapshot": held.snapshot.version, "timestamp": held.timestamp.version}
        ahead = {
            role: seen[role]
            for role, version in own.items()
            if version < seen.get(role, 0) <= version + MAX_AHEAD
        }
        if ahead:
            self._sign_online(held.targets_bytes, now, above={**own, **ahead})
        return bool(ahead)

    def bundle(
        self, root_above: int, targets: Iterable[str], *, enrolling: bool = False
    ) -> dict[str, bytes]:
        """Return what answers a ``MetaRequest``, by name.

        Args:
            root_above: The root version that the device holds; 0 for none.
            targets: Names of wanted targets; unknown ones are left out.
                ``fleet/authority.json`` is always there, ``fleet/permits.json``
                where there are permits.
            enrolling: Leave out delegated roles and permits, of which enrolment needs
                nothing: its reply is one message, however large the fleet.

        Raises:
            SigningError: A file of the repository is missing.

        """
        held = self._published
        roots = [f"{n}.root.json" for n in range(root_above + 1, held.root.version + 1)]
        files = {name: read_file(self._metadata(name)) for name in roots}
        files["timestamp.json"] = held.timestamp_bytes
        files["snapshot.json"] = held.snapshot_bytes
        for name, meta in held.snapshot.meta.items():
            if enrolling and name != "targets.json":
                continue
            files[name] = read_file(self._metadata(f"{meta.version}.{name}"))
        always = (AUTHORITY_TARGET,) if enrolling else (AUTHORITY_TARGET, PERMITS_TARGET)
        for name in (*always, *targets):
            content = self.target(name)
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
        held = self._published
        role = delegated_role(held.targets, name)
        owner = held.targets if role is None else held.delegated.get(role)
        return None if owner is None else read_signed(self._folder, owner, name)

    def targets_metadata(self) -> bytes:
        """Return the targets metadata in force."""
        return self._published.targets_bytes

    def published(self) -> Published:
        """Return everything that is in force."""
        return self._published

    def expires(self) -> dict[str, datetime]:
        """Return when each role's metadata runs out."""
        held = self._published
        roles = (held.root, held.targets, held.snapshot, held.timestamp)
        delegated = {name: role.expires for name, role in held.delegated.items()}
        return {**{role.type: role.expires for role in roles}, **delegated}

    def _sign_online(
        self,
        targets: bytes,
        now: datetime,
        delegated: Mapping[str, bytes] | None = None,
        above: Mapping[str, int] | None = None,
    ) -> None:
        held, last = self._published, deepcopy(self._published.snapshot)
        before = deepcopy(held.timestamp)
        if above is not None:
            last.version, before.version = above["snapshot"], above["timestamp"]
        snapshot = next_snapshot(last, targets, self._snapshot_key, now, delegated)
        timestamp = next_timestamp(before, snapshot, self._timestamp_key, now)
        verify(held.root, Snapshot, snapshot)
        verify(held.root, Timestamp, timestamp)
        write_whole(self._metadata(f"{last.version + 1}.snapshot.json"), snapshot)
        write_whole(self._metadata("timestamp.json"), timestamp)
        self._published = read_published(self._folder)

    def _require_room(self, targets: bytes) -> None:
        """Return if devices can still enrol: their reply is one message and holds this list."""
        rest = self.bundle(0, (), enrolling=True)
        size = sum(map(len, rest.values())) - len(rest["targets.json"]) + len(targets)
        if size > MAX_ENROLLING_BYTES:
            raise SigningError(
                f"the signed list would have {len(targets)} bytes, and no device could enrol any "
                "more: withdraw releases that nobody needs, or delegate families to their owners"
            )

    def _metadata(self, name: str) -> Path:
        return self._folder / "metadata" / name
