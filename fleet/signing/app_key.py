"""Who signs apps: each app's releases are a delegation of their own.

    targets ──delegates apps/<name>/*──▶ apps-<name> ──signs──▶ apps/<name>/<number>.json

Rule 1: an app is code. The keys that sign models sign no app, but only who may sign it.
Rule 2: a development fleet makes the owner's key itself, once for all its apps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import Root, Targets

from agent.contract.keys import Ed25519Signer
from fleet.errors import SigningError
from fleet.signing import keys
from fleet.signing.metadata import (
    app_role,
    delegate_family,
    delegated_role,
    first_targets,
    next_targets,
    parse,
    verify,
    verify_delegated,
)

FOLDER: Final = "apps"


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What is signed upon.

    Attributes:
        root, targets: Metadata in force.
        delegated: That of delegated roles, by role name.
        versions: The last version of each delegated role, in force or not.

    """

    root: bytes
    targets: bytes
    delegated: Mapping[str, bytes]
    versions: Mapping[str, int]


def dev_owner(keys_dir: Path) -> Ed25519Signer:
    """Return the key that owns the apps of a development fleet; it is made where there is none.

    Raises:
        SigningError: It cannot be written or read.

    """
    path = keys_dir / FOLDER / "owner.json"
    if not path.exists():
        return keys.create(path, "", dev=True)
    return keys.load(path, "", dev=True)


def sign_app(
    name: str,
    additions: Mapping[str, bytes],
    held: InForce,
    signers: Sequence[Signer],
    *,
    now: datetime,
) -> dict[str, bytes]:
    """Return the metadata that puts targets of an app into force, by role.

    Args:
        name: Of the app.
        additions: Bytes of its new targets by name.
        held: What is in force.
        signers: The owners' keys.
        now: Aware datetime.

    Raises:
        SigningError: The app is delegated to nobody, or these keys are not its owners'.

    """
    role = app_role(name)
    top = verify(parse(Root, held.root).signed, Targets, held.targets)
    if delegated_role(top, next(iter(additions))) != role:
        raise SigningError(
            f"apps/{name}/* is delegated to nobody: 'fieldfare keys delegate apps/{name} --owner "
            "KEY' first"
        )
    current = held.delegated.get(role)
    if current is None:
        signed = first_targets(additions, signers, now, held.versions.get(role, 0) + 1)
    else:
        signed = next_targets(current, additions=additions, removals=(), signers=signers, now=now)
    verify_delegated(top, role, signed)
    return {role: signed}


def delegate_in_dev(
    name: str, held: InForce, owner: Ed25519Signer, signers: Sequence[Signer], *, now: datetime
) -> bytes | None:
    """Return targets metadata that gives an app to a development fleet's owner, where it is new."""
    top = verify(parse(Root, held.root).signed, Targets, held.targets)
    if delegated_role(top, f"apps/{name}/1.json") is not None:
        return None
    return delegate_family(
        held.targets,
        f"apps/{name}",
        [owner.public_key],
        threshold=1,
        signers=signers,
        now=now,
    )
