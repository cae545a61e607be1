"""TUF metadata as values: built and verified here, kept by ``fleet.signing.repository``.

Rule 1: nothing here touches a disk or reads a clock.
Rule 2: every digest is SHA-256, once: a device hashes what it fetches only once.
Rule 3: how long a role's promise lasts stands in ``LIFETIMES`` and nowhere else.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from re import fullmatch
from typing import Final, TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.keys import register
from agent.contract.limits import TARGET_PATTERN, require_name
from agent.errors import ContractError
from fleet.errors import SigningError

LIFETIMES: Final = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=7),
}
_SHA256: Final = "sha256"

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def first_targets(
    additions: Mapping[str, bytes], signers: Sequence[Signer], now: datetime, version: int = 1
) -> bytes:
    """Return targets metadata that begins anew: a fleet's, or that of a delegated role.

    Args:
        additions: Bytes of its targets by name.
        signers: Keys of the role.
        now: Aware datetime; the expiry is counted from here.
        version: Above 1 for a delegated role whose old content is not to be kept.

    """
    targets = Targets(version=version, expires=now + LIFETIMES["targets"])
    _add(targets, additions)
    return _sign(targets, signers)


def next_targets(
    current: bytes,
    *,
    additions: Mapping[str, bytes],
    removals: Collection[str],
    signers: Sequence[Signer],
    now: datetime,
) -> bytes:
    """Return the targets metadata that follows ``current``, signed offline.

    Args:
        current: The targets metadata in force (``Repository.targets_metadata``).
        additions: Bytes of new or replaced targets by name.
        removals: Names that are withdrawn.
        signers: Targets keys, as many as the threshold asks for.
        now: Aware datetime; the expiry is counted from here.

    Raises:
        SigningError: ``current`` does not parse, or a name is not a target name or not there.

    """
    targets = parse(Targets, current).signed
    for name in removals:
        if name not in targets.targets or name == AUTHORITY_TARGET:
            raise SigningError(f"target {name} cannot be withdrawn")
        del targets.targets[name]
    _add(targets, additions)
    targets.version += 1
    targets.expires = now + LIFETIMES["targets"]
    return _sign(targets, signers)


def family_role(family: str) -> str:
    """Return the name of the role that ``models/<family>/*`` is delegated to.

    ``apps/<name>`` is the role of an app, which is delegated in the same way.

    Raises:
        SigningError: Not the name of a family.

    """
    if family.startswith("apps/"):
        return app_role(family.removeprefix("apps/"))
    try:
        return f"models-{require_name(family, 'family')}"
    except ContractError as why:
        raise SigningError(str(why)) from why


def family_path(family: str) -> str:
    """Return the path that is delegated to the owners of a family, or of ``apps/<name>``."""
    return f"{family}/*" if family.startswith("apps/") else f"models/{family}/*"


def app_role(name: str) -> str:
    """Return the name of the role that ``apps/<name>/*`` is delegated to.

    Raises:
        SigningError: Not the name of an app.

    """
    try:
        return f"apps-{require_name(name, 'app')}"
    except ContractError as why:
        raise SigningError(str(why)) from why


def rounds_role(family: str) -> str:
    """Return the name of the role that ``models/<family>/rounds/*`` is delegated to.

    Raises:
        SigningError: Not the name of a family.

    """
    return f"rounds-{family_role(family).removeprefix('models-')}"


def delegate_rounds(
    current: bytes, family: str, key: Key | None, *, signers: Sequence[Signer], now: datetime
) -> bytes:
    """Return the targets metadata that lets the manager sign what rounds make of a family.

    Args:
        current: The targets metadata in force.
        family: Whose ``models/<family>/rounds/*`` it is about.
        key: The manager's key for it, replacing that of before; None takes it back.
        signers: Targets keys, as many as the threshold asks for.
        now: Aware datetime; the expiry is counted from here.

    Raises:
        SigningError: There is nothing to take back.

    """
    role, keys = rounds_role(family), () if key is None else (key,)
    targets = parse(Targets, current).signed
    _delegate(targets, role, f"models/{family}/rounds/*", keys, threshold=1)
    return _follow(targets, signers, now)


def delegate_family(
    current: bytes,
    family: str,
    owners: Sequence[Key],
    *,
    threshold: int,
    signers: Sequence[Signer],
    now: datetime,
) -> bytes:
    """Return the targets metadata that gives a family of models to its owners.

    The delegation is terminating: what its role does not list, no later one can.

    Args:
        current: The targets metadata in force.
        family: Whose ``models/<family>/*`` it is about; ``apps/<name>`` is an app.
        owners: Their keys, replacing those of before; none takes the delegation back.
        threshold: How many of them must sign.
        signers: Targets keys, as many as the threshold asks for.
        now: Aware datetime; the expiry is counted from here.

    Raises:
        SigningError: The threshold cannot be met, or there is nothing to take back.

    """
    targets, role = parse(Targets, current).signed, family_role(family)
    if owners and not 1 <= threshold <= len({key.keyid for key in owners}):
        raise SigningError(f"{threshold} of {len(owners)} owner keys of {family} cannot sign")
    _delegate(targets, role, family_path(family), owners, threshold=threshold)
    return _follow(targets, signers, now)


def _delegate(
    targets: Targets, role: str, path: str, keys: Sequence[Key], *, threshold: int
) -> None:
    """Give a path to these keys, or to nobody where there are none."""
    held = targets.delegations or Delegations(keys={}, roles={})
    roles = dict(held.roles or {})
    if not keys and role not in roles:
        raise SigningError(f"{path} is not delegated")
    roles.pop(role, None)
    if keys:
        roles[role] = DelegatedRole(role, [], threshold, terminating=True, paths=[path])
    targets.delegations = Delegations(keys=dict(held.keys), roles=roles)
    for key in keys:
        targets.delegations.roles[role].keyids.append(key.keyid)  # type: ignore[index]
        targets.delegations.keys[key.keyid] = key
    named = {keyid for each in roles.values() for keyid in each.keyids}
    for keyid in set(targets.delegations.keys) - named:
        del targets.delegations.keys[keyid]


def _follow(targets: Targets, signers: Sequence[Signer], now: datetime) -> bytes:
    """Return targets metadata as the next version, signed."""
    targets.version += 1
    targets.expires = now + LIFETIMES["targets"]
    return _sign(targets, signers)


def delegated_role(targets: Targets, name: str) -> str | None:
    """Return the role that a target name is delegated to; None where it is targets' own."""
    roles = (targets.delegations.roles if targets.delegations else None) or {}
    found = (role.name for role in roles.values() if role.is_delegated_path(name))
    return None if name in targets.targets else next(found, None)


def next_snapshot(
    last: Snapshot | None,
    targets: bytes,
    signer: Signer,
    now: datetime,
    delegated: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return the snapshot that follows ``last`` and names these targets.

    Args:
        last: The snapshot in force; delegated roles that it names stay.
        targets: The targets metadata.
        signer: The snapshot key.
        now: Aware datetime.
        delegated: Metadata of delegated roles that is new.

    """
    snapshot = Snapshot(
        version=1 if last is None else last.version + 1,
        expires=now + LIFETIMES["snapshot"],
        meta=None if last is None else dict(last.meta),
    )
    for role, content in {"targets": targets, **(delegated or {})}.items():
        snapshot.meta[f"{role}.json"] = _name(parse(Targets, content).signed.version, content)
    return _sign(snapshot, [signer])


def next_timestamp(last: Timestamp | None, snapshot: bytes, signer: Signer, now: datetime) -> bytes:
    """Return the timestamp that follows ``last`` and names this snapshot."""
    timestamp = Timestamp(
        version=1 if last is None else last.version + 1,
        expires=now + LIFETIMES["timestamp"],
        snapshot_meta=_name(parse(Snapshot, snapshot).signed.version, snapshot),
    )
    return _sign(timestamp, [signer])


def parse(kind: type[S], content: bytes) -> Metadata[S]:
    """Read metadata of one kind, with Ed25519 keys only; signatures are not checked.

    Raises:
        SigningError: It is not metadata of this kind.

    """
    register()
    try:
        found = Metadata[S].from_bytes(content)
    except RepositoryError as why:
        raise SigningError(f"{kind.type} metadata does not parse: {why}") from why
    if not isinstance(found.signed, kind):
        raise SigningError(f"expected {kind.type} metadata, this is {found.signed.type}")
    return found


def verify(root: Root, kind: type[S], content: bytes) -> S:
    """Return metadata that enough keys of its role signed; expiry is not checked.

    Raises:
        SigningError: It does not parse or is not signed.

    """
    found = parse(kind, content)
    try:
        root.verify_delegate(kind.type, found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError) as why:
        raise SigningError(f"{kind.type} metadata is not signed by its keys: {why}") from why
    return found.signed


def verify_delegated(parent: Targets, role: str, content: bytes) -> Targets:
    """Return metadata of a delegated role that enough of its keys signed.

    Raises:
        SigningError: It does not parse or is not signed by the keys of the delegation.

    """
    found = parse(Targets, content)
    try:
        parent.verify_delegate(role, found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError) as why:
        raise SigningError(f"{role} metadata is not signed by its keys: {why}") from why
    return found.signed


def check_target(file: TargetFile, content: bytes) -> None:
    """Return if these are the bytes of a target.

    Raises:
        SigningError: They are not, or the target has no SHA-256.

    """
    if file.hashes.get(_SHA256) != sha256(content).hexdigest() or file.length != len(content):
        raise SigningError(f"file of target {file.path} is not the one that was signed")


def stored_name(file: TargetFile) -> str:
    """Return the path of a target below ``targets/``: its base name led by its SHA-256.

    Raises:
        SigningError: Not a target name, or the target has no SHA-256.

    """
    digest = file.hashes.get(_SHA256, "")
    if not fullmatch(TARGET_PATTERN, file.path) or not fullmatch("[0-9a-f]{64}", digest):
        raise SigningError(f"target {file.path!r} has no acceptable name or no SHA-256")
    folder, slash, name = file.path.rpartition("/")
    return f"{folder}{slash}{digest}.{name}"


def _add(targets: Targets, additions: Mapping[str, bytes]) -> None:
    for name, content in additions.items():
        if not fullmatch(TARGET_PATTERN, name):
            raise SigningError(f"{name!r} is not a target name")
        targets.targets[name] = TargetFile.from_data(name, content, [_SHA256])


def _name(version: int, content: bytes) -> MetaFile:
    return MetaFile(version, len(content), {_SHA256: sha256(content).hexdigest()})


def _sign(signed: S, signers: Sequence[Signer]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()
