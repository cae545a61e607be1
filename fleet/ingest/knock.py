"""May somebody log in? One CONNECT and one CONNACK, and hanging up again.

Rule 1: the certificate is verified for the name that devices use, also where the listener
        is reached by another address.
Rule 2: nothing is subscribed and nothing published; the session ends with the connection.

Source: MQTT Version 5.0, OASIS, 2019, 3.1 and 3.2.
"""

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from fleet.errors import UnreachableError
from fleet.ingest.websocket import framed, read_frame_head, upgrade

ADMITTED = 0x00
BAD_PASSWORD = 0x86
NOT_AUTHORIZED = 0x87
_CONNECT = 0x10
_CONNACK = 0x20
_CLEAN_START, _PASSWORD, _USER = 0x02, 0x40, 0x80
_VERSION = 5
_CONTINUES = 0x80
_ACK_HEAD_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One port of a broker.

    Attributes:
        address, port: Where it is reached.
        name: What its certificate must name; empty without TLS.
        ca: PEM text of the only authority believed; empty uses the system's.
        path: Where MQTT over WebSocket is found; None is plain MQTT.
        identity: PEM file of a certificate and its key to show; None shows none.

    """

    address: str
    port: int
    name: str = ""
    ca: str = field(default="", repr=False)
    path: str | None = None
    identity: Path | None = None
    patience_seconds: float = 5.0


def knock(at: Listener, username: str | None, password: str | None, client_id: str) -> int:
    """Return the broker's reason code for one login; 0 admits.

    Raises:
        UnreachableError: Nothing answers, the certificate is not believed, or what
            answers is no MQTT 5 broker.

    """
    where = f"{at.address}:{at.port}"
    packet = _connect(username, password, client_id)
    try:
        with socket.create_connection((at.address, at.port), at.patience_seconds) as plain:
            if not at.name:
                return _log_in(plain, packet, at)
            context = ssl.create_default_context(cadata=at.ca or None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if at.identity is not None:
                context.load_cert_chain(at.identity)
            with context.wrap_socket(plain, server_hostname=at.name) as secured:
                return _log_in(secured, packet, at)
    except ssl.SSLCertVerificationError as why:
        raise UnreachableError(
            f"the certificate of {where} is not believed for {at.name}: {why.verify_message}"
        ) from why
    except OSError as why:
        raise UnreachableError(f"{where} cannot be reached: {why.strerror or why}") from why


def _log_in(stream: socket.socket, packet: bytes, at: Listener) -> int:
    where = f"{at.address}:{at.port}"
    if at.path is None:
        stream.sendall(packet)
    elif upgrade(stream, at.name or at.address, at.path):
        stream.sendall(framed(packet))
        if not read_frame_head(stream):
            raise UnreachableError(f"{where} does not answer as MQTT over WebSocket")
    else:
        raise UnreachableError(f"{where} does not speak MQTT over WebSocket at {at.path}")
    head = b""
    while len(head) < _ACK_HEAD_BYTES:
        more = stream.recv(_ACK_HEAD_BYTES - len(head))
        if not more:
            raise UnreachableError(f"{where} hung up without an answer")
        head += more
    if head[0] != _CONNACK:
        raise UnreachableError(f"{where} does not answer as an MQTT 5 broker")
    return head[3]


def _connect(username: str | None, password: str | None, client_id: str) -> bytes:
    flags, fields = _CLEAN_START, _text(client_id)
    if username is not None:
        flags, fields = flags | _USER, fields + _text(username)
    if password is not None:
        flags, fields = flags | _PASSWORD, fields + _text(password)
    keepalive, no_properties = b"\x00\x0a", b"\x00"
    body = _text("MQTT") + bytes((_VERSION, flags)) + keepalive + no_properties + fields
    return bytes((_CONNECT,)) + _length(len(body)) + body


def _text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(size: int) -> bytes:
    digits = bytearray()
    while True:
        size, digit = divmod(size, _CONTINUES)
        digits.append(digit | (_CONTINUES if size else 0))
        if not size:
            return bytes(digits)
