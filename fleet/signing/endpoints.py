"""The list of endpoints that devices believe, as a proposal for the targets keys.

Rule 1: a list is shown as addresses and fingerprints, and names no authority that is none, has
        run out, or cannot be read: the devices would only find out when they are away.
Rule 2: versions grow by one, so that people and devices can say which list they mean.
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509

from agent.contract.broker_url import BrokerUrl
from agent.contract.codec import encode
from agent.contract.endpoints import (
    ENDPOINTS_TARGET,
    MAX_AUTHORITIES,
    MAX_ENDPOINTS,
    Endpoint,
    Endpoints,
    fingerprint,
)
from agent.contract.limits import MAX_DOCUMENT_BYTES
from agent.errors import ContractError
from fleet.errors import SigningError
from fleet.signing.proposal import Proposal, propose_targets
from fleet.signing.published import Published, parse_endpoints


def propose_endpoints(held: Published, endpoints: Sequence[Endpoint], now: datetime) -> Proposal:
    """Propose the list that devices follow from now on.

    Args:
        held: What is in force.
        endpoints: In the order in which devices prefer them.
        now: Aware datetime.

    Raises:
        SigningError: It is the list in force, names an address twice or one that cannot be
            used, or an authority that is none or has run out.

    """
    before = held.endpoints
    if before is not None and before.endpoints == tuple(endpoints):
        raise SigningError(f"this is the list in force, version {before.version}")
    if not 1 <= len(endpoints) <= MAX_ENDPOINTS:
        raise SigningError(f"{len(endpoints)} endpoints; a list has 1 to {MAX_ENDPOINTS}")
    urls = [endpoint.url for endpoint in endpoints]
    if len(set(urls)) < len(urls):
        raise SigningError("an address is there twice: give it all its authorities at once")
    for endpoint in endpoints:
        require_endpoint(endpoint, now)
    new = Endpoints(
        fleet=held.authority.fleet,
        version=(before.version if before else 0) + 1,
        endpoints=tuple(endpoints),
    )
    content = encode(new)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise SigningError(f"the list has {len(content)} bytes, at most {MAX_DOCUMENT_BYTES}")
    return propose_targets(
        held,
        what=f"endpoints version {new.version}",
        additions={ENDPOINTS_TARGET: content},
        removals=(),
        now=now,
    )


def require_endpoint(endpoint: Endpoint, now: datetime) -> None:
    """Return if devices can use an endpoint.

    Raises:
        SigningError: Its address or one of its authorities is not in order.

    """
    try:
        secure = BrokerUrl.parse(endpoint.url).secure
    except ContractError as why:
        raise SigningError(str(why)) from why
    if endpoint.cas and not secure:
        raise SigningError(f"{endpoint.url} has no TLS: it takes no authority")
    if len(endpoint.cas) > MAX_AUTHORITIES:
        raise SigningError(
            f"{endpoint.url} has {len(endpoint.cas)} authorities, at most {MAX_AUTHORITIES}"
        )
    for pem in endpoint.cas:
        _require_authority(endpoint.url, pem, now)


def describe_endpoints(content: bytes) -> tuple[str, ...]:
    """Return what a list says, for whoever is asked to sign it.

    Raises:
        SigningError: It does not parse.

    """
    said = parse_endpoints(content)
    if said is None:
        return ()
    lines = [f"list version {said.version} of fleet {said.fleet}; devices prefer the first"]
    for endpoint in said.endpoints:
        lines.append(endpoint.url)
        lines += [f"  believes {line}" for line in describe_authorities(endpoint)]
    return tuple(lines)


def describe_authorities(endpoint: Endpoint) -> tuple[str, ...]:
    """Return a line for each authority believed at an endpoint."""
    if not endpoint.cas:
        secure = BrokerUrl.parse(endpoint.url).secure
        return ("whom the device's system believes" if secure else "nobody: there is no TLS",)
    return tuple(f"authority sha256 {mark}" for mark in endpoint.fingerprints)


def _require_authority(url: str, pem: str, now: datetime) -> None:
    try:
        mark = fingerprint(pem)[:16]
        certificate = x509.load_pem_x509_certificate(pem.encode())
        authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ContractError, ValueError) as why:
        raise SigningError(f"an authority of {url} cannot be read: {why}") from why
    except x509.ExtensionNotFound:
        authority = False
    if not authority:
        raise SigningError(f"certificate {mark} at {url} is no authority (CA)")
    if certificate.not_valid_after_utc <= now:
        raise SigningError(
            f"authority {mark} at {url} ran out at {certificate.not_valid_after_utc:%Y-%m-%d}"
        )
