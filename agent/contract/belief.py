"""What may be believed: the last, pure checks between verified bytes and an action.

Rule 1: nothing here does I/O; time, keys and what was accepted before are arguments.
Rule 2: a document is believed only from a key that the offline-signed ``Authority``
        lists, for its own logical topic, and only by whom it names.
Rule 3: an assignment is ordered by (director epoch, sequence). Higher is news; the same
        order with the same bytes is a repetition; anything else is a rollback.
Rule 4: a release satisfies both signers: the director assigned this digest, and the
        offline-signed targets list the manifest with it (checked by the TUF refresh).
Rule 5: fleet and device call the same functions, so the fleet never publishes what
        its own devices would refuse.
"""

from hashlib import sha256
from typing import TypeVar

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.exceptions import CryptoError as NaclError
from nacl.signing import VerifyKey

from agent.contract.authority import Authority, Permit, Permits
from agent.contract.codec import Versioned, decode
from agent.contract.enrolment import EnrolRequest, SignedRequest
from agent.contract.envelope import open_document
from agent.contract.frames import check_attachment, unpack_parcel
from agent.contract.limits import MAX_DOCUMENT_BYTES, MAX_MANIFEST_BYTES, MAX_ROUNDS_STEP
from agent.contract.manifest import Digest, Release, decode_release
from agent.contract.messages import Ack, Assigned, Assignment, Count, Fresh
from agent.contract.rounds import Task
from agent.contract.topics import ACK, ASSIGNMENT, FRESH, ROUND_OFFER, Address
from agent.errors import ContractError, UnsignedError
from agent.refusals import (
    AssignmentExpiredError,
    BeyondRoundsError,
    ForkedAssignmentError,
    MisassignedError,
    OldAssignmentError,
    OldReleaseError,
    PastEpochError,
    UnknownEpochError,
    WrongDeviceError,
    WrongFleetError,
    WrongHardwareError,
    WrongManifestError,
    WrongNonceError,
    WrongRunError,
    WrongSlotError,
)

ENROL_CONTEXT = b"fieldfare-enrol-v1\0"
"""What both signatures of an enrolment request cover, before its exact text."""

D = TypeVar("D", bound=msgspec.Struct)


class Accepted(Versioned, frozen=True, kw_only=True):
    """The order of the newest assignment that a device accepted; persisted before acting.

    Attributes:
        director_epoch, sequence: Its order.
        digest: SHA-256 of its exact payload, hex.

    """

    director_epoch: Count
    sequence: Count
    digest: Digest

    @property
    def order(self) -> tuple[int, int]:
        """What assignments are compared by."""
        return self.director_epoch, self.sequence


class Believed(msgspec.Struct, frozen=True, kw_only=True):
    """An assignment that this device may act on.

    Attributes:
        assignment: The desired state.
        accepted: Its order, to be persisted before anything is done.
        repeated: It was accepted before, byte for byte; nothing new is in it.

    """

    assignment: Assignment
    accepted: Accepted
    repeated: bool


def believe_assignment(
    payload: bytes,
    *,
    authority: Authority,
    fleet: str,
    device: str,
    accepted: Accepted | None,
    now_ms: int | None,
) -> Believed:
    """Read an assignment that this device may act on.

    Args:
        payload: The document as it came.
        authority: Who may direct, from the verified TUF target.
        fleet: This device's fleet.
        device: This device's id.
        accepted: What was accepted before, if anything.
        now_ms: Trusted time, ms since 1970; None while it is not known. The expiry of a
            repetition is not checked: what was accepted stays the wish.

    Raises:
        MalformedError: It does not parse.
        UnsignedError: No director key signed it for this device.
        MismatchError: It is for another device or fleet, or of an epoch above the
            authority's (refresh the metadata, then ask again).
        RollbackError: It is older than what was accepted, or equal with other bytes.
        ExpiredError: Its promise has run out.

    """
    said = _open(Assignment, payload, ASSIGNMENT.at(device), authority.director_keys)
    _require_address("assignment", said.device, device)
    if said.fleet != fleet or authority.fleet != fleet:
        raise WrongFleetError(f"assignment is for fleet {said.fleet}, this device is in {fleet}")
    _require_epoch("assignment", said.director_epoch, authority)
    order = Accepted(
        director_epoch=said.director_epoch,
        sequence=said.sequence,
        digest=sha256(payload).hexdigest(),
    )
    if accepted is not None and order.order <= accepted.order:
        if order == accepted:
            return Believed(assignment=said, accepted=order, repeated=True)
        kind = ForkedAssignmentError if order.order == accepted.order else OldAssignmentError
        raise kind(f"assignment {order.order} is not newer than the accepted {accepted.order}")
    if now_ms is not None and now_ms >= said.expires_ms:
        raise AssignmentExpiredError(
            f"assignment {said.sequence} ran out at {said.expires_ms} ms, now is {now_ms} ms"
        )
    return Believed(assignment=said, accepted=order, repeated=False)


