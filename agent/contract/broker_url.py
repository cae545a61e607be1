"""Where a broker is: ``mqtts://host:port``, ``wss://host/path``, or the same without TLS.

Rule 1: both sides, the enrolment reply and both configurations read it here.
Rule 2: without a port it is the registered one: 1883, with TLS 8883, for WebSocket those of
        HTTP (IANA).
Rule 3: WebSocket without TLS is for this machine only: nobody needs it elsewhere, and an
        HTTP proxy between would read everything.
"""

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from agent.errors import MalformedError

PORTS: Final = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
WEBSOCKET_PATH: Final = "/mqtt"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """The address of a broker.

    Attributes:
        secure: Whether TLS protects the connection.
        path: Where MQTT over WebSocket is found; None is plain MQTT.

    >>> BrokerUrl.parse("mqtts://broker.example")
    BrokerUrl(host='broker.example', port=8883, secure=True, path=None)
    >>> BrokerUrl.parse("wss://broker.example")
    BrokerUrl(host='broker.example', port=443, secure=True, path='/mqtt')
    """

    host: str
    port: int
    secure: bool
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            MalformedError: It is of another form.

        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or port == 0 or parts.scheme not in PORTS:
            raise MalformedError(
                f"broker address {text!r} is not mqtt://host:port, mqtts://host:port or "
                "wss://host:port/path"
            )
        path = None
        if parts.scheme.startswith("ws"):
            path = _websocket_path(text, parts)
            if parts.scheme == "ws" and host not in LOOPBACK:
                raise MalformedError(f"broker address {text!r} is without TLS: take wss://")
        secure = parts.scheme in {"mqtts", "wss"}
        return cls(host=host, port=port or PORTS[parts.scheme], secure=secure, path=path)


def _websocket_path(text: str, parts: SplitResult) -> str:
    if parts.query or parts.fragment or not (text.isascii() and text.isprintable()) or " " in text:
        raise MalformedError(f"broker address {text!r} is not wss://host:port/path")
    return parts.path or WEBSOCKET_PATH


def hung_up_at_login(url: str) -> str:
    """Return the sentence for a broker whose certificate we believe, and which hangs up on us."""
    return (
        f"broker {url} hung up during the login: it may want a certificate of this side, or not "
        "take the one that it was shown, such as a revoked one"
    )


def no_websocket(url: str) -> str:
    """Return the sentence for a server that answers and speaks no MQTT over WebSocket."""
    return (
        f"broker {url} answers, and not with MQTT over WebSocket at this path: is it the right "
        "port and path?"
    )


def connect_failure(url: str, why: Exception) -> str:
    """Return the sentence for a broker that could not be connected to.

    >>> connect_failure("mqtt://broker.example", ConnectionRefusedError(111, "Connection refused"))
    'broker mqtt://broker.example cannot be reached: Connection refused'
    """
    doubt = getattr(why, "verify_message", "")  # of ssl.SSLCertVerificationError alone
    if doubt:
        return (
            f"broker {url} is not believed: {doubt}; its certificate must name this address, be in "
            "date, and come from the authority that this side was given"
        )
    reason = getattr(why, "strerror", None) or str(why) or type(why).__name__
    return f"broker {url} cannot be reached: {reason}"
