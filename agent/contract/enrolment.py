"""What a stranger and the fleet say to each other, and what the stranger is given first.

    EnrolmentFile ──▶ device    by hand, once; names the root that it pins
    SignedRequest ──▶ fleet     an ``EnrolRequest`` with two signatures
    SealedReply   ──▶ device    an ``EnrolReply`` in a document, with what makes it believable

Rule 1: whoever asks proves two keys: its own and the token's.
Rule 2: what is answered only the device opens, and believes from its pinned root on.
"""

from typing import Annotated

from msgspec import Meta

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Label, Name, Text
from agent.contract.messages import ClientCertificate, Count, Hex32, Hex64


class EnrolRequest(Versioned, frozen=True, kw_only=True):
    """A stranger's request; signed by its own key and by the token (a key as well).

    ``tls_key`` is the Ed25519 key for which it wants a client certificate, where there are any.
    """

    fleet: Name
    nonce: Hex32
    device_key: Hex64
    token_key: Hex64
    hardware: Name
    agent: Text = ""
    tls_key: Hex64 | None = None


class SignedRequest(Versioned, frozen=True, kw_only=True):
    """The request's exact text with both signatures (hex)."""

    body: Annotated[str, Meta(max_length=4096)]
    device_sig: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")]
    token_sig: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}$(?!\n)")]


class EnrolReply(Versioned, frozen=True, kw_only=True):
    """The body of the enrolment key's document inside the sealed reply.

    ``status`` is enrolled, pending or refused; credentials are set only for enrolled.
    ``wss_url`` is for those who came over WebSocket. Where the broker asks for certificates,
    there are no user name and password.
    """

    device: Name
    nonce: Hex32
    fleet: Name
    status: Annotated[str, Meta(pattern=r"^(enrolled|pending|refused)$(?!\n)")]
    why: Text = ""
    broker_url: Text = ""
    broker_ca: Annotated[str, Meta(max_length=16_384)] = ""
    wss_url: Text = ""
    username: Label | None = None
    password: Label | None = None
    certificate: ClientCertificate | None = None


class SealedReply(Versioned, frozen=True, kw_only=True):
    """What is inside the sealed box: metadata that makes ``document`` believable."""

    metadata: dict[str, bytes]
    document: str


class EnrolmentFile(Versioned, frozen=True, kw_only=True):
    """What ``fieldfare token create`` writes and a device is given once.

    Attributes:
        enrol_url: ``mqtt://``, ``mqtts://`` or ``wss://`` address of the enrolment listener.
        username, password: Public; they open two topics only.
        root_digest: SHA-256 of the TUF root that the device pins.
        token: Seed of the token's Ed25519 key, hex. Secret.

    """

    fleet: Name
    prefix: Text
    enrol_url: Text
    broker_ca: Annotated[str, Meta(max_length=16_384)] = ""
    username: Text = ""
    password: Text = ""
    root_digest: Digest
    token: Hex64
    expires_ms: Count
