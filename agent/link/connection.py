"""Where the broker is, and what is handed to it."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agent.contract.topics import Address
from agent.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach one broker.

    Attributes:
        url: ``mqtt://host:port`` or ``mqtts://host:port``.
        ca: PEM text of the only authority believed; empty uses the system's.
        client_id: Stable name of the session; a device's id.
        keepalive_seconds: Changed by up to 10 % so that a fleet does not ping in step.
        session_expiry_seconds: How long the broker keeps the session; 0 begins anew.
        will_delay_seconds: How long the broker waits with our Will for our return;
            below the session expiry. Without it every short gap would report a death.

    Raises:
        ConfigError: The address is of another form.

    """

    url: str
    ca: str = field(default="", repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str
    keepalive_seconds: int = 60
    session_expiry_seconds: int = 3600
    will_delay_seconds: int = 30
    connect_timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError(
                f"broker address {self.url!r} is not mqtt://host:port or mqtts://host:port"
            )

    @property
    def secure(self) -> bool:
        """Whether TLS protects it."""
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or PORTS[parts.scheme]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to publish; QoS, retention and expiry come from its channel."""

    address: Address
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
