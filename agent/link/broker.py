"""One connection to the broker. Only ``client`` beside it also imports the MQTT library.

Rule 1: callbacks only hand bytes on; nothing is acknowledged to the broker before its
        reader settles it.
Rule 2: every connection has a client of its own: a fresh Will, nothing queued from
        before. What was on its way is sent again by its owner (the outbox, or the
        daemon, which publishes its state anew on ``Connected``).
Rule 3: a receipt belongs to one connection, because the broker reuses its numbers.
Rule 4: topics of other shapes are counted and dropped.
Rule 5: one thread owns the socket and polls it; every wait has an end. ``publish``,
        ``settle`` and ``wake`` may be called by other threads.

MQTT 5 throughout (OASIS, 2019).
"""

import logging
import select
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from time import monotonic

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.contract.broker_url import hung_up_at_login
from agent.contract.topics import Address, Topics
from agent.errors import LinkError, MalformedError
from agent.link.client import (
    RECEIVE_MAXIMUM,
    DiallingClient,
    foreign_of,
    foreign_properties,
    properties_of,
)
from agent.link.connection import Connection, Foreign, Outgoing
from agent.link.inbox import Arrived, Receipt
from agent.link.packets import Publish

MAX_UNSENT_BYTES = 4 * 1024 * 1024
MAX_USER_PROPERTIES = 32
GOODBYE_SECONDS = 3.0
LONGEST_WELCOME = 30
"""Times the connect timeout that messages of our session may come before our subscriptions."""
RECEIVES = 32
"""In one turn, before what we have to say is said."""

log = logging.getLogger("agent.link")


@dataclass(frozen=True, slots=True)
class End:
    """Why a connection is over; the code is the broker's, if it said one."""

    why: str
    code: int | None = None


