"""What the repository on disk promises at one moment: read whole, verified whole.

    metadata/N.root.json  N.targets.json  N.models-motion.json  N.snapshot.json  timestamp.json
    targets/models/motion/<sha256>.3.json

Rule 1: what the timestamp does not reach does not exist, except for one crash: a new root
        lies there and the timestamp is still of the old one. Then the newest snapshot
        that the new root believes is taken up, and ``interrupted`` says so.
Rule 2: metadata of a delegated role that its delegation no longer believes (its owner's
        key was revoked) is not in force; the rest is.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET, Authority, Permits
from agent.contract.broker_url import BrokerUrl
from agent.contract.codec import decode
from agent.contract.endpoints import ENDPOINTS_TARGET, Endpoints
from agent.contract.limits import MAX_DOCUMENT_BYTES
from agent.contract.marks import require_distinct_keys
from agent.errors import ContractError, TrustError
from fleet.durable import sync_folder
from fleet.errors import SigningError
from fleet.signing.metadata import check_target, parse, stored_name, verify, verify_delegated

OWN_TARGETS: Final = (AUTHORITY_TARGET, PERMITS_TARGET, ENDPOINTS_TARGET)
"""Targets that speak of the fleet itself, and which the targets keys alone may sign."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One consistent state, verified under its root. Bytes and values belong together.

    Attributes:
        permits: Ways back beside ``rollback_to``; empty where none are published.
        endpoints: The list that devices follow; None where none was ever published.
        own_files: The bytes behind authority, permits and endpoints, by target name.
        delegated, delegated_bytes: Delegated roles in force, by role name.
        interrupted: A change of root was cut off; snapshot and timestamp are to be signed.

    """

    root: Root
    root_bytes: bytes
    timestamp: Timestamp
    timestamp_bytes: bytes
    snapshot: Snapshot
    snapshot_bytes: bytes
    targets: Targets
    targets_bytes: bytes
    authority: Authority
    permits: Permits
    endpoints: Endpoints | None = None
    own_files: Mapping[str, bytes] = field(default_factory=dict)
    delegated: Mapping[str, Targets] = field(default_factory=dict)
    delegated_bytes: Mapping[str, bytes] = field(default_factory=dict)
    interrupted: bool = False


def read_published(folder: Path) -> Published:
    """Read and verify a repository.

    Raises:
        SigningError: There is none, or it does not verify.

    """
    metadata = folder / "metadata"
    versions = _versions(metadata, "root")
    if not versions:
        raise SigningError(f"there is no repository in {folder}: run init first")
    root_bytes = read_file(metadata / f"{versions[-1]}.root.json")
    root = parse(Root, root_bytes).signed
    verify(root, Root, root_bytes)
    try:
        require_distinct_keys(root_bytes)
    except (ContractError, TrustError) as why:
        raise SigningError(f"root metadata is not in order: {why}") from why
    timestamp_bytes = read_file(metadata / "timestamp.json")
    try:
        timestamp = verify(root, Timestamp, timestamp_bytes)
        number, interrupted = timestamp.snapshot_meta.version, False
        verify(root, Snapshot, read_file(metadata / f"{number}.snapshot.json"))
    except SigningError:
        if len(versions) == 1:
            raise
        before = parse(Root, read_file(metadata / f"{versions[-2]}.root.json")).signed
        timestamp = verify(before, Timestamp, timestamp_bytes)
        number, interrupted = _versions(metadata, "snapshot")[-1], True
    return _read(
        folder,
        root=root,
        root_bytes=root_bytes,
        timestamp=timestamp,
        timestamp_bytes=timestamp_bytes,
        number=number,
        interrupted=interrupted,
    )


def parse_authority(content: bytes | None) -> Authority:
    """Read the authority's target.

    Raises:
        SigningError: There is none, or it does not parse.

    """
    if content is None:
        raise SigningError(f"the repository has no {AUTHORITY_TARGET}")
    try:
        return decode(Authority, content)
    except ContractError as why:
        raise SigningError(f"{AUTHORITY_TARGET} is not in order: {why}") from why


def parse_permits(content: bytes | None, fleet: str) -> Permits:
    """Read the permits' target; none where there is no such target.

    Raises:
        SigningError: It does not parse.

    """
    try:
        return Permits(fleet=fleet) if content is None else decode(Permits, content)
    except ContractError as why:
        raise SigningError(f"{PERMITS_TARGET} is not in order: {why}") from why


def parse_endpoints(content: bytes | None) -> Endpoints | None:
    """Read the target's bytes; None where there is no such target.

    Raises:
        SigningError: It does not parse, or names an address that nobody can use.

    """
    if content is None:
        return None
    try:
        said = decode(Endpoints, content, limit=MAX_DOCUMENT_BYTES)
        for endpoint in said.endpoints:
            BrokerUrl.parse(endpoint.url)
            _ = endpoint.fingerprints
            if not (endpoint.url.isascii() and endpoint.url.isprintable()):
                raise SigningError(f"{ENDPOINTS_TARGET}: address {endpoint.url!a} is not plain")
    except ContractError as why:
        raise SigningError(f"{ENDPOINTS_TARGET} is not in order: {why}") from why
    return said


def read_signed(folder: Path, targets: Targets, name: str) -> bytes | None:
    """Return the bytes of a target that this metadata names, or None.

    Raises:
        SigningError: Its file is missing, or another one.

    """
    file = targets.targets.get(name)
    if file is None:
        return None
    content = read_file(folder / "targets" / stored_name(file))
    check_target(file, content)
    return content


def read_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        SigningError: It cannot be read.

    """
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
        sync_folder(path.parent)
    except OSError as why:
        raise SigningError(f"{path} cannot be written: {why.strerror or why}") from why


