"""The broker, as a queue: a connection that keeps itself up, and one exchange without it.

Rule 1: what happens goes on the inbox; all decisions are taken by its reader.
Rule 2: the link never gives up. It is the way by which a broken device is repaired.
Rule 3: the Will is made anew for each connection, so that it carries its epoch.
Rule 4: where it connects to may change while it runs; what happens then is told with the
        number of the address, so that old news is not taken for new.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread
from time import monotonic

from agent.contract.limits import ENROL_SEATS, MAX_PAYLOAD_BYTES, enrol_seat
from agent.contract.topics import Address, Topics
from agent.errors import DisplacedError, LinkError, MalformedError
from agent.link.broker import GOODBYE_SECONDS, End, Wire
from agent.link.connection import Connection, Outgoing
from agent.link.inbox import Arrived, Connected, Disconnected, Inbox, Lane, Refused
from agent.link.patience import Pace, Patience

log = logging.getLogger("agent.link")


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
        self._connection = connection
        self._place = 0
        self._aim = (self._place, connection)
        self._topics = topics
        self._inbox = inbox
        self._subscriptions = subscriptions
        self._listening: set[str] = set()
        self._will_for = will_for
        self._patience = Patience(pace or Pace())
        self._epoch = 0
        self._wire: Wire | None = None
        self._opened: Wire | None = None  # a session's messages come before we are subscribed
        self._strays = 0
        self._stopping = Event()
        self._nudged = Event()
        self._final: Outgoing | None = None
        self._thread = Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def publish(self, message: Outgoing) -> bool:
        """Hand a message to the connection; False when offline or too much waits.

        Raises:
            MalformedError: The payload is over the limit of one message.

        """
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            raise MalformedError(
                f"message of {len(message.payload)} bytes is over {MAX_PAYLOAD_BYTES}"
            )
        wire = self._wire
        return wire is not None and wire.publish(message)

    def listen(self, address: Address) -> bool:
        """Also hear one address, on this connection and the next; False when offline."""
        topic = self._topics.write(address)
        self._listening.add(topic)
        wire = self._wire
        return wire is not None and wire.subscribe(topic)

    def unlisten(self, address: Address) -> None:
        """No longer hear an address."""
        topic = self._topics.write(address)
        self._listening.discard(topic)
        wire = self._wire
        if wire is not None:
            wire.unsubscribe(topic)

    def redirect(self, url: str, ca: str, place: int, *, at_once: bool) -> None:
        """Connect to another address from now on; a connection to the old one ends in order.

        Args:
            url: The address.
            ca: PEM text of the only authorities believed there.
            place: Its number; ``Connected`` and ``Refused`` carry it. The first one is 0.
            at_once: Whether to try it now, or when the link would have tried again.

        """
        self._aim = (place, replace(self._connection, url=url, ca=ca))
        if at_once:
            self._nudged.set()
        wire = self._wire
        if wire is not None:
            wire.wake()

    def settle(self, message: Arrived) -> None:
        """Tell the broker that the message has been dealt with for good."""
        wire = self._opened
        if wire is not None and message.receipt and message.receipt.epoch == wire.epoch:
            wire.settle(message.receipt.mid)

    def stop(self, final: Outgoing | None = None) -> None:
        """Publish a last message, disconnect in order and join the thread."""
        self._final = final
        self._stopping.set()
        self._nudged.set()
        wire = self._wire
        if wire is not None:
            wire.wake()
        if self._thread.is_alive():
            limit = self._connection.connect_timeout_seconds
            self._thread.join(limit + 2 * GOODBYE_SECONDS)

    @property
    def ca(self) -> str:
        """PEM text of the authorities that are believed where this connection leads."""
        return self._connection.ca

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        return self._wire is not None

    @property
    def strays(self) -> int:
        """How many messages came on topics of other shapes."""
        wire = self._wire
        return self._strays + (wire.strays if wire is not None else 0)

    def _run(self) -> None:
        wait = self._patience.before_first()
        while not self._paused(wait):
            try:
                wait = self._live_once()
            except Exception:
                # the link is the way by which a broken device is repaired: it never gives up
                log.exception("link loop=failed")
                wait = self._patience.after_failure()

    def _paused(self, seconds: float) -> bool:
        """Wait, unless something is wanted at once; True when we are to stop."""
        self._nudged.wait(seconds)
        self._nudged.clear()
        return self._stopping.is_set()

    def _live_once(self) -> float:
        """Connect, serve until the end, and return how long to wait."""
        self._epoch += 1
        self._place, self._connection = self._aim
        will = self._will_for(self._epoch) if self._will_for else None
        try:
            wire = Wire(
                self._connection,
                self._topics,
                epoch=self._epoch,
                subscriptions=(*self._subscriptions, *sorted(self._listening)),
                will=will,
                arrived=self._take,
            )
        except LinkError as why:
            return self._refused(End(str(why)))
        self._opened = wire
        try:
            wire.open()
            wire.wait_until_subscribed(
                self._connection.connect_timeout_seconds,
                lambda: self._stopping.is_set() or self._is_redirected,
            )
        except LinkError as why:
            self._opened = None
            wire.close()
            end = wire.end
            return self._refused(End(str(why), end.code if end else None))
        return self._serve(wire)

    def _serve(self, wire: Wire) -> float:
        since = monotonic()
        self._wire = wire
        connected = Connected(
            session_present=wire.session_present, epoch=wire.epoch, place=self._place
        )
        self._inbox.put(Lane.CONTROL, connected)
        log.info("link state=connected epoch=%d session=%s", wire.epoch, wire.session_present)
        tick = min(5.0, max(0.2, self._connection.keepalive_seconds / 10))
        try:
            while wire.end is None and not self._stopping.is_set() and not self._is_redirected:
                wire.turn(tick)
        finally:
            self._wire = self._opened = None
            self._strays += wire.strays
            wire.close(self._final)
        if self._is_redirected and not self._stopping.is_set():
            end, wait = End("another address is wanted"), 0.0
        else:
            end = wire.end or End("we stopped")
            wait = self._patience.after_connection(monotonic() - since, end.code)
        self._inbox.put(Lane.CONTROL, Disconnected(why=end.why, retry_seconds=wait))
        log.info("link state=disconnected why=%r retry_seconds=%.1f", end.why, wait)
        return wait

    @property
    def _is_redirected(self) -> bool:
        return self._aim[0] != self._place

    def _refused(self, end: End) -> float:
        wait = self._patience.after_failure(end.code)
        refused = Refused(reason=end.why, code=end.code, retry_seconds=wait, place=self._place)
        self._inbox.put(Lane.CONTROL, refused)
        log.info("link state=refused why=%r retry_seconds=%.1f", end.why, wait)
        return wait

    def _take(self, message: Arrived) -> None:
        if message.receipt is None:
            self._inbox.put(Lane.CHUNKS, message, size_bytes=len(message.payload))
        else:
            self._inbox.put(Lane.CONTROL, message)


def exchange(
    connection: Connection,
    topics: Topics,
    request: Outgoing,
    reply: Address,
    *,
    timeout_seconds: float = 30.0,
) -> bytes:
    """Connect, send one request and return the payload of its first reply.

    A user name is that of strangers, who sit down on a random one of its seats.

    Raises:
        DisplacedError: The connection ended first; another request may succeed.
        LinkError: The broker is unreachable or refuses us, or nobody answered in time.

    """
    if connection.username:
        seat = enrol_seat(connection.username, secrets.randbelow(ENROL_SEATS))
        connection = replace(connection, username=seat, client_id=seat)
    replies: list[bytes] = []

    def keep(message: Arrived) -> None:
        if message.address == reply:
            replies.append(message.payload)

    wire = Wire(
        connection,
        topics,
        epoch=1,
        subscriptions=(topics.write(reply),),
        will=None,
        arrived=keep,
    )
    try:
        wire.open()
        try:
            wire.wait_until_subscribed(connection.connect_timeout_seconds)
        except LinkError as why:
            if wire.welcome and wire.end is not None:  # somebody else sat down on the same seat
                raise DisplacedError(f"broker {connection.url}: {wire.end.why}") from why
            raise
        if not wire.publish(request):
            raise LinkError(f"broker {connection.url} took no request")
        deadline = monotonic() + timeout_seconds
        while not replies and wire.end is None and monotonic() < deadline:
            wire.turn(min(1.0, max(0.0, deadline - monotonic())))
        if wire.end is not None and not replies:
            raise DisplacedError(f"broker {connection.url}: {wire.end.why}")
    finally:
        wire.close()
    if not replies:
        raise LinkError(f"nobody answered through {connection.url} in {timeout_seconds:.0f} s")
    return replies[0]
