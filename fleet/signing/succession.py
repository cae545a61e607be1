"""What may come into force after what is: the next root, targets' metadata and its files.

Rule 1: a root is signed by the keys of the one before and by its own, a delegated role by
        the keys that the list of targets names. That list comes verified under its root.
Rule 2: nothing skips a version, but for the list of targets where only its version is lifted
        (``lifting``); nothing that has run out comes into force.
Rule 3: metadata that names a file whose bytes are missing, or others, is refused.
Rule 4: nothing is written here: after a refusal everything is as it was.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Targets

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET
from agent.contract.endpoints import ENDPOINTS_TARGET
from agent.contract.marks import require_distinct_keys
from agent.errors import ContractError, TrustError
from fleet.errors import SigningError
from fleet.signing.lifting import is_lift
from fleet.signing.metadata import (
    check_target,
    delegated_role,
    parse,
    stored_name,
    verify_delegated,
)
from fleet.signing.published import (
    Published,
    parse_authority,
    parse_endpoints,
    parse_permits,
    read_file,
)
from fleet.signing.scrutiny import scrutinise_root, scrutinise_targets


def check_root(held: Root, content: bytes, now: datetime) -> Root:
    """Return the root that follows ``held``.

    Raises:
        SigningError: Old or new keys did not sign it, it skips a version, has run out, or
            counts one key twice, or names keys in a way that misleads (``scrutiny``).

    """
    found = parse(Root, content)
    new = found.signed
    if new.version != held.version + 1:
        raise SigningError(
            f"root metadata is version {new.version}, after {held.version} comes {held.version + 1}"
        )
    for whose, root in (("root in force", held), ("new root", new)):
        try:
            root.verify_delegate(Root.type, found.signed_bytes, found.signatures)
        except (RepositoryError, ValueError) as why:
            raise SigningError(f"too few keys of the {whose} signed it: {why}") from why
    if new.is_expired(now):
        raise SigningError(f"root metadata ran out at {new.expires}")
    try:
        require_distinct_keys(content)
    except (ContractError, TrustError) as why:
        raise SigningError(f"root metadata is not in order: {why}") from why
    scrutinise_root(new)
    return new


def check_roles(
    held: Published, new: Mapping[str, bytes], targets: Targets, now: datetime
) -> dict[str, Targets]:
    """Return the signed value of each changed role.

    Args:
        held: What is in force.
        new: Signed metadata by role name.
        targets: The verified value of ``new["targets"]``; what is in force, without one.
        now: Aware datetime.

    Raises:
        SigningError: One is not signed, does not follow what was there, has run out, or
            misleads (``scrutiny``).

    """
    signed: dict[str, Targets] = {}
    for role, content in new.items():
        value = targets if role == "targets" else verify_delegated(targets, role, content)
        meta = held.snapshot.meta.get(f"{role}.json")
        before = meta.version if meta else 0
        lifted = role == "targets" and is_lift(held.targets, value)
        if value.version != before + 1 and not lifted:
            raise SigningError(
                f"{role} metadata is version {value.version}, after {before} comes {before + 1}"
            )
        if value.is_expired(now):
            raise SigningError(f"{role} metadata ran out at {value.expires}")
        scrutinise_targets(role, value)
        signed[role] = value
    return signed


def check_files(
    folder: Path,
    held: Published,
    targets: Targets,
    signed: Mapping[str, Targets],
    files: Mapping[str, bytes],
) -> dict[Path, bytes]:
    """Return what is to be written; every target has its right bytes afterwards.

    Args:
        folder: The repository, where files that were published before lie.
        held: What is in force.
        targets: The targets metadata that will be.
        signed: What ``check_roles`` returned.
        files: Bytes of the others by target name.

    Raises:
        SigningError: A file is missing, another, named by nobody or by a role that may not,
            or says what cannot be so.

    """
    named = {name: file for value in signed.values() for name, file in value.targets.items()}
    unnamed = sorted(set(files) - set(named))
    if unnamed or AUTHORITY_TARGET not in targets.targets:
        raise SigningError(f"targets metadata does not name {unnamed or AUTHORITY_TARGET}")
    new: dict[Path, bytes] = {}
    for role, value in signed.items():
        for name, file in value.targets.items():
            if role not in {"targets", delegated_role(targets, name) or "targets"}:
                raise SigningError(f"{role} may not sign {name}")
            path = folder / "targets" / stored_name(file)
            content = files[name] if name in files else read_file(path)
            check_target(file, content)
            if name == AUTHORITY_TARGET:
                parse_authority(content)
            if name == PERMITS_TARGET:
                parse_permits(content, "")
            if name == ENDPOINTS_TARGET:
                _check_endpoints(held, content)
            if name in files:
                new[path] = content
    return new


def _check_endpoints(held: Published, content: bytes) -> None:
    """Return if a list is of this fleet, and is the one in force or of a higher version."""
    new, fleet = parse_endpoints(content), held.authority.fleet
    if new is None:
        return
    if new.fleet != fleet:
        raise SigningError(f"{ENDPOINTS_TARGET} is of fleet {new.fleet}, this is {fleet}")
    before = held.endpoints.version if held.endpoints else 0
    if new != held.endpoints and new.version <= before:
        raise SigningError(
            f"{ENDPOINTS_TARGET} has version {new.version}, in force is version {before}"
        )
