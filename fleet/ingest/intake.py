"""The one door for what devices say: bytes in, a believed report or the reason out.

Rule 1: the topic names the device, and the device's own key must have signed the exact
        payload for that topic; a broker that mixes devices up is noticed here.
Rule 2: requests for chunks and metadata, and predictions, carry nothing that changes state
        and need no signature, only an enrolled device; everything else does.
Rule 3: a report of an outbox that its device signed and nobody can read is ``Unreadable``:
        it has a number, and a device that is never told so would send it for ever. One of a
        newer version is refused: a newer manager may read it.
Rule 4: nothing is recorded here. ``service.inbox`` records a batch of reports in one
        transaction and acknowledges after it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
from nacl.signing import VerifyKey

from agent.contract.codec import decode
from agent.contract.envelope import Stamp, check_report
from agent.contract.frames import check_attachment, unpack_parcel
from agent.contract.limits import MAX_DOCUMENT_BYTES, MAX_PAYLOAD_BYTES
from agent.contract.messages import (
    ChunkRequest,
    Event,
    FreshRequest,
    GrantRequest,
    Inventory,
    MetaRequest,
    Presence,
    Reported,
)
from agent.contract.rounds import TaskAnswer
from agent.contract.telemetry import Prediction, Telemetry
from agent.contract.topics import (
    ARTIFACT_REQUEST,
    EVENT,
    FRESH_REQUEST,
    GRANT_REQUEST,
    INVENTORY,
    META_REQUEST,
    PRESENCE,
    REPORTED,
    ROUND_ANSWER,
    TELEMETRY,
    Address,
    Channel,
)
from agent.errors import MalformedError, UnsignedError


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A signed report that does not parse, and why."""

    why: str


Body = (
    Presence
    | Inventory
    | Reported
    | Telemetry
    | Event
    | FreshRequest
    | MetaRequest
    | ChunkRequest
    | GrantRequest
    | TaskAnswer
    | Unreadable
)

_KINDS: dict[Channel, type[msgspec.Struct]] = {
    PRESENCE: Presence,
    INVENTORY: Inventory,
    REPORTED: Reported,
    TELEMETRY: Telemetry,
    EVENT: Event,
    FRESH_REQUEST: FreshRequest,
    META_REQUEST: MetaRequest,
    ARTIFACT_REQUEST: ChunkRequest,
    GRANT_REQUEST: GrantRequest,
    ROUND_ANSWER: TaskAnswer,
}
_UNSIGNED = (META_REQUEST, ARTIFACT_REQUEST)
_SPOOLED = (TELEMETRY, EVENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one device really said.

    Attributes:
        device: Who.
        body: The typed payload.
        stamp: Boot and sequence; None for unsigned requests.
        spooled: Whether it came from the device's outbox and wants an acknowledgement.
        attachment: Bytes beside the body, already checked against its digest.

    """

    device: str
    body: Body
    stamp: Stamp | None
    spooled: bool
    attachment: bytes = b""


def read_prediction(
    device: str, payload: bytes, key_of: Callable[[str], VerifyKey | None]
) -> Prediction:
    """Return what a device predicted, which nobody has signed.

    Raises:
        MalformedError: Over a limit, or not of its shape.
        UnsignedError: Of an unknown device.

    """
    if key_of(device) is None:
        raise UnsignedError(f"{device} is not an enrolled device of this fleet")
    return decode(Prediction, payload)


def read(
    address: Address,
    payload: bytes,
    properties: Iterable[tuple[str, str]],
    key_of: Callable[[str], VerifyKey | None],
) -> Said:
    """Return what was said, believed.

    Args:
        address: Where it arrived.
        payload: Exact bytes.
        properties: MQTT 5 user properties.
        key_of: Returns the key of an enrolled device, or None.

    Raises:
        MalformedError: Not a device's topic, over a limit, or not of its shape.
        UnsignedError: Of an unknown device, or not signed by it for this topic.
        CorruptError: The attachment is not the one that the document names.

    """
    kind = _KINDS.get(address.channel)
    if kind is None:
        raise MalformedError(f"{address.logical} is not a topic that devices write")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise MalformedError(f"payload of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
    key = key_of(address.who)
    if key is None:
        raise UnsignedError(f"{address.who} is not an enrolled device of this fleet")
    stamp = None
    if address.channel not in _UNSIGNED:
        stamp = Stamp.read(properties)
        check_report(key, address.logical, stamp, payload)
    attachment = b""
    if kind is TaskAnswer:
        payload, attachment = unpack_parcel(payload)
    body: object
    try:
        body = decode(kind, payload, limit=max(MAX_PAYLOAD_BYTES, MAX_DOCUMENT_BYTES))
    except MalformedError as why:
        if address.channel not in _SPOOLED:
            raise
        body = Unreadable(str(why)[:500])
    if isinstance(body, TaskAnswer) and body.digest is not None and body.upload is None:
        check_attachment(attachment, body.digest)
    return Said(
        device=address.who,
        body=body,  # type: ignore[arg-type]  # decode returns what _KINDS asked for
        stamp=stamp,
        spooled=address.channel in _SPOOLED,
        attachment=attachment,
    )
