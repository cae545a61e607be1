"""What a proposal would change, in the words of the person who is asked to sign it.

Rule 1: every line is computed from the metadata itself, never taken from the proposal's
        own description, which somebody else wrote.
Rule 2: a plus adds a promise, a minus takes one away, a dot changes one, an equals sign
        repeats one; an exclamation mark asks for care.
Rule 3: what could be told in a way that misleads (``scrutiny``) is refused, not told.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import SequenceMatcher
from hashlib import sha256

from nacl.signing import VerifyKey
from tuf.api.metadata import Role, Root, Targets

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET, Authority, Permits
from agent.contract.codec import decode
from agent.contract.endpoints import ENDPOINTS_TARGET
from agent.contract.keys import Ed25519Key
from agent.errors import ContractError
from fleet.errors import SigningError
from fleet.signing.endpoints import describe_endpoints
from fleet.signing.lifting import is_lift
from fleet.signing.metadata import check_target, parse, verify, verify_delegated
from fleet.signing.proposal import ROLES, Proposal
from fleet.signing.published import parse_authority
from fleet.signing.scrutiny import (
    require_next,
    scrutinise_owners,
    scrutinise_root,
    scrutinise_targets,
)


def describe(proposal: Proposal) -> tuple[str, ...]:
    """Return the difference between what is in force and what is proposed.

    Raises:
        SigningError: The proposal's metadata does not parse or could not be told
            truthfully, what it says is in force is not signed, or a file beside it is not
            the one that would be signed.

    """
    lines: list[str] = []
    if proposal.root_before:
        digest = sha256(proposal.root_before).hexdigest()
        lines.append(f"upon the root with digest {digest}: is it the one that you know?")
    elif proposal.metadata_before:
        raise SigningError("the proposal says that nothing is in force, and then what is")
    else:
        lines.append("founds a new fleet: nothing is in force before it")
    _require_signed_before(proposal)
    _scrutinise(proposal)
    if proposal.root:
        before = parse(Root, proposal.root_before).signed if proposal.root_before else None
        lines += _root(before, parse(Root, proposal.root).signed)
    for role, content in proposal.metadata.items():
        old = proposal.metadata_before.get(role, b"")
        held = parse(Targets, old).signed if old else None
        lines += _targets(role, held, parse(Targets, content).signed, proposal)
    return tuple(lines)


def _require_signed_before(proposal: Proposal) -> None:
    """Return if what a proposal says was in force is signed under the root it says was."""
    if not proposal.root_before:
        return
    root = parse(Root, proposal.root_before).signed
    verify(root, Root, proposal.root_before)
    if "targets" not in proposal.metadata_before:
        raise SigningError("the proposal does not say which targets are in force")
    targets = verify(root, Targets, proposal.metadata_before["targets"])
    for role, content in proposal.metadata_before.items():
        if role != "targets":
            verify_delegated(targets, role, content)
    for name, content in proposal.files_before.items():
        if name not in targets.targets:
            raise SigningError(f"the proposal says that {name!a} is in force, and it is not")
        check_target(targets.targets[name], content)


def _scrutinise(proposal: Proposal) -> None:
    """Return if the difference to what is in force can be told truthfully."""
    root = parse(Root, proposal.root or proposal.root_before).signed
    scrutinise_root(root)
    if proposal.root and proposal.root_before:
        require_next("root", parse(Root, proposal.root_before).signed.version, root.version)
    for role, content in proposal.metadata.items():
        new = parse(Targets, content).signed
        scrutinise_targets(role, new)
        if role in proposal.metadata_before:
            held = parse(Targets, proposal.metadata_before[role]).signed
            if not is_lift(held, new):
                require_next(role, held.version, new.version)
    targets = {**proposal.metadata_before, **proposal.metadata}.get("targets")
    if targets is None:
        raise SigningError("the proposal holds no targets metadata")
    said = proposal.files.get(AUTHORITY_TARGET)
    authority = None if said is None else parse_authority(said)
    scrutinise_owners(root, parse(Targets, targets).signed, authority)


def _root(before: Root | None, after: Root) -> Iterator[str]:
    yield f"root version {_change(before, after)}"
    yield f"  · runs out {_days(before, after)}"
    for name in ROLES:
        yield from _keys(name, before.roles[name] if before else None, after.roles[name])


def _keys(name: str, before: Role | None, after: Role | None) -> Iterator[str]:
    old, new = set(before.keyids if before else ()), set(after.keyids if after else ())
    for keyid in sorted(new - old):
        yield f"  + {name} key {keyid[:16]}"
    for keyid in sorted(old - new):
        yield f"  - {name} key {keyid[:16]}"
    had, needs = (before.threshold if before else 0), (after.threshold if after else 0)
    if after and not before:
        yield f"  · {name}: {needs} of {len(new)} must sign"
    elif had != needs or len(old) != len(new):
        yield f"  · {name}: {had} of {len(old)} must sign → {needs} of {len(new)}"
    if (not before or had < len(old)) and needs == len(new) > 1:
        yield f"  ! from now on no {name} key may be lost: all {needs} must sign"


def _targets(
    role: str, before: Targets | None, after: Targets, proposal: Proposal
) -> Iterator[str]:
    yield f"{role} version {_change(before, after)}"
    if before is not None and is_lift(before, after):
        yield "  · above what devices have seen, after a restore; nothing else changes"
    yield f"  · runs out {_days(before, after)}"
    old = before.targets if before else {}
    stay = [name for name, file in sorted(after.targets.items()) if old.get(name) == file]
    if proposal.root and before:  # the keys of before may be a thief's, and so may the list
        yield "  ! signed anew although the list stays; read all of it:"
        for name in stay:
            yield f"  = {name} sha256 {after.targets[name].hashes.get('sha256', '')[:16]}"
            said = _content(name, proposal.files_before.get(name, b""))
            yield from (f"        {line}" for line in said)
    elif stay:
        yield f"  = {len(stay)} targets stay as they are"
    for name in sorted(set(old) - set(after.targets)):
        yield f"  - {name}"
    for name, file in sorted(after.targets.items()):
        digest = file.hashes.get("sha256", "")
        if name not in old:
            yield f"  + {name} sha256 {digest[:16]}"
        elif old[name] != file:
            yield f"  · {name} sha256 {old[name].hashes.get('sha256', '')[:16]} → {digest[:16]}"
        if name in proposal.files:
            check_target(file, proposal.files[name])
            yield from _inside(name, proposal, replaced=name in old)
    held = (before.delegations.roles if before and before.delegations else None) or {}
    new = (after.delegations.roles if after.delegations else None) or {}
    for name in sorted(set(held) | set(new)):
        if name not in held:
            yield f"  · {name} signs {', '.join(new[name].paths or ())} from now on"
            if name.startswith("rounds-"):
                yield "  ! the manager keeps this key: who takes it over signs these by himself"
        elif name not in new:
            yield f"  · {name} signs nothing any more"
        elif proposal.root:
            yield f"  = {name} signs {', '.join(new[name].paths or ())}, with the keys"
            yield from (f"      {keyid[:16]}" for keyid in sorted(new[name].keyids))
        yield from _keys(name, held.get(name), new.get(name))


def _inside(name: str, proposal: Proposal, *, replaced: bool) -> Iterator[str]:
    """Tell what changes inside one of the fleet's own targets."""
    new = tuple(_content(name, proposal.files[name]))
    if replaced and name not in proposal.files_before:
        yield "      ! what it said before is not in this file; it says now:"
    old = tuple(_content(name, proposal.files_before.get(name, b""))) if replaced else ()
    for kind, at, to, start, end in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if kind == "equal":
            yield from (f"        {line}" for line in new[start:end])
        else:
            yield from (f"      - {line}" for line in old[at:to])
            yield from (f"      + {line}" for line in new[start:end])


