"""The manager's connection to the broker. Only this module of the fleet imports the MQTT library."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the manager reaches its broker; see ``agent.link.broker`` for the device's side.

    Attributes:
        url: ``mqtt://host:port`` or ``mqtts://host:port``.
        ca: PEM text of the only authority believed; empty uses the system's.

    """

    url: str
    ca: str = ""
    username: str | None = None
    password: str | None = None
    client_id: str
    keepalive_seconds: int = 30
    session_expiry_seconds: int = 600
    connect_timeout_seconds: float = 5.0
    longest_wait_seconds: float = 15.0


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


class BrokerLink:
    """One connection, driven by one thread that calls ``poll``; ``wake`` may be called by any."""

    def __init__(
        self,
        connection: Connection,
        *,
        subscriptions: tuple[tuple[str, int], ...],
        will: Message | None = None,
    ) -> None:
        raise NotImplementedError

    def poll(self, timeout_seconds: float) -> list[News]:
        """Return what happened, in order; empty after the time-out or a ``wake``."""
        raise NotImplementedError

    def publish(self, message: Message) -> bool:
        """Hand a message to the connection; False when offline or too much waits."""
        raise NotImplementedError

    def settle(self, messages: list[Arrived]) -> None:
        """Tell the broker that these messages are durably dealt with."""
        raise NotImplementedError

    def wake(self) -> None:
        """Make a waiting ``poll`` return; callable from any thread."""
        raise NotImplementedError

    def close(self, final: Message | None = None) -> None:
        """Publish a last message, disconnect in order and release the descriptors."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        raise NotImplementedError

    @property
    def unsent_bytes(self) -> int:
        """Bytes handed to ``publish`` that the broker has not taken yet."""
        raise NotImplementedError
