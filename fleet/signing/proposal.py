"""A change of what is signed offline, on its way from one key holder to the next.

    propose ──▶ file ──▶ sign (each person, own machine) ──▶ complete ──▶ publish

Rule 1: the file carries what is in force beside what is proposed, so that whoever signs
        can be shown the difference, in words, by the program on the own machine.
Rule 2: a signature is added only to what its key may sign: a new root by keys of the old
        and of the new one, targets by the new root's keys, a family by its owners' keys.
Rule 3: nothing here is believed for standing in a proposal. ``complete`` verifies what
        the manager and every device will verify again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar

from msgspec import field
from msgspec.structs import replace
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Role, Root, Targets

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import MAX_MANIFEST_BYTES, MAX_METADATA_BYTES
from agent.contract.manifest import Text
from agent.errors import ContractError
from fleet.errors import SigningError
from fleet.signing.metadata import (
    LIFETIMES,
    delegate_family,
    family_path,
    next_targets,
    parse,
)
from fleet.signing.published import Published
from fleet.signing.scrutiny import scrutinise_owners

MAX_PROPOSAL_BYTES: Final = 2 * (MAX_METADATA_BYTES + MAX_MANIFEST_BYTES)
ROLES: Final = ("root", "targets", "snapshot", "timestamp")
_ONLINE: Final = ("snapshot", "timestamp")

S = TypeVar("S", Root, Targets)


class Proposal(Versioned, frozen=True, kw_only=True):
    """One change, with the signatures that it has so far.

    Attributes:
        what: Its purpose, in words.
        root_before: Root metadata in force; empty for a new fleet.
        metadata_before: What is in force of targets and of the roles in ``metadata``; empty
            for a new fleet.
        root: The new root; empty where root stays.
        metadata: New metadata by role name: ``targets``, ``models-motion``.
        files: Bytes of new targets by name.
        files_before: Bytes of those of the fleet's own targets that ``files`` replaces, or
            that are to be signed anew.

    """

    what: Text
    root_before: bytes = b""
    metadata_before: dict[str, bytes] = field(default_factory=dict)
    root: bytes = b""
    metadata: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    files_before: dict[str, bytes] = field(default_factory=dict)


def read_proposal(content: bytes) -> Proposal:
    """Read a proposal's file.

    Raises:
        SigningError: It is not one.

    """
    try:
        return decode(Proposal, content, limit=MAX_PROPOSAL_BYTES)
    except ContractError as why:
        raise SigningError(f"this is not a proposal: {why}") from why


def write_proposal(proposal: Proposal) -> bytes:
    """Return the bytes of a proposal's file."""
    return encode(proposal)


def propose_root(
    held: Published,
    *,
    what: str,
    add: Mapping[str, Sequence[Key]],
    remove: Mapping[str, Sequence[str]],
    thresholds: Mapping[str, int],
    now: datetime,
) -> Proposal:
    """Propose the next root; its expiry begins anew in any case.

    Where targets' keys change so that the targets metadata in force would no longer be
    believed, the same content is proposed again under the new keys.

    Args:
        held: What is in force.
        what: The purpose, in words.
        add: New keys by role.
        remove: Beginnings of key ids by role.
        thresholds: How many keys of a role must sign, where that changes.
        now: Aware datetime.

    Raises:
        SigningError: A key is there already or is not there, a role would be left with
            fewer keys than must sign, or a person would keep one of the manager's.

    """
    root: Root = parse(Root, held.root_bytes).signed
    root.version += 1
    root.expires = now + LIFETIMES["root"]
    for role, beginnings in remove.items():
        for beginning in beginnings:
            root.revoke_key(_find(beginning, _role(root, role), role), role)
    for role, keys in add.items():
        for key in keys:
            if key.keyid in _role(root, role).keyids:
                raise SigningError(f"key {key.keyid[:16]} is a {role} key already")
            root.add_key(key, role)
    for role, threshold in thresholds.items():
        _role(root, role).threshold = threshold
    require_signable(root)
    scrutinise_owners(root, held.targets, held.authority)
    metadata, files_before = {}, {}
    in_force = parse(Targets, held.targets_bytes)
    result = root.get_verification_result("targets", in_force.signed_bytes, in_force.signatures)
    if not result.verified:
        in_force.signed.version += 1
        in_force.signed.expires = now + LIFETIMES["targets"]
        metadata["targets"] = Metadata(in_force.signed).to_bytes()
        files_before = dict(held.own_files)
    return Proposal(
        what=what,
        root_before=held.root_bytes,
        metadata_before={"targets": held.targets_bytes},
        root=Metadata(root).to_bytes(),
        metadata=metadata,
        files_before=files_before,
    )


def propose_targets(
    held: Published,
    *,
    what: str,
    additions: Mapping[str, bytes],
    removals: Collection[str],
    now: datetime,
    role: str = "targets",
) -> Proposal:
    """Propose other targets of one role.

    Args:
        held: What is in force.
        what: The purpose, in words.
        additions: Bytes of new or replaced targets by name.
        removals: Names that are withdrawn.
        now: Aware datetime.
        role: ``targets``, or a delegated role that is in force.

    Raises:
        SigningError: A name is not a target name, or is not there, or the role is not.

    """
    before = {"targets": held.targets_bytes, **held.delegated_bytes}
    if role not in before:
        raise SigningError(f"{role} is not in force: its owner signs a release first")
    signed = next_targets(before[role], additions=additions, removals=removals, signers=(), now=now)
    return Proposal(
        what=what,
        root_before=held.root_bytes,
        metadata_before={"targets": held.targets_bytes, role: before[role]},
        metadata={role: signed},
        files=dict(additions),
        files_before={n: held.own_files[n] for n in additions if n in held.own_files},
    )