def _versions(metadata: Path, role: str) -> list[int]:
    return sorted(
        int(path.name.removesuffix(f".{role}.json"))
        for path in metadata.glob(f"[1-9]*.{role}.json")
    )


def _read(
    folder: Path,
    *,
    root: Root,
    root_bytes: bytes,
    timestamp: Timestamp,
    timestamp_bytes: bytes,
    number: int,
    interrupted: bool = False,
) -> Published:
    """Read what snapshot ``number`` names, under a root."""
    metadata = folder / "metadata"
    snapshot_bytes = read_file(metadata / f"{number}.snapshot.json")
    snapshot = verify(root, Snapshot, snapshot_bytes)
    version = snapshot.meta["targets.json"].version
    targets_bytes = read_file(metadata / f"{version}.targets.json")
    targets = verify(root, Targets, targets_bytes)
    delegated: dict[str, Targets] = {}
    delegated_bytes: dict[str, bytes] = {}
    for role in (targets.delegations.roles if targets.delegations else None) or {}:
        meta = snapshot.meta.get(f"{role}.json")
        if meta is None:
            continue
        content = read_file(metadata / f"{meta.version}.{role}.json")
        try:
            delegated[role] = verify_delegated(targets, role, content)
        except SigningError:
            continue
        delegated_bytes[role] = content
    own = {name: read_signed(folder, targets, name) for name in OWN_TARGETS}
    authority = parse_authority(own[AUTHORITY_TARGET])
    return Published(
        root=root,
        root_bytes=root_bytes,
        timestamp=timestamp,
        timestamp_bytes=timestamp_bytes,
        snapshot=snapshot,
        snapshot_bytes=snapshot_bytes,
        targets=targets,
        targets_bytes=targets_bytes,
        authority=authority,
        permits=parse_permits(own[PERMITS_TARGET], authority.fleet),
        endpoints=parse_endpoints(own[ENDPOINTS_TARGET]),
        own_files={name: content for name, content in own.items() if content is not None},
        delegated=delegated,
        delegated_bytes=delegated_bytes,
        interrupted=interrupted,
    )
