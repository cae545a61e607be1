"""The one door for JSON bytes: a typed, frozen value comes out, or ``MalformedError``.

Rule 1: the size is checked before the first byte is parsed.
Rule 2: unknown members are ignored, because a newer peer may add some; an
        incompatible change raises ``v`` and is refused by its number.
Rule 3: encoding is deterministic, so that equal values have equal bytes.
"""

from typing import TypeVar

import msgspec

from agent.contract.limits import MAX_PAYLOAD_BYTES, SCHEMA_VERSION
from agent.errors import MalformedError, UnsupportedError
from agent.refusals import OversizedError

M = TypeVar("M", bound=msgspec.Struct)


class Versioned(msgspec.Struct, frozen=True, kw_only=True):
    """What every durable or signed document begins with."""

    v: int = SCHEMA_VERSION


def encode(message: msgspec.Struct) -> bytes:
    """Return the UTF-8 JSON of a message, members in declaration order."""
    return msgspec.json.encode(message, order="deterministic")


def decode(kind: type[M], payload: bytes, *, limit: int = MAX_PAYLOAD_BYTES) -> M:
    """Read one message.

    Raises:
        MalformedError: Longer than ``limit`` bytes, not JSON, or not of this shape.
        UnsupportedError: A document version that this program does not know.

    """
    if len(payload) > limit:
        raise OversizedError(
            f"{kind.__name__} of {len(payload)} bytes is over the limit of {limit}"
        )
    try:
        message = msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise MalformedError(f"{kind.__name__} does not parse: {why}") from why
    if isinstance(message, Versioned) and message.v != SCHEMA_VERSION:
        raise UnsupportedError(
            f"{kind.__name__} has version {message.v}; this program knows {SCHEMA_VERSION}"
        )
    return message
