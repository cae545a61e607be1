"""As much of WebSocket as one question and its answer need.

Rule 1: one handshake, one frame there, one frame back; whatever else comes is no answer.
Rule 2: no more bytes are read than one expects.

Source: RFC 6455; the subprotocol ``mqtt`` in MQTT Version 5.0, OASIS, 2019, 6.
"""

import base64
import hashlib
import os
import socket

_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_HEAD_BYTES = 16 * 1024
_END = b"\r\n\r\n"
_SWITCHING = "101"
_BINARY = 0x82
_MASKED = 0x80
_TWO_BYTES = 126


def upgrade(stream: socket.socket, host: str, path: str) -> bool:
    """Ask for MQTT over WebSocket; False where something else answers.

    Raises:
        OSError: The connection ended, or nothing came in time.

    """
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
    )
    stream.sendall("\r\n".join((*lines, "", "")).encode())
    head = b""
    while not head.endswith(_END) and len(head) < _MAX_HEAD_BYTES:
        byte = stream.recv(1)
        if not byte:
            return False
        head += byte
    said = head.decode("ascii", errors="replace").split("\r\n")
    digest = hashlib.sha1(f"{key}{_MAGIC}".encode(), usedforsecurity=False).digest()
    accepted = f"sec-websocket-accept: {base64.b64encode(digest).decode()}".lower()
    return said[0].split(" ")[1:2] == [_SWITCHING] and accepted in {s.lower() for s in said[1:]}


def framed(packet: bytes) -> bytes:
    """Return a packet of at most 65,535 bytes as one frame of a client."""
    size, mask = len(packet), os.urandom(4)
    if size < _TWO_BYTES:
        head = bytes((_BINARY, _MASKED | size))
    else:
        head = bytes((_BINARY, _MASKED | _TWO_BYTES)) + size.to_bytes(2, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(packet))


def read_frame_head(stream: socket.socket) -> bool:
    """Read up to the payload of one short binary frame; False where none came.

    Raises:
        OSError: The connection ended, or nothing came in time.

    """
    head = stream.recv(1)
    size = stream.recv(1) if head else b""
    return head == bytes((_BINARY,)) and bool(size) and size[0] < _TWO_BYTES
