"""What the director says: assignments, signed time, acknowledgements, grants and tasks.

Rule 1: every document is checked by ``contract.belief`` as its device will check it,
        before it leaves this module; what a device would refuse is a ``SigningError``.
Rule 2: nothing is decided here; the caller chose the order and the content.
"""

from hashlib import sha256

import msgspec

from agent.contract.authority import Authority
from agent.contract.belief import (
    believe_ack,
    believe_assignment,
    believe_fresh,
    believe_task,
)
from agent.contract.envelope import sign_document
from agent.contract.frames import pack_parcel
from agent.contract.grants import believe_grant
from agent.contract.keys import Ed25519Signer
from agent.contract.messages import Ack, Assignment, Fresh, Grant
from agent.contract.rounds import Task
from agent.contract.topics import ACK, ASSIGNMENT, FRESH, GRANT, ROUND_OFFER
from agent.errors import ContractError, TrustError
from fleet.errors import SigningError


def sign_assignment(
    key: Ed25519Signer, assignment: Assignment, *, authority: Authority, now_ms: int
) -> bytes:
    """Return the payload of one device's assignment.

    Args:
        key: The director's key.
        assignment: The desired state, with its order and expiry.
        authority: The authority that the fleet published.
        now_ms: Now, ms since 1970.

    Raises:
        SigningError: A device would not believe it.

    """
    address = ASSIGNMENT.at(assignment.device)
    payload = sign_document(key.signing, address.logical, assignment)
    try:
        believe_assignment(
            payload,
            authority=authority,
            fleet=authority.fleet,
            device=assignment.device,
            accepted=None,
            now_ms=now_ms,
        )
    except (ContractError, TrustError) as why:
        raise _unbelievable("assignment", assignment.device, why) from why
    return payload


def sign_fresh(key: Ed25519Signer, fresh: Fresh, *, authority: Authority) -> bytes:
    """Return the payload that answers a device's nonce.

    Raises:
        SigningError: A device would not believe it.

    """
    payload = sign_document(key.signing, FRESH.at(fresh.device).logical, fresh)
    try:
        believe_fresh(payload, authority=authority, device=fresh.device, nonce=fresh.nonce)
    except (ContractError, TrustError) as why:
        raise _unbelievable("signed time", fresh.device, why) from why
    return payload


def sign_ack(key: Ed25519Signer, ack: Ack, *, authority: Authority) -> bytes:
    """Return the payload that lets a device forget reports.

    Raises:
        SigningError: A device would not believe it.

    """
    payload = sign_document(key.signing, ACK.at(ack.device).logical, ack)
    try:
        believe_ack(payload, authority=authority, device=ack.device)
    except (ContractError, TrustError) as why:
        raise _unbelievable("acknowledgement", ack.device, why) from why
    return payload


def sign_grant(key: Ed25519Signer, grant: Grant, *, authority: Authority) -> bytes:
    """Return the payload that lets a device fetch an artifact over HTTP, or refuses it.

    Raises:
        SigningError: A device would not believe it.

    """
    payload = sign_document(key.signing, GRANT.at(grant.device).logical, grant)
    try:
        believe_grant(payload, authority=authority, device=grant.device)
    except (ContractError, TrustError) as why:
        raise _unbelievable("grant", grant.device, why) from why
    return payload


def sign_task(key: Ed25519Signer, task: Task, attachment: bytes, *, authority: Authority) -> bytes:
    """Return the parcel of one task; ``task.digest`` is set from the attachment.

    That of a task with shared records is of the whole message, and stays.

    Raises:
        SigningError: A device would not believe it.

    """
    digest = task.digest if task.shared else sha256(attachment).hexdigest()
    named = msgspec.structs.replace(task, digest=digest)
    document = sign_document(key.signing, ROUND_OFFER.at(task.device, task.run).logical, named)
    payload = pack_parcel(document, attachment)
    try:
        believe_task(payload, authority=authority, device=task.device, run=task.run)
    except (ContractError, TrustError) as why:
        raise _unbelievable("task", task.device, why) from why
    return payload


def _unbelievable(what: str, device: str, why: Exception) -> SigningError:
    return SigningError(f"{what} for {device} would be refused by the device itself: {why}")
