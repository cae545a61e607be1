"""What no key may be put under, whoever proposes it: checked before anything is shown.

A difference is told in key ids, names of roles and names of targets. Somebody who may
choose those freely chooses what the reader sees; so they have one form only.

Rule 1: a key's id is the hash of the key. Otherwise another key could stand under an id
        that the reader knows, and the difference would be empty.
Rule 2: the only delegations are ``models-<family>`` for ``models/<family>/*``,
        ``rounds-<family>`` for ``models/<family>/rounds/*`` and ``apps-<name>`` for
        ``apps/<name>/*``, terminating, and nobody delegates on. python-tuf would follow any.
Rule 3: names of targets obey ``TARGET_PATTERN``, and each has a SHA-256: they become paths,
        and are printed.
Rule 4: what follows has the next version, so that the difference is one to what is in force.
Rule 5: a key that a person keeps and a key that the manager keeps are never the same one,
        and the manager's key for the rounds is none of its others.
"""

from collections.abc import Collection, Iterable, Mapping
from re import fullmatch
from typing import Final

from nacl.signing import VerifyKey
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Role, Root, Targets

from agent.contract.authority import Authority
from agent.contract.keys import Ed25519Key
from agent.contract.limits import DIGEST_PATTERN, TARGET_PATTERN, require_name
from agent.errors import ContractError
from fleet.errors import SigningError

OFFLINE: Final = ("root", "targets")
_PATHS: Final = {
    "models-": "models/{}/*",
    "rounds-": "models/{}/rounds/*",
    "apps-": "apps/{}/*",
}


def scrutinise_root(root: Root) -> None:
    """Return if a root is one whose difference can be told.

    Raises:
        SigningError: Rule 1 or 5 is broken, or devices would look for other files.

    """
    _require_own_ids(root.keys, root.roles.values())
    if not root.consistent_snapshot:
        raise SigningError("this root says that files have no versions in their names: not ours")
    machine = [name for name in root.roles if name not in OFFLINE]
    _require_apart(_publics(root, OFFLINE), _publics(root, machine))


def scrutinise_targets(role: str, targets: Targets) -> None:
    """Return if the metadata of a role is one whose difference can be told.

    Raises:
        SigningError: Rule 1, 2 or 3 is broken.

    """
    pattern = TARGET_PATTERN if role == "targets" else _path(role).replace("*", "[^/]+")
    for name, file in targets.targets.items():
        if not fullmatch(TARGET_PATTERN, name):
            raise SigningError(f"target {name!a} has no acceptable name")
        if not fullmatch(pattern, name):
            raise SigningError(f"{role} may not sign {name}")
        if not _is_digest(file.hashes.get("sha256")):
            raise SigningError(f"target {name} has no SHA-256")
    delegations = targets.delegations
    if delegations is None:
        return
    if delegations.succinct_roles is not None or role != "targets":
        raise SigningError(f"{role!a} delegates to roles that could sign any name")
    roles = delegations.roles or {}
    _require_own_ids(delegations.keys, roles.values())
    for delegated in roles.values():
        _require_family(delegated)


def scrutinise_owners(root: Root, targets: Targets, authority: Authority | None) -> None:
    """Return if people, owners of families among them, keep none of the manager's keys.

    Raises:
        SigningError: One key is kept by both.

    """
    rounds = _delegates(targets, "rounds-")
    people = _publics(root, OFFLINE) | _delegates(targets, "models-")
    machine = _publics(root, [name for name in root.roles if name not in OFFLINE])
    if authority is not None:
        machine |= {*authority.director_keys, *authority.enrolment_keys}
    _require_apart(people, machine | rounds)
    if machine & rounds:
        raise SigningError(
            f"key {_keyid(min(machine & rounds))} would sign rounds and is another of the "
            "manager's keys: use two"
        )


def require_next(role: str, before: int, after: int) -> None:
    """Return if a version is the one that follows.

    Raises:
        SigningError: It is another.

    """
    if after != before + 1:
        raise SigningError(f"{role} would go from version {before} to {after}, not to the next")


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and fullmatch(DIGEST_PATTERN, text) is not None


def _require_own_ids(keys: Mapping[str, Key], roles: Iterable[Role]) -> None:
    for keyid, key in keys.items():
        if not isinstance(key, Ed25519Key) or Ed25519Key.of(key.verify_key).keyid != keyid:
            raise SigningError(
                f"the key under the id {keyid[:16]!a} is another: somebody changed this file"
            )
    named: list[object] = [keyid for role in roles for keyid in role.keyids]
    nobody = [str(keyid) for keyid in named if not isinstance(keyid, str) or keyid not in keys]
    if nobody:
        raise SigningError(f"the id {min(nobody)[:16]!a} names no key")


def _require_family(role: DelegatedRole) -> None:
    wanted = [_path(role.name)]
    if role.paths != wanted or role.path_hash_prefixes or not role.terminating:
        raise SigningError(f"{role.name!a} is delegated more than {wanted[0]}, or not terminating")


def _path(role: object) -> str:
    """Return the only path that may be delegated to a role of this name."""
    text = role if isinstance(role, str) else ""
    kind = next((kind for kind in _PATHS if text.startswith(kind)), "")
    try:
        family = require_name(text.removeprefix(kind) if kind else "", "family")
        return _PATHS[kind].format(family)
    except ContractError as why:
        raise SigningError(f"{role!a} is not a role of ours") from why


def _publics(root: Root, roles: Collection[str]) -> set[str]:
    keyids = {keyid for name in roles for keyid in root.roles[name].keyids}
    return {str(root.keys[keyid].keyval["public"]) for keyid in keyids}


def _delegates(targets: Targets, kind: str) -> set[str]:
    """Return the public keys of the delegated roles of one kind."""
    held = targets.delegations
    roles = (held.roles if held else None) or {}
    keyids = {k for name, role in roles.items() if name.startswith(kind) for k in role.keyids}
    return {str(held.keys[k].keyval["public"]) for k in keyids if held and k in held.keys}


def _require_apart(people: set[str], machine: set[str]) -> None:
    both = people & machine
    if both:
        raise SigningError(
            f"key {_keyid(min(both))} would be kept by a person and by the manager: use two"
        )


def _keyid(public: str) -> str:
    return Ed25519Key.of(VerifyKey(bytes.fromhex(public))).keyid[:16]