def believe_release(
    manifest: bytes,
    assigned: Assigned,
    *,
    slot: str,
    hardware: str,
    running: Release | None,
    running_digest: str | None,
    floor: int,
    permitted: bool = False,
) -> Release:
    """Read a manifest that may be put into a slot.

    Args:
        manifest: Bytes of the TUF target ``assigned.target``.
        assigned: What the director wants.
        slot: Where it is to go.
        hardware: This device's hardware name.
        running: The release that runs in the slot, if any.
        running_digest: The digest of its manifest.
        floor: The highest counter that this slot ever committed to; 0 for none.
        permitted: An offline-signed permit lets this device go back to it
            (``is_permitted``).

    Raises:
        CorruptError: The bytes are not the assigned ones.
        MalformedError, UnsupportedError: They are no manifest that this program knows.
        MismatchError: Target, counter, slot or hardware are not as assigned.
        BeyondRoundsError: It is of the rounds' key, and no next version of what runs here.
        RollbackError: The counter is below the floor, the running release does not list
            this digest in ``rollback_to``, and no permit does.

    """
    digest = sha256(manifest).hexdigest()
    if digest != assigned.digest:
        raise WrongManifestError(
            f"manifest of {assigned.target} is {digest[:16]}, assigned is {assigned.digest[:16]}"
        )
    release = decode_release(manifest)
    if (release.target, release.counter) != (assigned.target, assigned.counter):
        raise MisassignedError(
            f"manifest says {release.target} counter {release.counter},"
            f" assigned is {assigned.target} counter {assigned.counter}"
        )
    if release.slot != slot:
        raise WrongSlotError(f"{release.target} is for slot {release.slot}, not for {slot}")
    if not any(not v.hardware or hardware in v.hardware for v in release.variants):
        raise WrongHardwareError(f"{release.target} has no variant for hardware {hardware}")
    listed = running is not None and digest in running.rollback_to
    people_said = permitted or (listed and running is not None and not running.of_rounds)
    if release.of_rounds and not people_said:
        _require_follower(release, running)
    if release.counter < floor and digest != running_digest and not (listed or permitted):
        raise OldReleaseError(
            f"{release.target} has counter {release.counter}, slot {slot} is already at {floor}"
        )
    return release


def _require_follower(release: Release, running: Release | None) -> None:
    """Return if a release of the rounds' key is a next version of what runs.

    That key lies with the manager, which also directs: whoever steals both must not reach
    a slot, or a number, that the offline keys never put into the family's hands.
    """
    if running is None or running.family != release.family:
        held = "nothing" if running is None else f"{running.family} {running.version}"
        raise BeyondRoundsError(
            f"{release.target} may only follow a release of {release.family}, and {held} runs here"
        )
    if release.counter > running.counter + MAX_ROUNDS_STEP:
        raise BeyondRoundsError(
            f"{release.target} goes from counter {running.counter} to {release.counter}; the key "
            f"of the rounds may go at most {MAX_ROUNDS_STEP} further"
        )


def believe_permits(content: bytes | None, *, fleet: str) -> tuple[Permit, ...]:
    """Read the permits of a verified target; what cannot be read permits nothing.

    Args:
        content: Bytes of the TUF target ``fleet/permits.json``; None where there is none.
        fleet: This device's fleet.

    """
    if content is None:
        return ()
    try:
        said = decode(Permits, content, limit=MAX_MANIFEST_BYTES)
    except ContractError:
        return ()
    return said.permits if said.fleet == fleet else ()