class Wire:
    """One connection of one client, from its first packet to its last."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        *,
        epoch: int,
        subscriptions: tuple[str, ...],
        will: Outgoing | Foreign | None,
        arrived: Callable[[Arrived], None],
        foreign: Callable[[Foreign], None] | None = None,
    ) -> None:
        """``foreign`` takes what is on none of our topics."""
        self.epoch = epoch
        self.session_present = False
        self.welcome = False
        self.subscribed = False
        self.refusal: End | None = None
        self.end: End | None = None
        self.unsettled: set[int] = set()
        self.strays = 0
        self._connection = connection
        self._topics = topics
        self._subscriptions = subscriptions
        self._arrived = arrived
        self._foreign = foreign
        self._arrivals = 0
        self._heard_at = monotonic()
        self._read_last: tuple[str, Address] | None = None
        self._acknowledged: deque[int] = deque()
        self._unsent: dict[int, int] = {}
        self._publishing = Lock()
        self._client = self._make_client(will)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._wake_writer.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def open(self) -> None:
        """Connect and send the first packet.

        Raises:
            LinkError: The broker cannot be reached.

        """
        self._client.connect_in_time()

    def wait_until_subscribed(
        self, timeout_seconds: float, given_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Serve the connection until the broker has taken our subscriptions.

        It has so long to take us. What it kept for our session may then come first, over a
        slow link for minutes, so from there on the time is that between two of its parts.

        Raises:
            LinkError: It refused, was silent for so long, or is not waited for any more.

        """
        began = self._heard_at = monotonic()
        while not self.subscribed and self.end is None and not given_up():
            now = monotonic()
            since = self._heard_at if self.welcome else began
            left = timeout_seconds - (now - since)
            if left <= 0 or now - began > LONGEST_WELCOME * timeout_seconds:
                raise LinkError(f"the broker did not answer in {timeout_seconds:.0f} s")
            self.turn(min(1.0, left))
        if self.end is not None:
            raise LinkError(self.end.why)
        if not self.subscribed:
            raise LinkError("the broker is not waited for any more")

    def turn(self, timeout_seconds: float) -> None:
        """Wait for traffic at most so long, and move what can be moved."""
        channel = self._client.socket()
        if channel is None:
            self.end = self.end or End("the connection is closed")
            return
        poller = select.poll()
        waits = select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)
        poller.register(channel.fileno(), waits)
        poller.register(self._wake_reader.fileno(), select.POLLIN)
        pending = getattr(channel, "pending", None)  # of TLS and of WebSocket
        buffered = pending is not None and pending() > 0
        ready = dict(poller.poll(0 if buffered else timeout_seconds * 1000))
        if self._wake_reader.fileno() in ready:
            self._drain_wakes()
        if buffered or ready.get(channel.fileno(), 0) & ~select.POLLOUT:
            self._heard_at = monotonic()
            self._read_all()
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()

    def publish(self, message: Outgoing | Foreign) -> bool:
        """Queue a message; from any thread. False where too many wait already."""
        if isinstance(message, Foreign):
            topic, qos, retain = message.topic, message.qos, message.retained
            properties = foreign_properties(message)
        else:
            channel = message.address.channel
            topic, qos, retain = self._topics.write(message.address), channel.qos, channel.retain
            properties = properties_of(message)
        with self._publishing:
            while self._acknowledged:
                self._unsent.pop(self._acknowledged.popleft(), None)
            if sum(self._unsent.values()) + len(message.payload) > MAX_UNSENT_BYTES:
                return False
            sent = self._client.publish(topic, message.payload, qos, retain, properties)
            if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return False
            self._unsent[sent.mid] = len(message.payload)
        self.wake()
        return True

    def subscribe(self, topic: str) -> bool:
        """Also hear one topic; from any thread. A refusal costs nothing else."""
        with self._publishing:
            result, _ = self._client.subscribe([(topic, SubscribeOptions(qos=0))])
        self.wake()
        return bool(result == MQTTErrorCode.MQTT_ERR_SUCCESS)

    def unsubscribe(self, topic: str) -> None:
        """No longer hear one topic; from any thread."""
        with self._publishing:
            self._client.unsubscribe(topic)
        self.wake()

    def settle(self, mid: int) -> None:
        """Acknowledge a message; from any thread."""
        self.unsettled.discard(mid)
        self._client.ack(mid, 1)
        self.wake()

    def wake(self) -> None:
        """End a wait early; from any thread."""
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            return  # full: it will wake anyway; closed: nobody waits

    def close(self, final: Outgoing | Foreign | None = None) -> None:
        """Say goodbye if the connection still stands, and release everything."""
        if self.end is None and self.subscribed:
            if final is not None:
                self.publish(final)
            deadline = monotonic() + GOODBYE_SECONDS
            while self.end is None and self._has_unsent() and monotonic() < deadline:
                self.turn(0.1)
            self._client.disconnect()
            while self.end is None and monotonic() < deadline:
                self.turn(0.1)
        channel = self._client.socket()
        if channel is not None:
            channel.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _has_unsent(self) -> bool:
        with self._publishing:
            while self._acknowledged:
                self._unsent.pop(self._acknowledged.popleft(), None)
            return bool(self._unsent)

    def _drain_wakes(self) -> None:
        try:
            self._wake_reader.recv(4096)
        except OSError:
            return

    def _read_all(self) -> None:
        """Read packet after packet as long as each brings a message."""
        if self._connection.address.path is None:
            try:
                for _ in range(RECEIVES):
                    if not self._client.receive(self._on_publish_of_qos_0):
                        return
            except MalformedError as why:
                self.end = End(str(why))
            return
        for _ in range(RECEIVE_MAXIMUM):
            before = self._arrivals
            self._client.loop_read()
            if self._arrivals == before or self._client.socket() is None:
                return

    def _make_client(self, will: Outgoing | Foreign | None) -> DiallingClient:
        client = DiallingClient(self._connection)
        if isinstance(will, Foreign):
            client.leave_will(will, will.topic)
        elif will is not None:
            client.leave_will(will, self._topics.write(will.address))
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _on_connect(
        self,
        client: Client,
        _data: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.end = End(f"the broker refused us: {reason.getName()}", reason.value)
            return
        self.welcome = True
        self.session_present = flags.session_present
        self.subscribed = not self._subscriptions
        if self._subscriptions:
            client.subscribe([(name, SubscribeOptions(qos=1)) for name in self._subscriptions])

    def _on_subscribe(
        self,
        _client: Client,
        _data: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if self.subscribed:  # one of those that came later
            for reason in reasons:
                if reason.is_failure:
                    log.warning("link subscription=refused reason=%r", reason.getName())
            return
        for name, reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                self.end = End(f"no subscription to {name}: {reason.getName()}", reason.value)
                return
        self.subscribed = True

    def _on_disconnect(
        self,
        _client: Client,
        _data: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        code = reason.value if flags.is_disconnect_packet_from_server else None
        if not self.welcome and code is None and self._connection.address.secure:
            self.end = self.end or End(hung_up_at_login(self._connection.url))
        self.end = self.end or End(f"the connection ended: {reason.getName()}", code)

    def _on_publish(
        self,
        _client: Client,
        _data: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._acknowledged.append(mid)
        if reason.is_failure:
            self.refusal = End(f"a message was refused: {reason.getName()}", reason.value)
            log.warning("link publish=refused reason=%r", reason.getName())

    def _take_foreign(self, message: Foreign | None) -> None:
        if self._foreign is None or message is None:
            self.strays += 1
        else:
            self._foreign(message)

    def _read(self, topic: str) -> Address:
        """Read a topic back; chunks come in thousands on the same one."""
        if self._read_last is None or self._read_last[0] != topic:
            self._read_last = topic, self._topics.read(topic)
        return self._read_last[1]

    def _on_publish_of_qos_0(self, publish: Publish) -> None:
        try:
            address = self._read(publish.topic)
        except MalformedError:
            self._take_foreign(
                Foreign(topic=publish.topic, payload=publish.payload, retained=publish.retained)
            )
            return
        self._arrived(Arrived(address=address, payload=publish.payload, retained=publish.retained))

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._arrivals += 1
        topic = None
        try:
            topic = message.topic
            address = self._read(topic)
        except (MalformedError, UnicodeDecodeError):
            if message.qos:
                self._client.ack(message.mid, message.qos)
            self._take_foreign(None if topic is None else foreign_of(topic, message))
            return
        receipt = None
        if message.qos:
            receipt = Receipt(epoch=self.epoch, mid=message.mid)
            self.unsettled.add(message.mid)
            if len(self.unsettled) > 2 * RECEIVE_MAXIMUM:
                self.end = End("the broker sent more than it may before our answers", 0x93)
                return
        user = getattr(message.properties, "UserProperty", [])
        arrived = Arrived(
            address=address,
            payload=bytes(message.payload),
            properties=tuple(user[:MAX_USER_PROPERTIES]),
            retained=bool(message.retain),
            receipt=receipt,
        )
        self._arrived(arrived)
