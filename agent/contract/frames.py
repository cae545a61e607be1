"""Binary payloads: numbered pieces of larger files, and documents with an attachment.

A piece      ``FFP`` version(1) name(8 bytes) index(u32 BE) total(u32 BE) bytes…
A parcel     ``FFD`` version(1) length(u32 BE) document attachment…

Rule 1: a piece proves nothing; chunks of artifacts are checked against the signed
        manifest, metadata by TUF.
Rule 2: a parcel's document is signed and names the SHA-256 of its attachment.
"""

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from agent.contract.limits import CHUNK_BYTES, MAX_DOCUMENT_BYTES
from agent.refusals import BadParcelError, BadPieceError, WrongAttachmentError

_PIECE = struct.Struct(">3sB8sII")
_PARCEL = struct.Struct(">3sBI")
_VERSION = 1
MAX_PIECES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One numbered piece of a file.

    Attributes:
        name: Eight bytes: the head of an artifact's digest, or a request id.
        index: Position, from 0.
        total: How many pieces the file has.
        content: At most ``CHUNK_BYTES`` bytes.

    """

    name: bytes
    index: int
    total: int
    content: bytes

    def __post_init__(self) -> None:
        if len(self.name) != 8 or not 0 <= self.index < self.total <= MAX_PIECES:  # noqa: PLR2004 - as the frame above has it
            raise BadPieceError(f"piece {self.index} of {self.total} cannot be")
        if len(self.content) > CHUNK_BYTES:
            raise BadPieceError(f"piece of {len(self.content)} bytes is over {CHUNK_BYTES}")

    def encode(self) -> bytes:
        """Return the payload."""
        return _PIECE.pack(b"FFP", _VERSION, self.name, self.index, self.total) + self.content

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read a payload back.

        Raises:
            MalformedError: It is not a piece of this version.

        """
        try:
            magic, version, name, index, total = _PIECE.unpack_from(payload)
        except struct.error as why:
            raise BadPieceError(f"a piece of {len(payload)} bytes is too short") from why
        if (magic, version) != (b"FFP", _VERSION):
            raise BadPieceError("not a piece of a version that this program knows")
        return cls(name=name, index=index, total=total, content=payload[_PIECE.size :])


def split_file(name: bytes, content: bytes, piece_bytes: int = CHUNK_BYTES) -> list[Piece]:
    """Cut a file into pieces; an empty file is one empty piece."""
    starts = range(0, max(len(content), 1), piece_bytes)
    return [
        Piece(name=name, index=i, total=len(starts), content=content[at : at + piece_bytes])
        for i, at in enumerate(starts)
    ]


def pack_parcel(document: bytes, attachment: bytes) -> bytes:
    """Put a document and its attachment into one payload."""
    return _PARCEL.pack(b"FFD", _VERSION, len(document)) + document + attachment


def unpack_parcel(payload: bytes) -> tuple[bytes, bytes]:
    """Return the document and the attachment, both still unbelieved.

    Raises:
        MalformedError: It is not a parcel, or its document is over the limit.

    """
    try:
        magic, version, length = _PARCEL.unpack_from(payload)
    except struct.error as why:
        raise BadParcelError(f"a parcel of {len(payload)} bytes is too short") from why
    if (magic, version) != (b"FFD", _VERSION):
        raise BadParcelError("not a parcel of a version that this program knows")
    if length > min(MAX_DOCUMENT_BYTES, len(payload) - _PARCEL.size):
        raise BadParcelError(f"parcel claims a document of {length} bytes")
    return payload[_PARCEL.size : _PARCEL.size + length], payload[_PARCEL.size + length :]


def check_attachment(attachment: bytes, digest: str) -> bytes:
    """Return the attachment if its SHA-256 is ``digest`` (hex).

    Raises:
        CorruptError: It is not.

    """
    if sha256(attachment).hexdigest() != digest:
        raise WrongAttachmentError("attachment is not the one that its document names")
    return attachment
