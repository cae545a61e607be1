"""A rehearsal: a timestamp key is stolen and raced ahead, and the people take it back.

Rule 1: everything is scratch: keys, repository and device live in a folder of their own.
Rule 2: nothing is played: key files, proposals and publication are the fleet's, and the
        device is the agent's own trust code.
Rule 3: a step that does not end as it must ends the drill.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from tuf.api.metadata import Timestamp

from agent.contract.keys import Ed25519Signer
from agent.errors import AgentError, RollbackError, UnsignedError
from agent.update.refresh import refresh
from agent.update.trust import RefreshJob, TrustState, believe, pin
from fleet.errors import SigningError
from fleet.signing import keys
from fleet.signing.ceremony import create_online, found, propose_founding, public_halves
from fleet.signing.difference import describe
from fleet.signing.metadata import next_timestamp, parse
from fleet.signing.proposal import Proposal, missing, require_complete, sign_proposal
from fleet.signing.repository import OnlineKeys, Repository
from fleet.signing.rotation import rotate_role

RACED = 1_000_000
"""The version that the thief gives the timestamp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was done, and what came of it, in words."""

    did: str
    found: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class _Scratch:
    folder: Path
    passphrase: str
    people: dict[str, list[Ed25519Signer]]
    online: OnlineKeys
    repository: Repository
    device: TrustState
    now: datetime


def rehearse(folder: Path, *, roots: int, threshold: int, now: datetime) -> Iterator[Step]:
    """Do the drill, one step at a time.

    Args:
        folder: Empty; whatever is made stays in it.
        roots: How many root keys the scratch fleet has.
        threshold: How many of them must sign.
        now: Aware datetime.

    Raises:
        SigningError: A step did not end as it must.

    """
    scratch = _found(folder, roots, threshold, now)
    yield Step(
        did=f"founded a fleet: {roots} root keys, {threshold} must sign",
        found=(f"root digest {scratch.repository.root_digest()[:16]}",),
    )
    _follow(scratch, scratch.repository.bundle(0, ()))
    yield Step(did="a device pinned the root and believed the fleet")
    _follow(scratch, _raced(scratch))
    ahead = scratch.device.marks["timestamp"].version
    yield Step(
        did="a thief signed a timestamp far ahead with the stolen key",
        found=(f"the device is at timestamp {ahead}", _refused(scratch, RollbackError)),
    )
    proposal = _propose(scratch)
    yield Step(did="one person proposed another timestamp key", found=describe(proposal))
    for number, person in enumerate(scratch.people["root"][:threshold], 1):
        proposal = sign_proposal(proposal, [person])
        yield Step(did=f"root key {number} signed", found=missing(proposal) or ("complete",))
    stolen = scratch.online.timestamp
    _publish(scratch, require_complete(proposal))
    yield Step(did=f"published root {scratch.repository.published().root.version}")
    _follow(scratch, scratch.repository.bundle(scratch.device.root_version, ()))
    yield Step(
        did="the device followed to the new root",
        found=(f"it is at timestamp {scratch.device.marks['timestamp'].version} again",),
    )
    scratch.online = OnlineKeys(
        snapshot=scratch.online.snapshot,
        timestamp=stolen,
        director=scratch.online.director,
        enrolment=scratch.online.enrolment,
    )
    yield Step(
        did="the thief tried once more",
        found=(_refused(scratch, UnsignedError, _raced(scratch)),),
    )


def _found(folder: Path, roots: int, threshold: int, now: datetime) -> _Scratch:
    passphrase = secrets.token_hex(16)
    people = {
        role: [keys.create(folder / f"{role}-{n}.json", passphrase) for n in range(1, count + 1)]
        for role, count in (("root", roots), ("targets", 1))
    }
    online = create_online(folder / "online", passphrase)
    proposal = propose_founding(
        "drill",
        {role: [key.public_key for key in held] for role, held in people.items()},
        {"root": threshold},
        public_halves(online),
        now,
    )
    signed = sign_proposal(proposal, [*people["root"][:threshold], *people["targets"]])
    held = (online.snapshot, online.timestamp, online.director, online.enrolment)
    found(signed, {key.public_hex: key for key in held}, folder / "repository", now)
    repository = Repository(
        folder / "repository", snapshot=online.snapshot, timestamp=online.timestamp
    )
    root = repository.published().root_bytes
    return _Scratch(
        folder=folder,
        passphrase=passphrase,
        people=people,
        online=online,
        repository=repository,
        device=pin(root, sha256(root).hexdigest()),
        now=now,
    )


def _follow(scratch: _Scratch, files: dict[str, bytes]) -> None:
    """Let the device refresh.

    Raises:
        SigningError: It does not believe the files.

    """
    try:
        scratch.device = _refresh(scratch, files)
    except AgentError as why:
        raise SigningError(f"the drill failed, the device refuses: {why}") from why


def _refused(
    scratch: _Scratch, kind: type[AgentError], files: dict[str, bytes] | None = None
) -> str:
    """Return the sentence with which the device refuses what it must.

    Raises:
        SigningError: It believes it, or refuses for another reason.

    """
    offered = files or scratch.repository.bundle(scratch.device.root_version, ())
    try:
        _refresh(scratch, offered)
    except kind as why:
        return f"the device refuses: {why}"
    except AgentError as why:
        raise SigningError(f"the drill failed, the device refuses with {why}") from why
    raise SigningError("the drill failed: the device believes what it must refuse")


def _refresh(scratch: _Scratch, files: dict[str, bytes]) -> TrustState:
    now_ms = int(scratch.now.timestamp() * 1000)
    return believe(refresh(RefreshJob(state=scratch.device, files=files, now_ms=now_ms))).state


def _raced(scratch: _Scratch) -> dict[str, bytes]:
    """Return what a thief of the timestamp key publishes."""
    held = scratch.repository.published()
    last = parse(Timestamp, held.timestamp_bytes).signed
    last.version = RACED - 1
    timestamp = next_timestamp(last, held.snapshot_bytes, scratch.online.timestamp, scratch.now)
    files = scratch.repository.bundle(scratch.device.root_version, ())
    return {**files, "timestamp.json": timestamp}


def _propose(scratch: _Scratch) -> Proposal:
    new = keys.create(scratch.folder / "online/timestamp-2.json", scratch.passphrase)
    return rotate_role(scratch.repository.published(), "timestamp", [new.public_key], scratch.now)


def _publish(scratch: _Scratch, proposal: Proposal) -> None:
    new = keys.load(scratch.folder / "online/timestamp-2.json", scratch.passphrase)
    scratch.repository.publish_root(
        proposal.root,
        targets=proposal.metadata.get("targets"),
        snapshot=scratch.online.snapshot,
        timestamp=new,
        now=scratch.now,
    )
