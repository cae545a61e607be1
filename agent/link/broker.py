"""The broker, as a queue. Only this module of the device imports the MQTT library."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.contract.topics import Address, Topics
from agent.link.inbox import Arrived, Inbox
from agent.link.patience import Pace


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach one broker.

    Attributes:
        url: ``mqtt://host:port`` or ``mqtts://host:port``.
        ca: PEM text of the only authority believed; empty uses the system's.
        client_id: Stable name of the session; a device's id.
        keepalive_seconds: Changed by up to 10 % so that a fleet does not ping in step.
        session_expiry_seconds: How long the broker keeps the session.

    """

    url: str
    ca: str = ""
    username: str | None = None
    password: str | None = None
    client_id: str
    keepalive_seconds: int = 60
    session_expiry_seconds: int = 3600
    connect_timeout_seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message to publish; QoS, retention and expiry come from its channel."""

    address: Address
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


class Broker:
    """A connection that keeps itself up and puts what happens on the inbox."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        inbox: Inbox,
        *,
        subscriptions: tuple[str, ...],
        will_for: Callable[[int], Outgoing] | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``will_for(epoch)`` is called on the network thread before each connect."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to connect; returns at once."""
        raise NotImplementedError

    def publish(self, message: Outgoing) -> bool:
        """Hand a message to the connection; False when offline or too much waits.

        Raises:
            MalformedError: The payload is over the limit of one message.

        """
        raise NotImplementedError

    def settle(self, message: Arrived) -> None:
        """Tell the broker that the message has been dealt with for good."""
        raise NotImplementedError

    def stop(self, final: Outgoing | None = None) -> None:
        """Publish a last message, disconnect in order and join the thread."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        raise NotImplementedError


def exchange(
    connection: Connection,
    topics: Topics,
    request: Outgoing,
    reply: Address,
    *,
    timeout_seconds: float = 30.0,
) -> bytes:
    """Connect, send one request and return the payload of its first reply.

    Raises:
        LinkError: The broker is unreachable or refuses us, or nobody answered in time.

    """
    raise NotImplementedError
