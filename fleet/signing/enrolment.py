"""Whether a stranger may join, and the sealed answer it gets.

Rule 1: judging is pure: token, device and used nonces are looked up by the caller.
Rule 2: what no key signed gets no answer at all; it raises. Whoever proved to hold its
        device key gets a sentence.
Rule 3: a request is answered once; a lost answer is asked for again with a new nonce.
        A token counts a device once, when it is first admitted or pending; for that
        device neither its expiry nor its uses matter any more.
Rule 4: the answer is sealed to the device's key and signed by the enrolment key that
        the metadata inside makes believable.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from nacl.exceptions import CryptoError
from nacl.public import SealedBox
from nacl.signing import VerifyKey

from agent.contract.belief import believe_enrol_request
from agent.contract.codec import encode
from agent.contract.enrolment import EnrolReply, EnrolRequest, SealedReply
from agent.contract.envelope import device_id, sign_document
from agent.contract.keys import Ed25519Signer
from agent.contract.topics import ENROL_REPLY
from agent.errors import MalformedError
from fleet.errors import SigningError


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What the fleet knows of a token.

    Attributes:
        uses_left: How many further devices it may bring in.
        expires_ms: Until when, ms since 1970.
        approval: Whether an operator has to approve each device.
        used_by: Devices that it brought in already.

    """

    uses_left: int
    expires_ms: int
    approval: Literal["auto", "manual"] = "auto"
    used_by: Collection[str] = ()


DeviceState = Literal["pending", "enrolled", "revoked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The device is to be enrolled: provision it, count the token, reply."""

    request: EnrolRequest
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An operator has to approve the device first."""

    request: EnrolRequest
    device: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The device does not get in."""

    request: EnrolRequest
    device: str
    why: str


Judgement = Admitted | Pending | Refused


def _anybody(_token_key: str, _device: str) -> bool:
    return True


def judge_request(
    payload: bytes,
    *,
    fleet: str,
    nonce: str,
    token: Callable[[str], Token | None],
    known: Callable[[str], DeviceState | None],
    seen: Callable[[str], bool],
    now_ms: int,
    invited: Callable[[str, str], bool] = _anybody,
) -> Judgement:
    """Decide about one enrolment request.

    Args:
        payload: What came on ``enrol/req/{nonce}``.
        fleet: This fleet.
        nonce: The nonce of the topic.
        token: Finds a token by its public key, hex.
        known: Finds the state of a device by its id.
        seen: Whether a nonce was answered before.
        now_ms: Now, ms since 1970.
        invited: Whether a token, by its public key, is for a device.

    Raises:
        MalformedError: The payload does not parse, or nothing can be sealed to its key.
        UnsignedError: Device key or token key did not sign it.

    """
    request = believe_enrol_request(payload)
    key = VerifyKey(bytes.fromhex(request.device_key))
    try:
        key.to_curve25519_public_key()
    except (CryptoError, RuntimeError) as unfit:
        raise MalformedError("the device key cannot receive a sealed reply") from unfit
    device = device_id(key)
    found, state = token(request.token_key), known(device)
    objections = (
        (
            request.nonce != nonce or seen(nonce),
            f"nonce {nonce[:8]} was answered before: ask again with a new one",
        ),
        (request.fleet != fleet, f"this is fleet {fleet}, the request is for {request.fleet}"),
        (state == "revoked", f"device {device} was revoked: a factory reset makes it a new one"),
        (found is None, "this fleet does not know the token: ask for a new enrolment file"),
        (
            found is not None and not invited(request.token_key, device),
            f"the token is for listed devices, and {device} is not among them: have it listed",
        ),
        (
            _is_spent(found, device, now_ms),
            "the token has run out or is used up: ask for a new enrolment file",
        ),
    )
    for stands, why in objections:
        if stands:
            return Refused(request=request, device=device, why=why)
    if found is not None and found.approval == "manual" and state != "enrolled":
        return Pending(
            request=request, device=device, why=f"an operator has yet to approve device {device}"
        )
    return Admitted(request=request, device=device)


def _is_spent(token: Token | None, device: str, now_ms: int) -> bool:
    if token is None or device in token.used_by:
        return False
    return now_ms >= token.expires_ms or token.uses_left < 1


def seal_reply(
    request: EnrolRequest, reply: EnrolReply, *, key: Ed25519Signer, metadata: dict[str, bytes]
) -> bytes:
    """Return the payload that only the asking device can open.

    Args:
        request: What it asked.
        reply: What it is told.
        key: The enrolment key.
        metadata: ``Repository.bundle(0, (), enrolling=True)``: every root and the authority.

    Raises:
        SigningError: The reply is for another request, or the device's key cannot
            receive anything.

    """
    public = VerifyKey(bytes.fromhex(request.device_key))
    if (reply.nonce, reply.device) != (request.nonce, device_id(public)):
        raise SigningError(f"reply for {reply.device} does not answer nonce {request.nonce[:8]}")
    address = ENROL_REPLY.at(request.nonce)
    document = sign_document(key.signing, address.logical, reply)
    sealed = encode(SealedReply(metadata=metadata, document=document.decode()))
    try:
        return bytes(SealedBox(public.to_curve25519_public_key()).encrypt(sealed))
    except (CryptoError, RuntimeError) as why:
        raise SigningError(f"the key of {reply.device} cannot receive a sealed reply") from why
