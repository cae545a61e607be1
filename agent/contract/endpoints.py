"""Where the brokers of a fleet are, and whose certificates are believed there, offline-signed.

    {"v":1,"fleet":"orchard","version":3,"endpoints":[
      {"url":"mqtts://new.example:8883","cas":["-----BEGIN CERTIFICATE-----…"]},
      {"url":"mqtts://old.example:8883","cas":["…","…"]}]}

Rule 1: the list is ordered: a device goes to the first endpoint that leads to its fleet.
Rule 2: an endpoint is address *and* authorities. Either changed is another endpoint, to be
        tried like a new one; several authorities at one address are all believed there.
Rule 3: what cannot be read strands nobody: an endpoint of a form that this program does not
        know is passed over, a list that does not parse is no list.
"""

import ssl
from hashlib import sha256
from typing import Annotated, Final

from msgspec import Meta, Struct

from agent.contract.broker_url import BrokerUrl
from agent.contract.codec import Versioned, decode
from agent.contract.limits import MAX_DOCUMENT_BYTES
from agent.contract.manifest import Digest, Name
from agent.errors import ContractError, MalformedError

ENDPOINTS_TARGET: Final = "fleet/endpoints.json"
MAX_ENDPOINTS: Final = 8
MAX_AUTHORITIES: Final = 4

Url = Annotated[str, Meta(min_length=1, max_length=500)]
Pem = Annotated[str, Meta(min_length=1, max_length=8192)]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One way to the fleet.

    Attributes:
        url: Address of the device listener.
        cas: PEM texts of the only authorities believed there, one certificate each; empty
            without TLS, or for those of the system.

    """

    url: Url
    cas: Annotated[tuple[Pem, ...], Meta(max_length=MAX_AUTHORITIES)] = ()

    @property
    def ca(self) -> str:
        """All authorities as one PEM text."""
        return "".join(self.cas)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """SHA-256 of each authority, hex."""
        return tuple(fingerprint(pem) for pem in self.cas)


class Endpoints(Versioned, frozen=True, kw_only=True):
    """The TUF target ``fleet/endpoints.json``; ``version`` grows with each list."""

    fleet: Name
    version: Annotated[int, Meta(ge=1, le=2**53)]
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1, max_length=MAX_ENDPOINTS)]


class EndpointReport(Struct, frozen=True, kw_only=True):
    """What a device believes about the way to its fleet; part of its reported state.

    Attributes:
        version: Of the list that it holds; 0 without one.
        digest: SHA-256 of that list's bytes; None without one.
        url: Where the fleet answered last.
        cas: Fingerprints of the authorities believed there.
        listed: Whether that endpoint stands in the list as it is.

    """

    version: Annotated[int, Meta(ge=0, le=2**53)] = 0
    digest: Digest | None = None
    url: Url
    cas: Annotated[tuple[Digest, ...], Meta(max_length=64)] = ()
    listed: bool = False


def believe_endpoints(content: bytes | None, *, fleet: str) -> Endpoints | None:
    """Read the list of a verified target; None where there is none that can be used.

    Args:
        content: Bytes of the TUF target ``fleet/endpoints.json``; None where there is none.
        fleet: This device's fleet.

    """
    if content is None:
        return None
    try:
        said = decode(Endpoints, content, limit=MAX_DOCUMENT_BYTES)
    except ContractError:
        return None
    return said if said.fleet == fleet else None


def usable(endpoints: Endpoints | None) -> tuple[Endpoint, ...]:
    """Return the endpoints whose form this program knows, in order, each once."""
    found = dict.fromkeys(e for e in (endpoints.endpoints if endpoints else ()) if is_usable(e))
    return tuple(found)


def is_usable(endpoint: Endpoint) -> bool:
    """Return whether this program could connect to an endpoint."""
    try:
        BrokerUrl.parse(endpoint.url)
        return all(endpoint.fingerprints) or not endpoint.cas
    except MalformedError:
        return False


def split_authorities(pem: str) -> tuple[str, ...]:
    """Return the certificates of a PEM text, one by one; none of a blank one.

    Raises:
        MalformedError: One of them is not base64 between its two lines, or a text that is
            not blank holds none: nobody means to believe the system's authorities by that.

    """
    _, *parts = pem.split(_BEGIN)
    if pem.strip() and not parts:
        raise MalformedError("expected certificates in PEM, found none")
    found = tuple(f"{_BEGIN}{part.partition(_END)[0]}{_END}\n" for part in parts)
    for each in found:
        fingerprint(each)
    return found


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate, hex.

    Raises:
        MalformedError: It is not one certificate in PEM.

    """
    if pem.count(_BEGIN) != 1:
        raise MalformedError(f"expected one certificate in PEM, found {pem.count(_BEGIN)}")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")
    except ValueError as why:
        raise MalformedError(f"an authority is not a certificate in PEM: {why}") from why
    return sha256(der).hexdigest()


_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
