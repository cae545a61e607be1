"""Founding a fleet: its first root and targets, and the manager's online keys.

    HOME/keys/online/snapshot.json  timestamp.json  director.json  enrolment.json
    HOME/keys/offline/root-1.json  …  targets-2.json          development fleets only

Rule 1: the people's keys sign a founding proposal, each on its owner's machine; the
        manager completes it with snapshot and timestamp, and never sees an offline key.
Rule 2: only a development fleet has all keys in one place and without passphrases;
        every one of its key files says so.
Rule 3: the manager opens the online keys and no others. Which of the files in the folder
        holds which role is told by root and authority, never by a file's name.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from msgspec import Struct
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Targets

from agent.contract.authority import AUTHORITY_TARGET, Authority
from agent.contract.codec import encode
from agent.contract.keys import Ed25519Signer
from agent.contract.limits import require_name
from agent.contract.messages import Hex64
from agent.errors import ContractError
from fleet.errors import SigningError
from fleet.signing import keys
from fleet.signing.metadata import (
    LIFETIMES,
    check_target,
    first_targets,
    next_snapshot,
    next_timestamp,
    parse,
    stored_name,
)
from fleet.signing.proposal import Proposal, require_complete, require_signable, sign_proposal
from fleet.signing.published import parse_authority, write_whole
from fleet.signing.repository import OnlineKeys
from fleet.signing.scrutiny import scrutinise_owners, scrutinise_root, scrutinise_targets
from fleet.signing.signers import public_key_of

_OFFLINE: Final = {"root": 3, "targets": 2}
_THRESHOLDS: Final = {"root": 2, "targets": 1}
ONLINE: Final = ("snapshot", "timestamp", "director", "enrolment")
PUBLIC_FILE: Final = "public.json"
"""Where ``fieldfare keys online`` writes the public halves, beside the keys."""

Ring = Mapping[str, Ed25519Signer]
"""The manager's opened keys by their public half, 64 hex digits."""


