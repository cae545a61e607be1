"""The MQTT library's client, as this device uses it: its way to the broker, and its stream.

Rule 1: the connection is made as ``dial`` makes it, also through a proxy; what fails on
        the way is one sentence.
Rule 2: what comes is received here, once for many packets: the library asks the system for
        each of the first bytes of a packet, and copies a payload four times.
Rule 3: a packet that ``read_publish`` does not know is handed to the library whole. A
        WebSocket's stream is the library's own.
"""

import socket
import ssl
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Final

from paho.mqtt.client import Client, MQTTMessage, WebsocketConnectionError
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.contract.broker_url import connect_failure, no_websocket
from agent.contract.dial import dial, hung_up_after
from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.errors import LinkError
from agent.link.connection import Connection, Foreign, Outgoing
from agent.link.packets import Publish, Stream, read_publish
from agent.link.secure import tls_context

RECEIVE_MAXIMUM: Final = 100
MAX_PACKET_BYTES: Final = MAX_PAYLOAD_BYTES + 8 * 1024
SPARE_BYTES: Final = 256 * 1024
"""Received at once beside the largest packet."""


class DiallingClient(Client):
    """A client of the library that reaches its broker as we do: also through a proxy."""

    def __init__(self, connection: Connection) -> None:
        address = connection.address
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=connection.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            transport="tcp" if address.path is None else "websockets",
            manual_ack=True,
            reconnect_on_failure=False,
        )
        if address.path is not None:
            self.ws_set_options(path=address.path)
        self.connect_timeout = connection.connect_timeout_seconds
        self.username_pw_set(connection.username, connection.password)
        if address.secure:
            self.tls_set_context(tls_context(connection))
        # set so that the library never writes on the thread that publishes
        self.on_socket_register_write = lambda *_: None
        self._ours = connection
        self._opened: socket.socket | None = None
        self._stream = Stream(packet_bytes=MAX_PACKET_BYTES, spare_bytes=SPARE_BYTES)
        self._packet: bytes | None = None
        self._failure: OSError | None = None

    def receive(self, take: Callable[[Publish], None]) -> bool:
        """Receive once and deal with every packet that is whole; whether more may wait.

        Raises:
            MalformedError: The stream is not one of packets that we take.

        """
        if self._opened is None or self._sock is None:
            return False
        try:
            count = self._opened.recv_into(self._stream.room())
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as why:
            count, self._failure = 0, why
        if count == 0:
            self._give(b"")  # the library notices the end, and says so
            return False
        self._stream.received(count)
        with self._msgtime_mutex:  # else a link busy with chunks is taken for a dead one
            self._last_bytes_received = monotonic()
        while (packet := self._stream.next()) is not None and self._sock is not None:
            publish = read_publish(packet)
            if publish is None:
                self._give(bytes(packet))
            else:
                take(publish)
        return self._sock is not None

    def _give(self, packet: bytes) -> None:
        self._packet = packet
        self.loop_read()
        self._packet = None

    def _sock_recv(self, bufsize: int) -> bytes:
        """Serve the library from the packet that it is given."""
        if self.transport == "websockets":
            return super()._sock_recv(bufsize)
        if self._failure is not None:
            raise self._failure
        if self._packet is None:
            raise BlockingIOError
        taken = self._packet[:bufsize]
        self._packet = self._packet[bufsize:] or None
        return taken

    def _create_socket_connection(self) -> socket.socket:
        limit = self._ours.connect_timeout_seconds
        self._opened = dial(self._ours.address, self._ours.proxies, limit)
        return self._opened

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        wrapped = super()._ssl_wrap_socket(tcp_sock)
        self._opened = wrapped
        return wrapped

    def leave_will(self, will: Outgoing | Foreign, topic: str) -> None:
        """Have the broker publish this when we are gone without a goodbye."""
        if isinstance(will, Foreign):
            about = foreign_properties(will, PacketTypes.WILLMESSAGE)
            self.will_set(topic, will.payload, will.qos, will.retained, about)
            return
        channel = will.address.channel
        properties = properties_of(will, PacketTypes.WILLMESSAGE)
        properties.WillDelayInterval = self._ours.will_delay_seconds
        self.will_set(topic, will.payload, channel.qos, channel.retain, properties)

    def connect_in_time(self) -> None:
        """Connect and send the first packet.

        Raises:
            LinkError: The broker cannot be reached.

        """
        wanted = _new_properties(PacketTypes.CONNECT)
        wanted.SessionExpiryInterval = self._ours.session_expiry_seconds
        wanted.ReceiveMaximum = RECEIVE_MAXIMUM
        wanted.MaximumPacketSize = MAX_PACKET_BYTES
        near = Random().uniform(0.9, 1.1)  # noqa: S311 - spreads pings, keeps no secret
        try:
            self._connect(max(1, round(self._ours.keepalive_seconds * near)), wanted)
        except WebsocketConnectionError as why:
            self._abandon()
            raise LinkError(no_websocket(self._ours.url)) from why
        except (OSError, ValueError) as why:
            self._abandon()
            raise LinkError(connect_failure(self._ours.url, why)) from why

    def _connect(self, keepalive_seconds: int, properties: Properties) -> None:
        """Connect; the library waits anew for each byte of a WebSocket's handshake."""
        address, expiry = self._ours.address, self._ours.session_expiry_seconds
        with hung_up_after(2 * self._ours.connect_timeout_seconds, lambda: self._opened):
            self.connect(
                address.host,
                address.port,
                keepalive=keepalive_seconds,
                clean_start=expiry == 0,
                properties=properties,
            )

    def _abandon(self) -> None:
        """Close what was opened for a connection that did not come about."""
        if self._opened is not None:
            self._opened.close()


def properties_of(message: Outgoing, packet: int = PacketTypes.PUBLISH) -> Properties:
    """Return what travels beside a message: its type, its expiry and the properties given."""
    properties = _new_properties(packet)
    properties.ContentType = message.content_type
    if message.properties:
        properties.UserProperty = list(message.properties)
    expiry = message.address.channel.expiry_seconds
    if expiry is not None:
        properties.MessageExpiryInterval = expiry
    return properties


def foreign_properties(message: Foreign, packet: int = PacketTypes.PUBLISH) -> Properties:
    """Return what travels beside a message for the owner's own broker."""
    properties = _new_properties(packet)
    properties.ContentType = message.content_type
    if message.response_topic:
        properties.ResponseTopic = message.response_topic
    if message.correlation:
        properties.CorrelationData = message.correlation
    return properties


def foreign_of(topic: str, message: MQTTMessage) -> Foreign:
    """Return what came on a topic of the owner's own broker."""
    return Foreign(
        topic=topic,
        payload=bytes(message.payload),
        qos=message.qos,
        retained=bool(message.retain),
        response_topic=getattr(message.properties, "ResponseTopic", ""),
        correlation=getattr(message.properties, "CorrelationData", b""),
    )


def _new_properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # the library left it untyped
