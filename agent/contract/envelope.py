"""Who said it, where, and in which order: signatures around exact payload bytes.

Rule 1: a signature covers ``context ‖ topic ‖ boot ‖ sequence ‖ payload``; a topic
        swap, a replay under another number and a flipped bit all break it.
Rule 2: a *report* (device to fleet) stays plain JSON; its ``Stamp`` travels in MQTT 5
        user properties. A missing stamp has its own error, for brokers that strip it.
Rule 3: a *document* (fleet to device) embeds its signature, because brokers and
        bridges may strip properties.
Rule 4: nothing is parsed before its signature is checked, except this frame.

Ed25519 as in RFC 8032, by libsodium.
"""

import re
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import MAX_DOCUMENT_BYTES
from agent.errors import MalformedError
from agent.refusals import ForgedDocumentError, ForgedReportError, StrippedStampError

REPORT_CONTEXT = b"fieldfare-report-v1\0"
DOCUMENT_CONTEXT = b"fieldfare-document-v1\0"
SIGNATURE_BYTES = 64
MAX_SEQUENCE = 2**63 - 1

_BOOT = re.compile(r"(0|[1-9][0-9]{0,11})-([0-9a-f]{16})")


@dataclass(frozen=True, slots=True, order=True)
class Boot:
    """One life of a device: a persisted counter and 64 random bits.

    >>> str(Boot.parse("12-00ff00ff00ff00ff"))
    '12-00ff00ff00ff00ff'
    """

    counter: int
    salt: str

    def __str__(self) -> str:
        return f"{self.counter}-{self.salt}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read it back; the inverse of ``str``.

        Raises:
            MalformedError: It is not a counter, a hyphen and sixteen hex digits.

        """
        match = _BOOT.fullmatch(text)
        if match is None:
            raise MalformedError(f"not a boot id: {text[:40]!r}")
        return cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """The order and the signature of one report, as MQTT user properties."""

    boot: Boot
    sequence: int
    signature: bytes

    def properties(self) -> tuple[tuple[str, str], ...]:
        """Return the MQTT 5 user properties."""
        return (
            ("boot", str(self.boot)),
            ("seq", str(self.sequence)),
            ("sig", self.signature.hex()),
        )

    @classmethod
    def read(cls, properties: Iterable[tuple[str, str]]) -> Self:
        """Read the stamp from user properties; others are ignored.

        Raises:
            UnsignedError: One of the three is missing.
            MalformedError: One of them does not parse.

        """
        found = dict(properties)
        try:
            boot, sequence, signature = found["boot"], found["seq"], found["sig"]
        except KeyError as missing:
            raise StrippedStampError(
                f"report without user property {missing}: a bridge or broker may have stripped it"
            ) from missing
        try:
            number, raw = int(sequence[:20]), bytes.fromhex(signature)
        except ValueError as why:
            raise MalformedError(f"report stamp does not parse: {why}") from why
        if not 0 <= number <= MAX_SEQUENCE or len(raw) != SIGNATURE_BYTES:
            raise MalformedError("report stamp has a sequence or signature of the wrong size")
        return cls(boot=Boot.parse(boot), sequence=number, signature=raw)


def stamp_report(key: SigningKey, topic: str, boot: Boot, sequence: int, payload: bytes) -> Stamp:
    """Sign one report for its logical topic."""
    signed = _covered(REPORT_CONTEXT, topic, f"{boot}#{sequence}", payload)
    return Stamp(boot=boot, sequence=sequence, signature=key.sign(signed).signature)


def check_report(key: VerifyKey, topic: str, stamp: Stamp, payload: bytes) -> None:
    """Return if the device with ``key`` said ``payload`` on ``topic``.

    Raises:
        UnsignedError: The signature is of another key, topic, number or payload.

    """
    signed = _covered(REPORT_CONTEXT, topic, f"{stamp.boot}#{stamp.sequence}", payload)
    try:
        key.verify(signed, stamp.signature)
    except BadSignatureError as why:
        raise ForgedReportError(f"report on {topic} is not signed by its device") from why


class Document(Versioned, frozen=True, kw_only=True):
    """A signed fleet document: ``body`` is JSON text, signed byte for byte."""

    kid: str
    sig: str
    body: str


def key_id(key: VerifyKey) -> str:
    """Return the short name of a public key: its first 16 hex digits."""
    return bytes(key).hex()[:16]


def device_id(key: VerifyKey) -> str:
    """Return the id of the device with this public key: 80 bits of BLAKE2b in base32.

    >>> device_id(VerifyKey(bytes(32)))
    'd-mn7mositmmwex3pi'
    """
    digest = blake2b(bytes(key), digest_size=10, person=b"fieldfare-device").digest()
    return "d-" + b32encode(digest).decode().lower()


def sign_document(key: SigningKey, topic: str, body: msgspec.Struct) -> bytes:
    """Return the signed document for one logical topic."""
    text = encode(body)
    signature = key.sign(_covered(DOCUMENT_CONTEXT, topic, "", text)).signature
    return encode(Document(kid=key_id(key.verify_key), sig=signature.hex(), body=text.decode()))


def open_document(
    keys: Iterable[VerifyKey], topic: str, payload: bytes, *, limit: int = MAX_DOCUMENT_BYTES
) -> bytes:
    """Return the signed body, still unparsed.

    Raises:
        MalformedError: The frame does not parse.
        UnsignedError: None of ``keys`` signed this body for this topic.

    """
    document = decode(Document, payload, limit=limit)
    body = document.body.encode()
    try:
        signature = bytes.fromhex(document.sig)
    except ValueError as why:
        raise MalformedError("document signature is not hex") from why
    for key in keys:
        if key_id(key) == document.kid and len(signature) == SIGNATURE_BYTES:
            try:
                key.verify(_covered(DOCUMENT_CONTEXT, topic, "", body), signature)
            except BadSignatureError:
                continue
            return body
    raise ForgedDocumentError(f"document on {topic} is not signed by a key that this side believes")


def _covered(context: bytes, topic: str, order: str, payload: bytes) -> bytes:
    parts = (topic.encode(), order.encode())
    return context + b"".join(len(p).to_bytes(2, "big") + p for p in parts) + payload
