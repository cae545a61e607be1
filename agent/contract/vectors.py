"""Test vectors: inputs with the one word that every implementation must answer.

Rule 1: the words are closed (``Outcome``); all but ``accepted`` are codes of
        errors, a finer reason counts as its family.
Rule 2: a vector is judged by the functions that devices and fleet call, never by a copy.
Rule 3: it carries everything that the judgement takes: keys, time, what was accepted
        before. Bytes are base64, keys and digests lower-case hex.

``tests/vectors`` holds the published ones; ``docs/conformance.md`` tells how to use them.
"""

from io import BytesIO
from typing import Final, Literal, assert_never, get_args

from msgspec import Struct
from nacl.signing import SigningKey, VerifyKey

from agent.contract.authority import Authority
from agent.contract.belief import (
    Accepted,
    believe_ack,
    believe_assignment,
    believe_fresh,
    believe_release,
)
from agent.contract.bundle import read_bundle
from agent.contract.codec import Versioned, decode
from agent.contract.envelope import Stamp, check_report, open_document
from agent.contract.frames import Piece, check_attachment, unpack_parcel
from agent.contract.manifest import Artifact, Digest, Name, Text, decode_release
from agent.contract.messages import Assigned, Count, Hex32, Hex64
from agent.contract.sealing import OpenedStream, unwrap_key
from agent.contract.topics import Topics
from agent.errors import AgentError, MismatchError

MAX_FILE_BYTES: Final = 16 * 1024 * 1024

Outcome = Literal[
    "accepted",
    "malformed",
    "unsupported",
    "unsigned",
    "expired",
    "rollback",
    "mismatch",
    "corrupt",
]


class _Vector(Struct, frozen=True, kw_only=True, tag_field="kind"):
    name: Text
    outcome: Outcome


class TopicVector(_Vector, frozen=True, kw_only=True, tag="topic"):
    """``topic`` belongs to the tree of ``fleet`` and has this logical topic."""

    prefix: str
    fleet: str
    topic: str
    logical: str = ""


class ReportVector(_Vector, frozen=True, kw_only=True, tag="report"):
    """The device with ``key`` said ``payload`` on a logical topic, stamped in properties."""

    key: Hex64
    topic: str
    properties: tuple[tuple[str, str], ...]
    payload: bytes


class DocumentVector(_Vector, frozen=True, kw_only=True, tag="document"):
    """One of ``keys`` signed the document in ``payload`` for a logical topic."""

    keys: tuple[Hex64, ...]
    topic: str
    payload: bytes


class AssignmentVector(_Vector, frozen=True, kw_only=True, tag="assignment"):
    """A device that accepted ``accepted`` before may act on ``payload`` at ``now_ms``."""

    authority: Authority
    fleet: Name
    device: Name
    accepted: Accepted | None
    now_ms: Count | None
    payload: bytes


class FreshVector(_Vector, frozen=True, kw_only=True, tag="fresh"):
    """``payload`` is signed time that answers this device's ``nonce``."""

    authority: Authority
    device: Name
    nonce: Hex32
    payload: bytes


class AckVector(_Vector, frozen=True, kw_only=True, tag="ack"):
    """``payload`` acknowledges reports of this device."""

    authority: Authority
    device: Name
    payload: bytes


class ReleaseVector(_Vector, frozen=True, kw_only=True, tag="release"):
    """A manifest may be put into a slot where ``running`` (a manifest) runs.

    ``permitted`` is whether an offline-signed permit lets this device go back to it.
    """

    manifest: bytes
    assigned: Assigned
    slot: Name
    hardware: Name
    running: bytes | None
    running_digest: Digest | None
    floor: Count
    permitted: bool = False


class ChunkVector(_Vector, frozen=True, kw_only=True, tag="chunk"):
    """``content`` is chunk ``index`` of an artifact."""

    artifact: Artifact
    index: int
    content: bytes


class PieceVector(_Vector, frozen=True, kw_only=True, tag="piece"):
    """``payload`` is one numbered piece of a file."""

    payload: bytes


