"""Where a broker is: ``mqtt://host:port`` or ``mqtts://host:port``, and nothing else.

Rule 1: both sides, the enrolment reply and both configurations read it here.
Rule 2: without a port it is the registered one: 1883, with TLS 8883 (IANA).
"""

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from agent.errors import MalformedError

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """The address of a broker.

    Attributes:
        secure: Whether TLS protects the connection.

    >>> BrokerUrl.parse("mqtts://broker.example")
    BrokerUrl(host='broker.example', port=8883, secure=True)
    """

    host: str
    port: int
    secure: bool

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
                f"broker address {text!r} is not mqtt://host:port or mqtts://host:port"
            )
        return cls(host=host, port=port or PORTS[parts.scheme], secure=parts.scheme == "mqtts")


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
