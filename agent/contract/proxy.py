"""An HTTP proxy on the way to a broker: which one, and what is said to it.

Rule 1: a setting of our own decides before the environment; ``none`` is never a proxy.
Rule 2: of the environment only what holds for TLS is read: ``https_proxy``, ``all_proxy``
        and ``no_proxy``, in lower or upper case. Without TLS it would hear everything, and
        nobody means it for this machine itself.
Rule 3: the password of a proxy is in no sentence.
Rule 4: nothing here opens a connection; ``contract.dial`` does.

Source: CONNECT in RFC 9110, 9.3.6; the Basic scheme in RFC 7617.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from agent.contract.broker_url import LOOPBACK, BrokerUrl
from agent.errors import MalformedError

NEVER: Final = frozenset({"", "none"})
MAX_ANSWER_BYTES: Final = 16 * 1024
_OWN_PORT: Final = 80
_WELCOME: Final = range(200, 300)
_WANTS_LOGIN: Final = 407
_FORBIDDEN: Final = 403
_GATEWAY: Final = range(502, 505)
_STATUS_PARTS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One HTTP proxy.

    >>> Proxy.parse("http://proxy.example:3128")
    Proxy(host='proxy.example', port=3128, username=None)
    """

    host: str
    port: int
    username: str | None = None
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``http://[user:password@]host[:port]``.

        Raises:
            MalformedError: It is of another form; what was given is not repeated, because
                it may hold a password.

        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or port == 0 or parts.scheme != "http" or not _is_plain(text):
            raise MalformedError("a proxy is http://host:port or http://user:password@host:port")
        return cls(
            host=host,
            port=port or _OWN_PORT,
            username=None if parts.username is None else unquote(parts.username),
            password=unquote(parts.password or ""),
        )

    @property
    def where(self) -> str:
        """Its address, for people.

        >>> Proxy.parse("http://user:secret@proxy.example:3128").where
        'proxy.example:3128'
        """
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """What may be between us and whatever we reach; by itself nothing.

    Attributes:
        setting: Of this program; see ``choose_proxy``.
        environment: Of the process.

    """

    setting: str | None = field(default="none", repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def towards(self, address: BrokerUrl) -> Proxy | None:
        """Return the proxy on the way to an address; None to go straight.

        Raises:
            MalformedError: What is set is no proxy.

        """
        return choose_proxy(self.setting, self.environment, address)


STRAIGHT: Final = Proxies()


def choose_proxy(
    setting: str | None, environment: Mapping[str, str], address: BrokerUrl
) -> Proxy | None:
    """Return the proxy on the way to an address; None to go straight.

    Args:
        setting: Of this program: a proxy for whatever address, ``none`` or nothing for
            never; None leaves it to the environment.
        environment: Of the process.
        address: Where to.

    Raises:
        MalformedError: What is set is no proxy.

    >>> broker = BrokerUrl.parse("mqtts://broker.example")
    >>> choose_proxy(None, {"https_proxy": "http://10.0.0.1:3128"}, broker).where
    '10.0.0.1:3128'
    >>> choose_proxy("none", {"https_proxy": "http://10.0.0.1:3128"}, broker)
    """
    if setting is not None:
        return None if setting in NEVER else Proxy.parse(setting)
    if not address.secure or address.host in LOOPBACK:
        return None
    if _is_exempt(address.host, _read(environment, "no_proxy")):
        return None
    for name in ("https_proxy", "all_proxy"):
        found = _read(environment, name)
        if found:
            try:
                return Proxy.parse(found)
            except MalformedError as why:
                raise MalformedError(f"{name} in the environment: {why}") from why
    return None


def connect_request(proxy: Proxy, address: BrokerUrl) -> bytes:
    r"""Return the request for a tunnel to an address.

    >>> connect_request(Proxy.parse("http://p"), BrokerUrl.parse("mqtts://broker.example"))
    b'CONNECT broker.example:8883 HTTP/1.1\r\nHost: broker.example:8883\r\n\r\n'
    """
    where = f"{_bracketed(address.host)}:{address.port}"
    lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if proxy.username is not None:
        login = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {login}")
    return "\r\n".join((*lines, "", "")).encode()


def refusal(proxy: Proxy, answer: bytes) -> str:
    r"""Return why a proxy gives no tunnel; empty where it does.

    Args:
        proxy: Which one.
        answer: Its first line, or all that came.

    >>> refusal(Proxy.parse("http://p"), b"HTTP/1.1 200 Connection established\r\n\r\n")
    ''
    """
    first = answer.split(b"\r\n", 1)[0].decode("ascii", errors="replace").split(" ", 2)
    if len(first) < _STATUS_PARTS or not first[0].startswith("HTTP/1.") or not first[1].isdigit():
        return f"proxy {proxy.where} does not answer as an HTTP proxy"
    code, said = int(first[1]), " ".join(first[1:])[:80]
    if code in _WELCOME:
        return ""
    if code == _WANTS_LOGIN and proxy.username is None:
        return (
            f"proxy {proxy.where} wants a user name and a password ({said}): set "
            "http://user:password@host:port"
        )
    if code == _WANTS_LOGIN:
        return f"proxy {proxy.where} does not take this user name and password ({said})"
    if code == _FORBIDDEN:
        return (
            f"proxy {proxy.where} forbids this address ({said}): many let out port 443 only; ask "
            "for this one, or have the broker listen for wss:// on 443"
        )
    if code in _GATEWAY:
        return f"proxy {proxy.where} does not reach the broker ({said})"
    return f"proxy {proxy.where} gives no tunnel ({said})"


def _read(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _is_exempt(host: str, listed: str) -> bool:
    """Whether ``no_proxy`` names a host, one of its domains, or everything.

    >>> [_is_exempt("a.example.org", t) for t in ("example.org", ".example.org", "*", "b.org")]
    [True, True, True, False]
    """
    for entry in listed.split(","):
        name = entry.strip().lower().removeprefix("*.").removeprefix(".")
        name = name.partition(":")[0] if name.count(":") == 1 else name
        if name == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
    return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
