"""Where the broker is, and what is handed to it."""

from dataclasses import dataclass, field
from pathlib import Path

from agent.contract.broker_url import BrokerUrl
from agent.contract.proxy import STRAIGHT, Proxies
from agent.contract.topics import Address
from agent.errors import ConfigError, MalformedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach one broker.

    Attributes:
        url: ``mqtt://host:port``, ``mqtts://host:port`` or ``wss://host:port/path``.
        ca: PEM text of the only authority believed; empty uses the system's.
        client_id: Stable name of the session; a device's id.
        keepalive_seconds: Changed by up to 10 % so that a fleet does not ping in step.
        session_expiry_seconds: How long the broker keeps the session; 0 begins anew.
        will_delay_seconds: How long the broker waits with our Will for our return;
            below the session expiry. Without it every short gap would report a death.
        proxies: What may be between.
        identity: PEM file of our own certificate and its key; shown where it exists and is
            asked for.

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
    proxies: Proxies = STRAIGHT
    identity: Path | None = None

    def __post_init__(self) -> None:
        try:
            BrokerUrl.parse(self.url)
        except MalformedError as why:
            raise ConfigError(str(why)) from why

    @property
    def address(self) -> BrokerUrl:
        """The URL, read."""
        return BrokerUrl.parse(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to publish; QoS, retention and expiry come from its channel."""

    address: Address
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A message of the owner's own broker: on a topic that is none of the fleet's.

    Attributes:
        qos: 0 or 1.
        response_topic, correlation: How MQTT 5 joins a request and its answer; empty without.

    """

    topic: str
    payload: bytes
    qos: int = 0
    retained: bool = False
    response_topic: str = ""
    correlation: bytes = field(default=b"", repr=False)
    content_type: str = "application/json"
