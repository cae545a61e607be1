"""The owner's own broker: samples and requests in, predictions and answers out.

Rule 1: nothing here is signed or believed; it is sensor data on the owner's network.
Rule 2: it is a second connection, with its own account; the fleet's link never carries
        foreign topics.
Rule 3: like the fleet's link it never gives up; what is sent meanwhile is lost, at most once.
        What must be found by who comes later is retained, and published at every connect.
Rule 4: without the topics of its sources a connection is no use, and ends; that others are
        refused is logged, and costs nothing else.
"""

import logging
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

from agent.contract.topics import Topics
from agent.errors import LinkError
from agent.link.broker import Wire
from agent.link.connection import Connection, Foreign
from agent.link.patience import Pace, Patience

log = logging.getLogger("agent.link")

_NO_FLEET = Topics(fleet="no-fleet", prefix="fieldfare-unused")
_TICK_SECONDS = 1.0


class LocalBroker:
    """A connection that keeps itself up and hands over what it hears.

    Args:
        connection: How the broker is reached.
        subscriptions: Filters that must be granted.
        welcome: Filters that may be refused.
        heard: Gets every message on the network thread, and must not wait.
        connected: Called there whenever the connection stands; must not wait.
        will: What the broker publishes when we are gone without a word.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        subscriptions: tuple[str, ...],
        heard: Callable[[Foreign], None],
        welcome: tuple[str, ...] = (),
        connected: Callable[[], None] = lambda: None,
        will: Foreign | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._connection = connection
        self._subscriptions = subscriptions
        self._welcome = welcome
        self._heard = heard
        self._connected = connected
        self._will = will
        self._patience = Patience(pace or Pace())
        self._wire: Wire | None = None
        self._last: Foreign | None = None
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="local-link", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        return self._wire is not None

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def publish(self, message: Foreign) -> bool:
        """Send a message; from any thread. False when offline, or when too many wait."""
        wire = self._wire
        return wire is not None and wire.publish(message)

    def stop(self, last: Foreign | None = None) -> None:
        """Publish a last message, disconnect and join the thread."""
        self._last = last
        self._stopping.set()
        wire = self._wire
        if wire is not None:
            wire.wake()
        if self._thread.is_alive():
            self._thread.join(self._connection.connect_timeout_seconds + 5.0)

    def _run(self) -> None:
        wait = self._patience.before_first()
        while not self._stopping.wait(wait):
            since = monotonic()
            try:
                self._live_once()
            except LinkError as why:
                wait = self._patience.after_connection(monotonic() - since)
                log.info("local-link state=refused why=%r retry_seconds=%.1f", str(why), wait)
            except Exception:  # the top of the thread: it must outlive whatever a network does
                log.exception("local-link loop=failed")
                wait = self._patience.after_failure()

    def _live_once(self) -> None:
        wire = Wire(
            self._connection,
            _NO_FLEET,
            epoch=1,
            subscriptions=self._subscriptions,
            will=self._will,
            arrived=lambda _: None,
            foreign=self._heard,
        )
        try:
            wire.open()
            wire.wait_until_subscribed(
                self._connection.connect_timeout_seconds, self._stopping.is_set
            )
            for topic in self._welcome:
                wire.subscribe(topic)
            self._wire = wire
            log.info("local-link state=connected")
            self._connected()
            while wire.end is None and not self._stopping.is_set():
                wire.turn(_TICK_SECONDS)
        finally:
            self._wire = None
            wire.close(self._last)
        if wire.end is not None and not self._stopping.is_set():
            raise LinkError(wire.end.why)