def propose_delegation(
    held: Published, family: str, owners: Sequence[Key], *, threshold: int, now: datetime
) -> Proposal:
    """Propose whose the releases of a family are; see ``metadata.delegate_family``.

    Raises:
        SigningError: The threshold cannot be met, or there is nothing to take back.

    """
    signed = delegate_family(
        held.targets_bytes, family, owners, threshold=threshold, signers=(), now=now
    )
    return Proposal(
        what=f"{'delegate' if owners else 'take back'} {family_path(family)}",
        root_before=held.root_bytes,
        metadata_before={"targets": held.targets_bytes},
        metadata={"targets": signed},
    )


def require_signable(root: Root) -> None:
    """Return if every role of a root has enough keys, and an online role needs only one.

    Raises:
        SigningError: A role could never be signed.

    """
    for name in ROLES:
        role = root.roles[name]
        if not 1 <= role.threshold <= len(role.keyids):
            raise SigningError(
                f"{role.threshold} of {len(role.keyids)} {name} keys cannot sign: "
                "add a key in the same change, or say another threshold"
            )
        if name in _ONLINE and role.threshold != 1:
            raise SigningError(f"{name} is signed by the manager alone: its threshold is 1")


def sign_proposal(proposal: Proposal, signers: Sequence[Signer]) -> Proposal:
    """Return the proposal with the signatures of these keys.

    Raises:
        SigningError: A key has no part in it, or cannot sign.

    """
    root, metadata = proposal.root, dict(proposal.metadata)
    for signer in signers:
        keyid, used = signer.public_key.keyid, False
        if root and any(keyid in role.keyids for _, role in _root_roles(proposal)):
            root, used = _signed(Root, root, signer), True
        for role, content in metadata.items():
            if keyid in _delegation(proposal, role).keyids:
                metadata[role], used = _signed(Targets, content, signer), True
        if not used:
            raise SigningError(f"key {keyid[:16]} has no part in this proposal")
    return replace(proposal, root=root, metadata=metadata)


def missing(proposal: Proposal) -> tuple[str, ...]:
    """Return in words which signatures are still needed; empty when it is complete."""
    return tuple(
        f"{whose}: {len(valid)} of {role.threshold} signed; may still sign: "
        + ", ".join(sorted(keyid[:16] for keyid in set(role.keyids) - valid))
        for whose, role, valid in _standings(proposal)
        if len(valid) < role.threshold
    )


def require_complete(proposal: Proposal) -> Proposal:
    """Return a proposal that has every signature.

    Raises:
        SigningError: One is missing.

    """
    wanted = missing(proposal)
    if wanted:
        raise SigningError(f"the proposal is not complete: {'; '.join(wanted)}")
    return proposal


def _standings(proposal: Proposal) -> Iterator[tuple[str, Role, set[str]]]:
    """Yield whose signatures count, what they must be, and the valid ones among them."""
    if proposal.root:
        root = parse(Root, proposal.root)
        for whose, role in _root_roles(proposal):
            delegator = parse(Root, proposal.root_before or proposal.root).signed
            delegator = delegator if whose == "root in force" else root.signed
            yield whose, role, _valid(delegator, "root", root)
    for name, content in proposal.metadata.items():
        targets = parse(Targets, content)
        yield name, _delegation(proposal, name), _valid(_delegator(proposal, name), name, targets)


def _valid(
    delegator: Root | Targets, role: str, metadata: Metadata[Root] | Metadata[Targets]
) -> set[str]:
    try:
        found = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as why:
        raise SigningError(f"{role} is nobody's to sign: {why}") from why
    return set(found.signed)


def _root_roles(proposal: Proposal) -> tuple[tuple[str, Role], ...]:
    new = ("new root", parse(Root, proposal.root).signed.roles["root"])
    if not proposal.root_before:
        return (new,)
    return (("root in force", parse(Root, proposal.root_before).signed.roles["root"]), new)


def _delegator(proposal: Proposal, role: str) -> Root | Targets:
    if role == "targets":
        return parse(Root, proposal.root or proposal.root_before).signed
    return parse(Targets, {**proposal.metadata_before, **proposal.metadata}["targets"]).signed


def _delegation(proposal: Proposal, role: str) -> Role:
    match _delegator(proposal, role):
        case Root() as root:
            return root.roles[role]
        case Targets() as targets:
            roles = (targets.delegations.roles if targets.delegations else None) or {}
            if role not in roles:
                raise SigningError(f"nothing is delegated to {role}")
            return roles[role]


def _signed(kind: type[S], content: bytes, signer: Signer) -> bytes:
    metadata = parse(kind, content)
    try:
        metadata.sign(signer, append=True)
        return metadata.to_bytes()
    except RepositoryError as why:
        raise SigningError(f"{kind.type} metadata cannot be signed as it is: {why}") from why


def _role(root: Root, name: str) -> Role:
    if name not in ROLES:
        raise SigningError(f"there is no role {name!r}; roles are {', '.join(ROLES)}")
    return root.roles[name]


def _find(beginning: str, role: Role, name: str) -> str:
    found = [keyid for keyid in role.keyids if beginning and keyid.startswith(beginning)]
    if len(found) != 1:
        known = ", ".join(keyid[:16] for keyid in role.keyids)
        raise SigningError(f"{beginning!r} is {len(found)} of the {name} keys; they are {known}")
    return found[0]
