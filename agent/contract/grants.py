"""Leave to fetch one artifact over HTTP: asked and given over the broker, shown to a server.

Rule 1: a grant is a document of the director for one device, one artifact and a short
        time. Whoever knows the director's public keys can check it; nobody remembers it.
Rule 2: the device shows the document itself, with its own id before it, as a bearer token
        (RFC 6750). Bytes that it buys are believed by the manifest's hashes only.
Rule 3: a device follows only addresses that end in the artifact's path, so that a grant
        cannot send it to another service of its neighbourhood.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final
from urllib.parse import urlsplit

from nacl.signing import VerifyKey

from agent.contract.authority import Authority
from agent.contract.codec import decode
from agent.contract.envelope import open_document
from agent.contract.limits import MAX_GRANT_BYTES, NAME
from agent.contract.messages import Grant
from agent.contract.topics import GRANT
from agent.errors import ExpiredError, MalformedError, MismatchError
from agent.refusals import WrongDeviceError

ARTIFACT_PATH: Final = "/v1/artifacts/"
_BEARER: Final = "Bearer "
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def check_base(url: str) -> str:
    """Return the address below which artifacts are served, without a last slash.

    Raises:
        MalformedError: It is not ``https://host[:port][/path]``; ``http`` only on loopback.

    >>> check_base("https://fleet.example:8885/")
    'https://fleet.example:8885'
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#@\\")
    secure = url.startswith("https://") or (url.startswith("http://") and is_loopback(host or ""))
    if not (host and port != 0 and plain and secure):
        raise MalformedError(
            f"{url[:200]!r} is not https://host:port; http:// is for loopback only"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself."""
    return host in _LOOPBACK


def artifact_url(base: str, digest: str) -> str:
    """Return where one artifact is served."""
    return f"{base}{ARTIFACT_PATH}{digest}"


def believe_grant(payload: bytes, *, authority: Authority, device: str) -> Grant:
    """Read what the director answered to this device's question for leave.

    Raises:
        MalformedError: It does not parse, or its address is not one for this artifact.
        UnsignedError: No director key signed it for this device.
        MismatchError: It is for another device.

    """
    said = _open(payload, authority, device)
    if said.url:
        check_base(said.url)
        if not said.url.endswith(f"{ARTIFACT_PATH}{said.a}"):
            raise MalformedError(f"the grant for {said.a[:16]} names an address of something else")
    return said


def show_grant(payload: bytes, device: str) -> str:
    """Return what stands in the ``Authorization`` header; the inverse of ``read_grant``."""
    return f"{_BEARER}{device}.{urlsafe_b64encode(payload).decode()}"


def read_grant(shown: str, *, authority: Authority, digest: str, now_ms: int) -> Grant:
    """Return the grant that a request shows, if it holds for this artifact now.

    Args:
        shown: The ``Authorization`` header as it came.
        authority: Who may grant.
        digest: Which artifact is wanted.
        now_ms: Now, ms since 1970.

    Raises:
        MalformedError: It is no grant at all.
        UnsignedError: No director key signed it for the device that it names.
        ExpiredError: Its time is over.
        MismatchError: It is for another artifact or another device.

    """
    device, _, text = shown.removeprefix(_BEARER).partition(".")
    fits = shown.startswith(_BEARER) and len(text) <= 2 * MAX_GRANT_BYTES
    if not fits or not NAME.fullmatch(device):
        raise MalformedError("show a grant as `Authorization: Bearer DEVICE.GRANT`")
    try:
        payload = urlsafe_b64decode(text)
    except (binascii.Error, ValueError) as why:
        raise MalformedError("the grant is not base64") from why
    said = _open(payload, authority, device)
    if not said.url:
        raise MismatchError(f"{device} was refused, not granted: {said.why}")
    if now_ms >= said.expires_ms:
        raise ExpiredError("the grant has expired: ask for a new one")
    if said.a != digest:
        raise MismatchError(f"the grant is for {said.a[:16]}, asked was {digest[:16]}")
    return said


def _open(payload: bytes, authority: Authority, device: str) -> Grant:
    if len(payload) > MAX_GRANT_BYTES:
        raise MalformedError(f"a grant of {len(payload)} bytes is over {MAX_GRANT_BYTES}")
    keys = [VerifyKey(bytes.fromhex(key)) for key in authority.director_keys]
    body = open_document(keys, GRANT.at(device).logical, payload, limit=MAX_GRANT_BYTES)
    said = decode(Grant, body, limit=MAX_GRANT_BYTES)
    if said.device != device:
        raise WrongDeviceError(f"the grant is for device {said.device}, this is {device}")
    return said
