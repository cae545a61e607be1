"""The manager's connection to the broker, from its first attempt to its last message.

Rule 1: the library's own loop uses ``select()`` and silently never connects in a process
        with more than 1,023 open descriptors, so its external-loop calls are driven
        here, from the one thread that calls ``poll``.
Rule 2: messages are read in batches and settled after the work is durable.
Rule 3: every connection has a client of its own; nothing queued survives it. What must
        survive is desired state, which dispatch publishes again on ``Connected``, or
        lies in the outbox of a device.
Rule 4: connecting may hold ``poll`` up for twice ``connect_timeout_seconds``, nothing else
        may hold it longer than asked.

MQTT 5 throughout (OASIS, 2019).
"""

import logging
import selectors
import socket
from collections import deque
from random import Random
from time import monotonic
from typing import Any

from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    WebsocketConnectionError,
)
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.contract.broker_url import connect_failure, hung_up_at_login, no_websocket
from agent.errors import ProxyError
from fleet.ingest.dialling import DiallingClient
from fleet.ingest.mail import Arrived, Connected, Connection, Disconnected, Message, News, Receipt

BATCH = 1000
MAX_UNSENT_BYTES = 32 * 1024 * 1024
MAX_USER_PROPERTIES = 32
GOODBYE_SECONDS = 3.0
TICK_SECONDS = 1.0

log = logging.getLogger("fleet.ingest")


