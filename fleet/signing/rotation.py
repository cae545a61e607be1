"""Other keys for a role, as a proposal: planned rotation, and revocation after a theft.

Rule 1: roles of TUF change by the next root; director and enrolment by the next targets,
        which name the authority.
Rule 2: other director keys always begin the next epoch, so that whatever the old keys
        signed or will sign is older.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace
from securesystemslib.signer import Key

from agent.contract.authority import AUTHORITY_TARGET, Authority
from agent.contract.codec import encode
from agent.contract.keys import Ed25519Key
from fleet.errors import SigningError
from fleet.signing.proposal import ROLES, Proposal, propose_root, propose_targets
from fleet.signing.published import Published
from fleet.signing.scrutiny import scrutinise_owners
from fleet.signing.signers import public_key_of

_MIN_CHARACTERS = 8


def rotate_role(held: Published, role: str, keys: Sequence[Key], now: datetime) -> Proposal:
    """Propose other keys for a role, in place of all that it has.

    Raises:
        SigningError: No such role, or a key is one that the role has already.

    """
    publics = tuple(str(key.keyval["public"]) for key in keys)
    what = f"rotate {role}"
    match role:
        case "director":
            if set(publics) & set(held.authority.director_keys):
                raise SigningError("that is a director key already")
            return propose_authority(held, what, _directed(held.authority, publics), now)
        case "enrolment":
            if set(publics) & set(held.authority.enrolment_keys):
                raise SigningError("that is an enrolment key already")
            return propose_authority(
                held, what, replace(held.authority, enrolment_keys=publics), now
            )
        case _ if role in ROLES:
            return propose_root(
                held,
                what=what,
                add={role: keys},
                remove={role: list(held.root.roles[role].keyids)},
                thresholds={},
                now=now,
            )
        case _:
            known = ", ".join((*ROLES, "director", "enrolment"))
            raise SigningError(f"there is no role {role!r}; roles are {known}")


def revoke_key(held: Published, beginning: str, now: datetime) -> Proposal:
    """Propose to take a key from every role that has it.

    Args:
        held: What is in force.
        beginning: Of its key id or its public key, at least 8 digits.
        now: Aware datetime.

    Raises:
        SigningError: No role has it, more than one key begins so, or a role would be left
            without enough keys.

    """
    if len(beginning) < _MIN_CHARACTERS:
        raise SigningError(
            f"{beginning!r} is too short to name a key: say {_MIN_CHARACTERS} digits"
        )
    roles = {
        role: [k for k in held.root.roles[role].keyids if _begins(held.root.keys[k], beginning)]
        for role in ROLES
    }
    found = {keyid for keyids in roles.values() for keyid in keyids}
    if len(found) > 1:
        raise SigningError(f"{len(found)} keys begin with {beginning}: say more digits")
    if found:
        gone = {role: keyids for role, keyids in roles.items() if keyids}
        return propose_root(
            held, what=f"revoke {beginning}", add={}, remove=gone, thresholds={}, now=now
        )
    authority = held.authority
    director = _without(authority.director_keys, beginning, "director")
    enrolment = _without(authority.enrolment_keys, beginning, "enrolment")
    if director == authority.director_keys and enrolment == authority.enrolment_keys:
        raise SigningError(_whose(held, beginning))
    if director != authority.director_keys:
        authority = _directed(authority, director)
    return propose_authority(
        held, f"revoke {beginning}", replace(authority, enrolment_keys=enrolment), now
    )


def _whose(held: Published, beginning: str) -> str:
    """Tell why a key cannot be revoked here: it is an owner's, or nobody's."""
    delegations = held.targets.delegations
    for role in ((delegations.roles if delegations else None) or {}).values():
        if any(_begins(held.targets.get_key(k), beginning) for k in role.keyids):
            path = (role.paths or [role.name])[0]
            family = (
                path.removesuffix("/*") if role.name.startswith("apps-") else path.split("/")[1]
            )
            if role.name.startswith("rounds-"):
                return (
                    f"the key that begins with {beginning} signs the rounds of {family}: say "
                    f"'keys rounds revoke {family}'"
                )
            return (
                f"the key that begins with {beginning} is an owner's of {family}: name the "
                f"owners that stay, 'keys delegate {family} --owner KEY', or none"
            )
    return f"no role has a key that begins with {beginning}"


def propose_authority(held: Published, what: str, authority: Authority, now: datetime) -> Proposal:
    """Propose who may direct and enrol.

    Raises:
        SigningError: A person keeps one of these keys.

    """
    scrutinise_owners(held.root, held.targets, authority)
    return propose_targets(
        held, what=what, additions={AUTHORITY_TARGET: encode(authority)}, removals=(), now=now
    )


def _directed(authority: Authority, keys: tuple[str, ...]) -> Authority:
    return replace(authority, director_keys=keys, director_epoch=authority.director_epoch + 1)


def _without(publics: tuple[str, ...], beginning: str, role: str) -> tuple[str, ...]:
    kept = tuple(p for p in publics if not _begins(public_key_of(f"public:{p}"), beginning))
    if not kept:
        raise SigningError(f"{role} has no other key: say 'keys rotate {role} --to KEY'")
    return kept


def _begins(key: Key | Ed25519Key, beginning: str) -> bool:
    return key.keyid.startswith(beginning) or str(key.keyval["public"]).startswith(beginning)
