"""Artifacts that only chosen devices can read: a sealed stream, and its key in a sealed box.

A sealed stream    ``FFS`` version(1) length(u64 BE, of what is inside) header(24) part…
A part             up to 1 MiB of it by secretstream, 17 bytes longer; the last tagged FINAL

Rule 1: what lies on the manager and travels is the stream; it is an artifact like any
        other, with a digest and chunk hashes in the signed manifest.
Rule 2: one random key for each artifact; it reaches a device in a box that only the
        device's own key opens, inside the assignment that the director signed.
Rule 3: each part counts only in its place: one that is missing, changed, out of order or
        left over is refused, and so is a stream whose last part does not say that it is.
Rule 4: the frame before the header is authenticated with every part.

Formats: libsodium ``crypto_secretstream_xchacha20poly1305`` and ``crypto_box_seal``.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

from nacl import bindings
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError
from nacl.public import SealedBox
from nacl.signing import SigningKey, VerifyKey

from agent.contract.limits import MAX_ARTIFACT_BYTES
from agent.errors import MalformedError
from agent.refusals import (
    BadStreamError,
    DisorderedStreamError,
    TruncatedStreamError,
    UnfinishedStreamError,
    WrongContentKeyError,
)

PART_BYTES: Final = 1024 * 1024
KEY_BYTES: Final = bindings.crypto_secretstream_xchacha20poly1305_KEYBYTES
SEALED_KEY_BYTES: Final = KEY_BYTES + bindings.crypto_box_SEALBYTES
_TAG_BYTES: Final = bindings.crypto_secretstream_xchacha20poly1305_ABYTES
_HEADER_BYTES: Final = bindings.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_FINAL: Final = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
_FRAME: Final = struct.Struct(">3sBQ")
_VERSION: Final = 1


def new_key() -> bytes:
    """Return a random key for one artifact."""
    return bindings.crypto_secretstream_xchacha20poly1305_keygen()


def wrap_key(key: bytes, device: VerifyKey) -> bytes:
    """Return a key in a box that only this device opens.

    Raises:
        MalformedError: Nothing can be sealed for the device's key.

    """
    try:
        return SealedBox(device.to_curve25519_public_key()).encrypt(key)
    except CryptoError as why:
        raise MalformedError("the device's key is none that a box can be sealed for") from why


def unwrap_key(box: bytes, device: SigningKey) -> bytes:
    """Return the key that is in a box for this device.

    Raises:
        WrongContentKeyError: It is not for this device, or holds no key.

    """
    try:
        key = SealedBox(device.to_curve25519_private_key()).decrypt(box)
    except (CryptoError, ValueError, TypeError) as why:
        raise WrongContentKeyError("the content key is not sealed to this device") from why
    if len(key) != KEY_BYTES:
        raise WrongContentKeyError(f"the content key has {len(key)} bytes, not {KEY_BYTES}")
    return key


def seal_stream(content: bytes, key: bytes) -> bytes:
    """Return the sealed stream of some bytes."""
    frame = _FRAME.pack(b"FFS", _VERSION, len(content))
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    written = [frame, bindings.crypto_secretstream_xchacha20poly1305_init_push(state, key)]
    for at in range(0, max(len(content), 1), PART_BYTES):
        last = at + PART_BYTES >= len(content)
        tag = _FINAL if last else bindings.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
        part = content[at : at + PART_BYTES]
        written.append(bindings.crypto_secretstream_xchacha20poly1305_push(state, part, frame, tag))
    return b"".join(written)


class OpenedStream:
    """Reads what is inside a sealed stream; holds one part of it at a time.

    What was read counts only after the end was reached without an error.

    Args:
        sealed: The stream, at its beginning.
        key: The artifact's.

    Raises:
        BadStreamError: It is no sealed stream of a version known here.
        TruncatedStreamError: It ends within its first bytes.

    """

    def __init__(self, sealed: BinaryIO, key: bytes) -> None:
        self._frame, self._left = _read_frame(sealed)
        header = sealed.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            raise TruncatedStreamError("a sealed stream ends within its header")
        self._state = bindings.crypto_secretstream_xchacha20poly1305_state()
        bindings.crypto_secretstream_xchacha20poly1305_init_pull(self._state, header, key)
        self._parts = self._open(sealed)
        self._waiting = b""

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes of what is inside; none at its end.

        Raises:
            WrongContentKeyError: The key does not open its first part.
            DisorderedStreamError: A part is not the one that belongs here, or is left over.
            TruncatedStreamError: It ends before its end.
            UnfinishedStreamError: Its last part does not say that it is.

        """
        if not self._waiting:
            self._waiting = next(self._parts, b"")
        if size < 0:
            found = b"".join((self._waiting, *self._parts))
            self._waiting = b""
            return found
        found, self._waiting = self._waiting[:size], self._waiting[size:]
        return found

    def _open(self, sealed: BinaryIO) -> Iterator[bytes]:
        number, left = 0, self._left
        while True:
            size = min(left, PART_BYTES)
            part = sealed.read(size + _TAG_BYTES)
            if len(part) < size + _TAG_BYTES:
                raise TruncatedStreamError(
                    f"a sealed stream ends {left} bytes before the end of what is inside"
                )
            content, tag = self._pull(part, number)
            left -= size
            if left and tag == _FINAL:
                raise DisorderedStreamError(f"part {number} of a sealed stream is not its last")
            if not left and tag != _FINAL:
                raise UnfinishedStreamError("the last part of a sealed stream is not marked so")
            if not left and sealed.read(1):
                raise DisorderedStreamError("a sealed stream goes on after its last part")
            yield content
            if not left:
                return
            number += 1

    def _pull(self, part: bytes, number: int) -> tuple[bytes, int]:
        try:
            return bindings.crypto_secretstream_xchacha20poly1305_pull(
                self._state, part, self._frame
            )
        except SodiumError as why:
            if not number:
                raise WrongContentKeyError("the content key does not open this artifact") from why
            raise DisorderedStreamError(
                f"part {number} of a sealed stream was changed, or belongs elsewhere"
            ) from why


def _read_frame(sealed: BinaryIO) -> tuple[bytes, int]:
    frame = sealed.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        raise TruncatedStreamError("a sealed stream ends within its first bytes")
    magic, version, length = _FRAME.unpack(frame)
    if (magic, version) != (b"FFS", _VERSION):
        raise BadStreamError("not a sealed stream of a version that this program knows")
    if length > MAX_ARTIFACT_BYTES:
        raise BadStreamError(f"a sealed stream claims {length} bytes, over {MAX_ARTIFACT_BYTES}")
    return frame, length
