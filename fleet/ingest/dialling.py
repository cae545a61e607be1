"""The MQTT library's client, as the manager uses it: its way to the broker, and what it says.

Rule 1: the connection is made as ``dial`` makes it, also through a proxy, and an attempt ends
        in time whatever the other side does.
Rule 2: only the connection's authorities are believed; a broker that asks is shown our
        certificate, if we have one.
Rule 3: our values become the library's here.
"""

import socket
import ssl
from functools import lru_cache

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.contract.dial import dial, hung_up_after
from fleet.ingest.mail import Connection, Message

RECEIVE_MAXIMUM = 1000
MAX_PACKET_BYTES = 1024 * 1024


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which the MQTT library forgets."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as inherited
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class DiallingClient(Client):
    """A client of the library that reaches its broker as we do: also through a proxy.

    Args:
        connection: How the broker is reached.
        will: What the broker publishes when we are gone without a word.

    Raises:
        OSError, ValueError: Authorities or certificate cannot be used.

    """

    def __init__(self, connection: Connection, will: Message | None) -> None:
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
        self._ours = connection
        self._opened: socket.socket | None = None
        self.connect_timeout = connection.connect_timeout_seconds
        self.username_pw_set(connection.username, connection.password)
        if address.secure:
            context = ssl.create_default_context(cadata=connection.believed or None)
            context.sslsocket_class = _TlsSocket
            if connection.identity is not None:
                context.load_cert_chain(connection.identity)
            self.tls_set_context(context)
        if will is not None:
            properties = _properties_of(will, PacketTypes.WILLMESSAGE)
            self.will_set(will.topic, will.payload, will.qos, will.retain, properties)

    def connect_in_time(self) -> None:
        """Connect; the library waits anew for each byte of a WebSocket's handshake."""
        ours = self._ours
        wanted = _new_properties(PacketTypes.CONNECT)
        wanted.SessionExpiryInterval = ours.session_expiry_seconds
        wanted.ReceiveMaximum = RECEIVE_MAXIMUM
        wanted.MaximumPacketSize = MAX_PACKET_BYTES
        with hung_up_after(2 * ours.connect_timeout_seconds, lambda: self._opened):
            self.connect(
                ours.address.host,
                ours.address.port,
                keepalive=ours.keepalive_seconds,
                clean_start=ours.session_expiry_seconds == 0,
                properties=wanted,
            )

    def send(self, message: Message) -> MQTTMessageInfo:
        """Publish a message as far as the library takes it."""
        properties = _properties_of(message, PacketTypes.PUBLISH)
        return self.publish(message.topic, message.payload, message.qos, message.retain, properties)

    def abandon(self) -> None:
        """Close what was opened for a connection that did not come about."""
        if self._opened is not None:
            self._opened.close()

    def _create_socket_connection(self) -> socket.socket:
        limit = self._ours.connect_timeout_seconds
        self._opened = dial(self._ours.address, self._ours.proxies, limit)
        return self._opened

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        wrapped = super()._ssl_wrap_socket(tcp_sock)
        self._opened = wrapped
        return wrapped


def _new_properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # the library left it untyped


def _properties_of(message: Message, packet: int) -> Properties:
    if not message.properties:
        return _plain_properties(message.content_type, message.expiry_seconds, packet)
    properties = _make_properties(message.content_type, message.expiry_seconds, packet)
    properties.UserProperty = list(message.properties)
    return properties


def _make_properties(content_type: str, expiry_seconds: int | None, packet: int) -> Properties:
    properties = _new_properties(packet)
    properties.ContentType = content_type
    if expiry_seconds is not None:
        properties.MessageExpiryInterval = expiry_seconds
    return properties


# a thousand chunks in a second have the same ones, and the library only reads them
_plain_properties = lru_cache(maxsize=64)(_make_properties)
