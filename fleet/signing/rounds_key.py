"""The manager's key for what federated rounds make of one family of models.

    targets ──delegates models/<family>/rounds/*──▶ rounds-<family> ──signs──▶ a candidate

Rule 1: it is made because an operator asked, and delegated by the offline keys; it is a key
        of its own, and nothing but that path is ever believed of it (``scrutiny``, and on
        the device ``belief``).
Rule 2: taking the delegation back ends it: what it alone signed is installed no more.
"""

from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Key, Signer

from fleet.errors import SigningError
from fleet.signing import keys
from fleet.signing.metadata import delegate_rounds, rounds_role
from fleet.signing.proposal import Proposal
from fleet.signing.published import Published
from fleet.signing.signers import public_key_of


def key_file(keys_dir: Path, family: str) -> Path:
    """Return where the manager keeps its key for the rounds of a family."""
    return keys_dir / "online" / f"{rounds_role(family)}.json"


def make_key(keys_dir: Path, family: str, passphrase: str, *, dev: bool) -> Key:
    """Return the public half of the manager's key; it is made where there is none yet.

    Raises:
        SigningError: It cannot be written, or the passphrase is short.

    """
    path = key_file(keys_dir, family)
    if not path.exists():
        keys.create(path, passphrase, dev=dev)
    return public_key_of(f"file:{path}")


def open_key(keys_dir: Path, family: str, passphrase: str, *, dev: bool) -> Signer:
    """Open the manager's key for the rounds of a family.

    Raises:
        SigningError: There is none, or it cannot be opened here.

    """
    path = key_file(keys_dir, family)
    if not path.exists():
        raise SigningError(
            f"there is no key for the rounds of {family}: 'fieldfare keys rounds create {family}'"
        )
    return keys.load(path, passphrase, dev=dev)


def propose_rounds(held: Published, family: str, key: Key | None, *, now: datetime) -> Proposal:
    """Propose that a key signs the rounds of a family, or, without one, that none does.

    Raises:
        SigningError: There is nothing to take back.

    """
    signed = delegate_rounds(held.targets_bytes, family, key, signers=(), now=now)
    path = f"models/{family}/rounds/*"
    return Proposal(
        what=f"let the manager sign {path}" if key else f"take back {path}",
        root_before=held.root_bytes,
        metadata_before={"targets": held.targets_bytes},
        metadata={"targets": signed},
    )


def why_not(held: Published, keys_dir: Path, family: str) -> str:
    """Return why the manager cannot sign what rounds make of a family; "" where it can.

    Raises:
        SigningError: Its key file is not in order.

    """
    path, create = key_file(keys_dir, family), f"'fieldfare keys rounds create {family}'"
    delegations = held.targets.delegations
    role = ((delegations.roles if delegations else None) or {}).get(rounds_role(family))
    if role is None or delegations is None:
        return f"models/{family}/rounds/* is delegated to nobody: {create} first"
    if not path.exists():
        return f"{path} is missing, the key that signs models/{family}/rounds/*: {create}"
    if public_key_of(f"file:{path}").keyid not in role.keyids:
        return f"{path} is not the key that models/{family}/rounds/* is delegated to: {create}"
    return ""
