"""Who may come in, and how often; decided before a body is read.

Rule 1: a browser is no client of ours: what bears the Origin of another place, or says that
        it comes from another site, is refused, and nothing is ever said about CORS.
Rule 2: over TCP the Host must be an address or a name of this machine, because a page whose
        name was made to point here (DNS rebinding) bears a name of its own; and the token
        must be right, compared in constant time. The Unix socket has its file's mode.
Rule 3: who asks too often is told so, by client: an address, or a user of this machine.
Rule 4: whether the server lives can be asked at any rate.
"""

import hmac
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

from agent.infer.server.replies import Reply, refuse

MAX_CLIENTS: Final = 1024
_UNLIMITED: Final = (b"/v2/health/live", b"/v2/health/ready")
_OWN_SITE: Final = ("", "same-origin", "none")


@dataclass(slots=True)
class Head:
    """What of a request's head matters here; header values as they came, "" without.

    Attributes:
        client: An address, or ``uid 1000``.
        tcp: Whether it came over the network.

    """

    client: str
    tcp: bool
    method: bytes = b""
    target: bytes = b""
    host: str = ""
    origin: str = ""
    fetch_site: str = ""
    authorization: str = ""
    content_length: str = ""
    json_length: str = ""
    encoding: str = ""
    expect: str = ""


class Door:
    """Lets requests in; see the rules above.

    Args:
        token: What callers over TCP must show.
        hosts: Names by which this machine is called, beside its addresses.
        per_second: Requests a client may make; so many at once as well.
        now: Seconds on a clock that only goes forward.

    """

    def __init__(
        self,
        *,
        token: str | None,
        hosts: frozenset[str],
        per_second: float,
        now: Callable[[], float],
    ) -> None:
        self._token = None if token is None else _digest(token)
        self._hosts = hosts | {"localhost"}
        self._per_second = per_second
        self._now = now
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def refuse(self, head: Head) -> Reply | None:
        """Return why this request is not answered, or None."""
        if head.target not in _UNLIMITED and not self._is_in_time(head.client):
            return refuse(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate",
                f"{head.client} asks more than {self._per_second:g} times a second: "
                "requests_per_second in [serve] is the limit",
            )
        if (head.origin or head.fetch_site) and not _is_own_page(head):
            return refuse(
                HTTPStatus.FORBIDDEN,
                "origin",
                f"a page of {head.origin[:200] or 'another site'} may not ask models here",
            )
        if not head.tcp:
            return None
        name, is_address = _place(head.host)
        if not is_address and name not in self._hosts:
            return refuse(
                HTTPStatus.MISDIRECTED_REQUEST,
                "host",
                f"this is not {head.host[:200]!r}: use an address, or name it in hosts of [serve]",
            )
        scheme, _, shown = head.authorization.partition(" ")
        right = self._token is not None and hmac.compare_digest(_digest(shown.strip()), self._token)
        if not right or scheme.lower() != "bearer":
            return refuse(
                HTTPStatus.UNAUTHORIZED,
                "token",
                "over TCP the header Authorization: Bearer TOKEN is needed, with the right token",
            )
        return None

    def _is_in_time(self, client: str) -> bool:
        now = self._now()
        left, at = self._clients.pop(client, (self._per_second, now))
        left = min(self._per_second, left + (now - at) * self._per_second)
        allowed = left >= 1
        self._clients[client] = (left - 1 if allowed else left, now)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        return allowed


def _is_own_page(head: Head) -> bool:
    if head.origin and head.origin.partition("://")[2].lower() != head.host.lower():
        return False
    return head.fetch_site in _OWN_SITE


@lru_cache(maxsize=64)
def _place(host: str) -> tuple[str, bool]:
    """Return the name in ``name:port`` or ``[address]:port``, and whether it is an address."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name.lower(), False
    return name, True


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "replace")).digest()