def _content(name: str, content: bytes) -> Iterator[str]:
    """Tell what one of the fleet's own targets says."""
    if not content:
        return
    try:
        if name == AUTHORITY_TARGET:
            said = decode(Authority, content)
            yield f"fleet {said.fleet}"
            yield f"director epoch {said.director_epoch}"
            yield from (f"director key {_keyid(k)}" for k in said.director_keys)
            yield from (f"enrolment key {_keyid(k)}" for k in said.enrolment_keys)
        elif name == PERMITS_TARGET:
            for permit in decode(Permits, content).permits:
                whom = ", ".join(permit.devices) or "every device"
                until = _until(permit.expires_ms)
                release = f"{permit.release[:16]} may return to slot {permit.slot}"
                yield f"{release} of {whom}, until {until}"
        elif name == ENDPOINTS_TARGET:
            yield from describe_endpoints(content)
    except ContractError as why:
        raise SigningError(f"{name} is not in order: {why}") from why


def _until(moment_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return "the end of time"


def _keyid(public: str) -> str:
    """Return a key as all of them are told: by the beginning of its id."""
    return Ed25519Key.of(VerifyKey(bytes.fromhex(public))).keyid[:16]


def _change(before: Root | Targets | None, after: Root | Targets) -> str:
    return f"{before.version} → {after.version}" if before else f"{after.version}, the first"


def _days(before: Root | Targets | None, after: Root | Targets) -> str:
    new = f"{after.expires:%Y-%m-%d}"
    return f"{before.expires:%Y-%m-%d} → {new}" if before else new