class ParcelVector(_Vector, frozen=True, kw_only=True, tag="parcel"):
    """``payload`` is a document with the attachment of this SHA-256."""

    payload: bytes
    digest: Digest


class SealedVector(_Vector, frozen=True, kw_only=True, tag="sealed"):
    """What is inside ``stream`` has this SHA-256; its key is in ``box``, for a device's seed."""

    seed: Hex64
    box: bytes
    stream: bytes
    digest: Digest


class BundleVector(_Vector, frozen=True, kw_only=True, tag="bundle"):
    """``payload`` is a whole update bundle with an assignment for ``device``."""

    device: Name
    payload: bytes


Vector = (
    TopicVector
    | ReportVector
    | DocumentVector
    | AssignmentVector
    | FreshVector
    | AckVector
    | ReleaseVector
    | ChunkVector
    | PieceVector
    | ParcelVector
    | SealedVector
    | BundleVector
)


class VectorFile(Versioned, frozen=True, kw_only=True):
    """What a file of vectors holds."""

    about: str
    vectors: tuple[Vector, ...]


def read_vectors(content: bytes) -> tuple[Vector, ...]:
    """Read a file of vectors.

    Raises:
        MalformedError: It is not one.
        UnsupportedError: A version that this program does not know.

    """
    return decode(VectorFile, content, limit=MAX_FILE_BYTES).vectors


def judge(vector: Vector) -> tuple[str, str]:
    """Return the word of this implementation, and its sentence where it refuses."""
    try:
        _judge(vector)
    except AgentError as why:
        return _word(why), str(why)
    return "accepted", ""


def _word(why: AgentError) -> str:
    """Return the closed word for an error: the code of its family."""
    codes = [kind.code for kind in type(why).__mro__ if issubclass(kind, AgentError)]
    return next((code for code in codes if code in get_args(Outcome)), why.code)


def _judge(vector: Vector) -> None:
    match vector:
        case TopicVector():
            address = Topics(fleet=vector.fleet, prefix=vector.prefix).read(vector.topic)
            if address.logical != vector.logical:
                raise MismatchError(f"the logical topic is {address.logical}")
        case ReportVector():
            stamp = Stamp.read(vector.properties)
            check_report(_key(vector.key), vector.topic, stamp, vector.payload)
        case DocumentVector():
            open_document([_key(key) for key in vector.keys], vector.topic, vector.payload)
        case AssignmentVector():
            believe_assignment(
                vector.payload,
                authority=vector.authority,
                fleet=vector.fleet,
                device=vector.device,
                accepted=vector.accepted,
                now_ms=vector.now_ms,
            )
        case FreshVector():
            believe_fresh(
                vector.payload,
                authority=vector.authority,
                device=vector.device,
                nonce=vector.nonce,
            )
        case AckVector():
            believe_ack(vector.payload, authority=vector.authority, device=vector.device)
        case ReleaseVector():
            believe_release(
                vector.manifest,
                vector.assigned,
                slot=vector.slot,
                hardware=vector.hardware,
                running=None if vector.running is None else decode_release(vector.running),
                running_digest=vector.running_digest,
                floor=vector.floor,
                permitted=vector.permitted,
            )
        case ChunkVector():
            vector.artifact.check_chunk(vector.index, vector.content)
        case PieceVector():
            Piece.decode(vector.payload)
        case ParcelVector():
            _document, attachment = unpack_parcel(vector.payload)
            check_attachment(attachment, vector.digest)
        case SealedVector():
            key = unwrap_key(vector.box, SigningKey(bytes.fromhex(vector.seed)))
            check_attachment(OpenedStream(BytesIO(vector.stream), key).read(), vector.digest)
        case BundleVector():
            if read_bundle(BytesIO(vector.payload), vector.device).assignment is None:
                raise MismatchError(f"the bundle holds no assignment for {vector.device}")
        case _:
            assert_never(vector)


def _key(public: str) -> VerifyKey:
    return VerifyKey(bytes.fromhex(public))