class BrokerLink:
    """One connection, driven by the thread that calls ``poll``; any thread may ``wake``."""

    def __init__(
        self,
        connection: Connection,
        *,
        subscriptions: tuple[tuple[str, int], ...],
        will: Message | None = None,
    ) -> None:
        self._connection = connection
        self._subscriptions = subscriptions
        self._will = will
        self._client: DiallingClient | None = None
        self._epoch = 0
        self._subscribed = False
        self._session_present = self._welcome = False
        self._end: str | None = None
        self._failures = 0
        self._next_attempt = 0.0
        self._deadline = 0.0
        self._chance = Random()  # noqa: S311 - spreads attempts, keeps no secret
        self._news: deque[News] = deque()
        self._unsent: dict[int, int] = {}
        self._unsent_bytes = 0
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._wake_writer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._selector.register(self._wake_reader, selectors.EVENT_READ)

    def poll(self, timeout_seconds: float, *, until_unsent_bytes: int = -1) -> list[News]:
        """Return what happened, in order; empty after the time-out or a ``wake``.

        It also returns as soon as no more than ``until_unsent_bytes`` still wait to be sent.
        """
        full = self._unsent_bytes > until_unsent_bytes >= 0
        deadline = monotonic() + timeout_seconds
        while True:
            now = monotonic()
            if self._client is None and now >= self._next_attempt:
                self._connect()
            woken = self._turn(max(0.0, min(deadline - monotonic(), self._patience(now))))
            self._notice_end()
            drained = full and self._unsent_bytes <= until_unsent_bytes
            if self._news or woken or drained or monotonic() >= deadline:
                news = list(self._news)
                self._news.clear()
                return news

    def publish(self, message: Message) -> bool:
        """Hand a message to the connection; False when offline or too much waits."""
        client = self._client
        if client is None or not self._subscribed:
            return False
        if self._unsent_bytes + len(message.payload) > MAX_UNSENT_BYTES:
            return False
        sent = client.send(message)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        self._unsent[sent.mid] = len(message.payload)
        self._unsent_bytes += len(message.payload)
        return True

    def settle(self, messages: list[Arrived]) -> None:
        """Tell the broker that these messages are durably dealt with."""
        for message in messages:
            receipt = message.receipt
            if self._client is not None and receipt is not None and receipt.epoch == self._epoch:
                self._client.ack(receipt.mid, 1)

    def wake(self) -> None:
        """Make a waiting ``poll`` return; callable from any thread."""
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            return  # full: it will wake anyway; closed: nobody waits

    def close(self, final: Message | None = None) -> None:
        """Publish a last message, disconnect in order and release the descriptors."""
        client = self._client
        if client is not None and self._subscribed and self._end is None:
            if final is not None:
                self.publish(final)
            deadline = monotonic() + GOODBYE_SECONDS
            while self._unsent and self._end is None and monotonic() < deadline:
                self._turn(0.1)
            client.disconnect()
            while self._end is None and monotonic() < deadline:
                self._turn(0.1)
        self._drop_client()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        return self._client is not None and self._subscribed and self._end is None

    @property
    def unsent_bytes(self) -> int:
        """Bytes handed to ``publish`` that the broker has not taken yet."""
        return self._unsent_bytes

    def _patience(self, now: float) -> float:
        return max(0.0, self._next_attempt - now) if self._client is None else TICK_SECONDS

    def _turn(self, timeout_seconds: float) -> bool:
        """Wait for traffic at most so long and move what can be moved; True after a wake."""
        client = self._client
        channel = client.socket() if client is not None else None
        buffered = False
        if client is not None and channel is not None:
            waits = selectors.EVENT_READ
            if client.want_write():
                waits |= selectors.EVENT_WRITE
            self._selector.modify(channel, waits)
            pending = getattr(channel, "pending", None)  # of TLS and of WebSocket
            buffered = pending is not None and pending() > 0
        ready = {k.fileobj: e for k, e in self._selector.select(0 if buffered else timeout_seconds)}
        woken = self._wake_reader in ready
        if woken:
            self._wake_reader.recv(4096)
        if client is not None:
            if buffered or (channel and ready.get(channel, 0) & selectors.EVENT_READ):
                if self._welcome:  # what it kept for our session may come before we are subscribed
                    self._deadline = monotonic() + self._connection.connect_timeout_seconds
                self._read_batch(client)
            if client.want_write():
                client.loop_write()
            client.loop_misc()
            if client.socket() is None:
                self._end = self._end or "the connection is closed"
        return woken

    def _read_batch(self, client: Client) -> None:
        """Read packet after packet as long as each brings a message."""
        for _ in range(BATCH):
            before = len(self._news)
            client.loop_read()
            if len(self._news) == before or client.socket() is None:
                return

    def _connect(self) -> None:
        self._epoch += 1
        self._subscribed = self._welcome = False
        self._end = None
        self._deadline = monotonic() + 2 * self._connection.connect_timeout_seconds
        try:
            client = self._client = self._make_client()
            client.connect_in_time()
        except ProxyError as why:
            self._end = str(why)
        except WebsocketConnectionError:
            self._end = no_websocket(self._connection.url)
        except (OSError, ValueError) as why:
            self._end = connect_failure(self._connection.url, why)

    def _notice_end(self) -> None:
        if self._client is None and self._end is None:
            return
        if self._end is None and not self._subscribed and monotonic() > self._deadline:
            self._end = f"broker {self._connection.url} did not answer"
        if self._end is None:
            return
        why, self._end = self._end, None
        self._drop_client()
        self._failures += 1
        ceiling = min(self._connection.longest_wait_seconds, 0.5 * 2.0 ** min(self._failures, 10))
        self._next_attempt = monotonic() + self._chance.uniform(0.1, ceiling)
        self._news.append(Disconnected(why=why))
        log.info("ingest state=disconnected why=%r", why)

    def _drop_client(self) -> None:
        client = self._client
        self._client = None
        self._subscribed = False
        self._unsent.clear()
        self._unsent_bytes = 0
        channel = client.socket() if client is not None else None
        if channel is not None:
            self._forget(channel)
            channel.close()
        elif client is not None:
            client.abandon()

    def _make_client(self) -> DiallingClient:
        client = DiallingClient(self._connection, self._will)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = lambda _client, _data, channel: self._forget(channel)
        # set so that the library writes only where ``poll`` tells it to
        client.on_socket_register_write = lambda *_: None
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _forget(self, channel: object) -> None:
        try:
            self._selector.unregister(channel)  # type: ignore[arg-type]  # a socket
        except (KeyError, ValueError):
            return  # never registered, or already closed

    def _on_socket_open(self, _client: Client, _data: object, channel: Any) -> None:
        self._selector.register(channel, selectors.EVENT_READ)

    def _on_connect(
        self,
        client: Client,
        _data: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._end = f"the broker refused the manager: {reason.getName()}"
            return
        self._welcome = True
        self._session_present = flags.session_present
        if not self._subscriptions:
            self._on_subscribe(client, None, 0, [], None)
            return
        client.subscribe(
            [
                (name, SubscribeOptions(qos=qos, retainAsPublished=True))
                for name, qos in self._subscriptions
            ]
        )

    def _on_subscribe(
        self,
        _client: Client,
        _data: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for (name, _qos), reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                self._end = f"no subscription to {name}: {reason.getName()}"
                return
        self._subscribed = True
        self._failures = 0
        self._news.append(Connected(session_present=self._session_present))
        log.info("ingest state=connected session=%s", self._session_present)

    def _on_disconnect(
        self,
        _client: Client,
        _data: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        ours = self._connection
        if ours.address.secure and not (self._welcome or flags.is_disconnect_packet_from_server):
            self._end = self._end or hung_up_at_login(ours.url)
        self._end = self._end or f"the connection ended: {reason.getName()}"

    def _on_publish(
        self,
        _client: Client,
        _data: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._unsent_bytes -= self._unsent.pop(mid, 0)
        if reason.is_failure:
            log.warning("ingest publish=refused reason=%r", reason.getName())

    def _on_message(self, client: Client, _data: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            client.ack(message.mid, message.qos)
            return
        receipt = Receipt(epoch=self._epoch, mid=message.mid) if message.qos else None
        user = getattr(message.properties, "UserProperty", [])
        self._news.append(
            Arrived(
                topic=topic,
                payload=bytes(message.payload),
                properties=tuple(user[:MAX_USER_PROPERTIES]),
                retained=bool(message.retain),
                receipt=receipt,
            )
        )