def is_permitted(
    permits: tuple[Permit, ...], *, device: str, slot: str, digest: str, now_ms: int
) -> bool:
    """Return whether a permit lets a device go back to a release of a slot, now."""
    return any(
        (permit.release, permit.slot) == (digest, slot)
        and (not permit.devices or device in permit.devices)
        and now_ms < permit.expires_ms
        for permit in permits
    )


def believe_fresh(payload: bytes, *, authority: Authority, device: str, nonce: str) -> Fresh:
    """Read signed time that answers this device's ``nonce``.

    Raises:
        MalformedError: It does not parse.
        UnsignedError: No director key signed it for this device.
        MismatchError: It is for another device, or of an epoch above the authority's.
        RollbackError: It answers another nonce, or is of an older epoch.

    """
    said = _open(Fresh, payload, FRESH.at(device), authority.director_keys)
    _require_address("signed time", said.device, device)
    _require_epoch("signed time", said.director_epoch, authority)
    if said.nonce != nonce:
        raise WrongNonceError(f"signed time answers nonce {said.nonce[:8]}, asked was {nonce[:8]}")
    return said


def believe_ack(payload: bytes, *, authority: Authority, device: str) -> Ack:
    """Read an acknowledgement of this device's reports.

    Raises:
        MalformedError: It does not parse.
        UnsignedError: No director key signed it for this device.
        MismatchError: It is for another device.

    """
    said = _open(Ack, payload, ACK.at(device), authority.director_keys)
    _require_address("acknowledgement", said.device, device)
    return said


def believe_task(
    payload: bytes, *, authority: Authority, device: str, run: str
) -> tuple[Task, bytes]:
    """Read an offer (a parcel) of ``run``: the task and its attachment.

    Of a task with shared records, the attachment is what remains of the message without
    them; nothing of it is believed before the whole has the digest of the task.

    Raises:
        MalformedError: Parcel or document do not parse.
        UnsignedError: No director key signed it for this device and run.
        MismatchError: It is for another device or run.
        CorruptError: The attachment is not the one that the task names.

    """
    document, attachment = unpack_parcel(payload)
    said = _open(Task, document, ROUND_OFFER.at(device, run), authority.director_keys)
    _require_address("task", said.device, device)
    if said.run != run:
        raise WrongRunError(f"task {said.task} is of run {said.run}, it came for {run}")
    if said.shared:  # the digest is that of the whole, which is checked when it is together
        return said, attachment
    return said, check_attachment(attachment, said.digest)


def believe_enrol_request(payload: bytes) -> EnrolRequest:
    """Read a stranger's request that both its device key and its token key signed.

    Whether the token is any good is for ``fleet.signing.enrolment`` to judge.

    Raises:
        MalformedError: It does not parse.
        UnsignedError: One of the two signatures is not of the key that is named.

    """
    frame = decode(SignedRequest, payload, limit=MAX_DOCUMENT_BYTES)
    text = frame.body.encode()
    request = decode(EnrolRequest, text)
    for who, key, signature in (
        ("device", request.device_key, frame.device_sig),
        ("token", request.token_key, frame.token_sig),
    ):
        try:
            VerifyKey(bytes.fromhex(key)).verify(ENROL_CONTEXT + text, bytes.fromhex(signature))
        except (BadSignatureError, NaclError) as why:
            raise UnsignedError(f"enrolment request is not signed by its {who} key") from why
    return request


def _open(kind: type[D], payload: bytes, address: Address, keys: tuple[str, ...]) -> D:
    believed = [VerifyKey(bytes.fromhex(key)) for key in keys]
    return decode(kind, open_document(believed, address.logical, payload), limit=MAX_DOCUMENT_BYTES)


def _require_address(what: str, said: str, device: str) -> None:
    if said != device:
        raise WrongDeviceError(f"{what} is for device {said}, this is {device}")


def _require_epoch(what: str, said: int, authority: Authority) -> None:
    known = authority.director_epoch
    if said < known:
        raise PastEpochError(f"{what} is of director epoch {said}, the authority is at {known}")
    if said > known:
        raise UnknownEpochError(
            f"{what} is of director epoch {said}, the authority held is of {known}: refresh it"
        )
