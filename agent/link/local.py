"""The owner's own broker: samples of foreign topics in, predictions out.

Rule 1: nothing here is signed or believed; it is sensor data on the owner's network.
Rule 2: it is a second connection, with its own account; the fleet's link never carries
        foreign topics.
Rule 3: like the fleet's link it never gives up; what is sent meanwhile is lost, at most once.
"""

import logging
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

from agent.contract.topics import Topics
from agent.errors import LinkError
from agent.link.broker import Wire
from agent.link.connection import Connection
from agent.link.patience import Pace, Patience

log = logging.getLogger("agent.link")

_NO_FLEET = Topics(fleet="no-fleet", prefix="fieldfare-unused")
_TICK_SECONDS = 1.0


class LocalBroker:
    """A connection that keeps itself up and hands over what it hears."""

    def __init__(
        self,
        connection: Connection,
        *,
        subscriptions: tuple[str, ...],
        heard: Callable[[str, bytes], None],
        pace: Pace | None = None,
    ) -> None:
        """``heard`` gets topic and payload on the network thread, and must not wait."""
        self._connection = connection
        self._subscriptions = subscriptions
        self._heard = heard
        self._patience = Patience(pace or Pace())
        self._wire: Wire | None = None
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="local-link", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        return self._wire is not None

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send a message at most once; False when offline."""
        wire = self._wire
        return wire is not None and wire.publish_foreign(topic, payload)

    def stop(self) -> None:
        """Disconnect and join the thread."""
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
            will=None,
            arrived=lambda _: None,
            foreign=self._heard,
        )
        try:
            wire.open()
            deadline = monotonic() + self._connection.connect_timeout_seconds
            while not wire.subscribed and wire.end is None and monotonic() < deadline:
                wire.turn(_TICK_SECONDS)
            if wire.end is None and wire.subscribed:
                self._wire = wire
                log.info("local-link state=connected")
            while self._wire is not None and wire.end is None and not self._stopping.is_set():
                wire.turn(_TICK_SECONDS)
        finally:
            self._wire = None
            wire.close()
        if not self._stopping.is_set():
            raise LinkError(wire.end.why if wire.end else "the local broker does not answer")