class OnlinePublic(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public halves of the manager's keys: all that a founding needs of them."""

    snapshot: Hex64
    timestamp: Hex64
    director: Hex64
    enrolment: Hex64


def create_online(folder: Path, passphrase: str, *, dev: bool = False) -> OnlineKeys:
    """Make the manager's keys.

    Raises:
        SigningError: One exists already, or the passphrase is short.

    """
    return OnlineKeys(
        **{role: keys.create(folder / f"{role}.json", passphrase, dev=dev) for role in ONLINE}
    )


def public_halves(online: OnlineKeys) -> OnlinePublic:
    """Return what may be handed out of the manager's keys."""
    return OnlinePublic(**{role: getattr(online, role).public_hex for role in ONLINE})


def propose_founding(
    fleet: str,
    people: Mapping[str, Sequence[Key]],
    thresholds: Mapping[str, int],
    online: OnlinePublic,
    now: datetime,
) -> Proposal:
    """Propose the first root and targets of a fleet; nobody has signed them yet.

    Args:
        fleet: Its name.
        people: Keys of ``root`` and ``targets``.
        thresholds: How many of each must sign.
        online: Public halves of the manager's keys.
        now: Aware datetime.

    Raises:
        SigningError: The name is not acceptable, a threshold cannot be met, or a person's
            key is one of the manager's.

    """
    try:
        require_name(fleet, "fleet")
    except ContractError as why:
        raise SigningError(str(why)) from why
    root = Root(expires=now + LIFETIMES["root"], consistent_snapshot=True)
    machine = {
        role: [public_key_of(f"public:{getattr(online, role)}")]
        for role in ("snapshot", "timestamp")
    }
    for role, held in {**people, **machine}.items():
        for key in held:
            root.add_key(key, role)
        root.roles[role].threshold = thresholds.get(role, 1)
    require_signable(root)
    said = Authority(
        fleet=fleet,
        director_epoch=1,
        director_keys=(online.director,),
        enrolment_keys=(online.enrolment,),
    )
    authority = encode(said)
    targets = first_targets({AUTHORITY_TARGET: authority}, (), now)
    scrutinise_owners(root, parse(Targets, targets).signed, said)
    return Proposal(
        what=f"found fleet {fleet}",
        root=Metadata(root).to_bytes(),
        metadata={"targets": targets},
        files={AUTHORITY_TARGET: authority},
    )


def found(proposal: Proposal, ring: Ring, repo_dir: Path, now: datetime) -> OnlineKeys:
    """Make the first repository of a fleet from its signed founding.

    Raises:
        SigningError: It is not a complete founding, the manager's keys are others, or
            there is a repository already.

    """
    if (repo_dir / "metadata").exists():
        raise SigningError(f"there is a repository in {repo_dir} already")
    if proposal.root_before or set(proposal.files) != {AUTHORITY_TARGET}:
        raise SigningError("this proposal changes a fleet, it does not found one")
    require_complete(proposal)
    content, targets = proposal.files[AUTHORITY_TARGET], proposal.metadata.get("targets", b"")
    root, signed = parse(Root, proposal.root).signed, parse(Targets, targets).signed
    if set(signed.targets) != {AUTHORITY_TARGET}:
        raise SigningError(f"a founding signs {AUTHORITY_TARGET}, and nothing else")
    scrutinise_root(root)
    scrutinise_targets("targets", signed)
    scrutinise_owners(root, signed, parse_authority(content))
    online = choose_online(ring, root, parse_authority(content))
    snapshot = next_snapshot(None, targets, online.snapshot, now)
    timestamp = next_timestamp(None, snapshot, online.timestamp, now)
    file = signed.targets[AUTHORITY_TARGET]
    check_target(file, content)
    write_whole(repo_dir / "targets" / stored_name(file), content)
    write_whole(repo_dir / "metadata" / "1.root.json", proposal.root)
    write_whole(repo_dir / "metadata" / "1.targets.json", targets)
    write_whole(repo_dir / "metadata" / "1.snapshot.json", snapshot)
    write_whole(repo_dir / "metadata" / "timestamp.json", timestamp)
    return online


def create_dev(keys_dir: Path, repo_dir: Path, fleet: str, now: datetime) -> OnlineKeys:
    """Make all keys of a development fleet and its first repository.

    Root has 3 keys with threshold 2, targets 2 with threshold 1, snapshot and timestamp 1
    each; all lie below ``keys_dir`` without a passphrase, which their files say.

    Raises:
        SigningError: Something of it exists already or cannot be written.

    """
    try:
        require_name(fleet, "fleet")
    except ContractError as why:
        raise SigningError(str(why)) from why
    if (repo_dir / "metadata").exists():
        raise SigningError(f"there is a repository in {repo_dir} already")
    people = {
        role: [keys.create(_offline(keys_dir, role, i), "", dev=True) for i in range(1, n + 1)]
        for role, n in _OFFLINE.items()
    }
    online = create_online(keys_dir / "online", "", dev=True)
    proposal = propose_founding(
        fleet,
        {role: [signer.public_key for signer in held] for role, held in people.items()},
        _THRESHOLDS,
        public_halves(online),
        now,
    )
    enough = [signer for role, held in people.items() for signer in held[: _THRESHOLDS[role]]]
    ring = {getattr(online, role).public_hex: getattr(online, role) for role in ONLINE}
    return found(sign_proposal(proposal, enough), ring, repo_dir, now)


def load_ring(keys_dir: Path, passphrase: str, *, dev: bool) -> Ring:
    """Open every online key of the manager.

    Raises:
        SigningError: One of them is broken or not to be used here.

    """
    opened = [
        keys.load(path, passphrase, dev=dev)
        for path in sorted((keys_dir / "online").glob("*.json"))
        if path.name != PUBLIC_FILE
    ]
    return {signer.public_hex: signer for signer in opened}


def choose_online(ring: Ring, root: Root, authority: Authority) -> OnlineKeys:
    """Return the keys that root and authority name.

    Raises:
        SigningError: The manager does not hold one of them.

    """
    wanted = {
        "snapshot": _publics(root, "snapshot"),
        "timestamp": _publics(root, "timestamp"),
        "director": authority.director_keys,
        "enrolment": authority.enrolment_keys,
    }
    chosen: dict[str, Ed25519Signer] = {}
    for role, publics in wanted.items():
        found = [ring[public] for public in publics if public in ring]
        if not found:
            raise SigningError(
                f"the manager holds no {role} key that the fleet names "
                f"({', '.join(p[:16] for p in publics)}): put its file into keys/online"
            )
        chosen[role] = found[0]
    return OnlineKeys(**chosen)


def load_targets_keys(keys_dir: Path, passphrase: str, *, dev: bool) -> tuple[Ed25519Signer, ...]:
    """Open the release engineers' keys of a development fleet; the first is enough to sign.

    Raises:
        SigningError: One of them is missing, broken or not to be used here.

    """
    paths = [_offline(keys_dir, "targets", i) for i in range(1, _OFFLINE["targets"] + 1)]
    return tuple(keys.load(path, passphrase, dev=dev) for path in paths)


def dev_addresses(keys_dir: Path) -> tuple[str, ...]:
    """Return the addresses of a development fleet's offline keys."""
    return tuple(f"file:{path}" for path in sorted((keys_dir / "offline").glob("*.json")))


def _publics(root: Root, role: str) -> tuple[str, ...]:
    return tuple(str(root.keys[keyid].keyval["public"]) for keyid in root.roles[role].keyids)


def _offline(keys_dir: Path, role: str, number: int) -> Path:
    return keys_dir / "offline" / f"{role}-{number}.json"
