"""What passes between the manager and its broker: values only."""

from dataclasses import dataclass, field
from pathlib import Path

from agent.contract.broker_url import BrokerUrl
from agent.contract.proxy import STRAIGHT, Proxies
from agent.errors import MalformedError
from fleet.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the manager reaches its broker; ``agent.link.connection`` is the device's side.

    Attributes:
        url: ``mqtt://host:port``, ``mqtts://host:port`` or ``wss://host:port/path``.
        ca: PEM text of the only authorities believed; empty uses the system's.
        ca_file: Where they are read anew at each attempt, instead of ``ca``.
        longest_wait_seconds: Ceiling of the jittered wait between attempts.
        proxies: What may be between.
        identity: PEM file of our own certificate and its key; shown where it exists and is
            asked for.

    Raises:
        ConfigError: The address is of another form.

    """

    url: str
    ca: str = field(default="", repr=False)
    ca_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str
    keepalive_seconds: int = 30
    session_expiry_seconds: int = 600
    connect_timeout_seconds: float = 5.0
    longest_wait_seconds: float = 15.0
    proxies: Proxies = STRAIGHT
    identity: Path | None = None

    def __post_init__(self) -> None:
        try:
            BrokerUrl.parse(self.url)
        except MalformedError as why:
            raise ConfigError(str(why)) from why

    @property
    def believed(self) -> str:
        """The authorities believed now; empty for the system's."""
        try:
            return self.ca if self.ca_file is None else self.ca_file.read_text()
        except FileNotFoundError:
            return ""

    @property
    def address(self) -> BrokerUrl:
        """The URL, read."""
        return BrokerUrl.parse(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to publish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry_seconds: int | None = None
    properties: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the broker waits for: valid on the connection of ``epoch`` only."""

    epoch: int
    mid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One message; ``receipt`` is None for QoS 0."""

    topic: str
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    retained: bool = False
    receipt: Receipt | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker took us and the subscriptions stand."""

    session_present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """No connection: it ended, or an attempt failed. The link tries again by itself."""

    why: str


News = Arrived | Connected | Disconnected
