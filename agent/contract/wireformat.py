"""The protobuf wire format, as far as Flower's messages need it.

Rule 1: nothing is allocated on the word of a length that the bytes do not hold.
Rule 2: reading raises ``MalformedError`` and nothing else.

Source: protobuf.dev, "Encoding". Groups (wire types 3 and 4) are refused.
"""

import struct
from collections.abc import Iterator
from typing import Final

from agent.errors import MalformedError

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5
MAX_U64: Final = 2**64 - 1
MAX_FIELD_NUMBER: Final = 2**29 - 1

Field = tuple[int, int | memoryview]
"""A field number with its varint, or with the bytes of any other type."""


def write_varint(value: int) -> bytes:
    """Return an unsigned 64-bit varint.

    >>> write_varint(300).hex()
    'ac02'
    """
    if not 0 <= value <= MAX_U64:
        raise MalformedError(f"{value} does not fit 64 bits")
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def write_field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return write_varint(number << 3 | LENGTH) + write_varint(len(content)) + content


def write_text(number: int, text: str) -> bytes:
    """Return a string field, nothing for an empty one."""
    return write_field(number, text.encode()) if text else b""


def write_number(number: int, value: int | None) -> bytes:
    """Return an unsigned varint field, nothing for None."""
    return b"" if value is None else write_varint(number << 3 | VARINT) + write_varint(value)


def write_double(number: int, value: float) -> bytes:
    """Return a double field."""
    return write_varint(number << 3 | FIXED64) + double_bytes(value)


def double_bytes(value: float) -> bytes:
    """Return the eight bytes of a double."""
    return struct.pack("<d", value)


def zigzag(value: int) -> int:
    """Return the sint64 code of a signed number; ``unzigzag`` is the inverse."""
    if not -(2**63) <= value < 2**63:
        raise MalformedError(f"{value} does not fit a signed 64-bit number")
    return (value << 1) ^ (value >> 63) if value >= 0 else ((-value) << 1) - 1


def unzigzag(value: int) -> int:
    """Return the signed number of a sint64 code.

    >>> [unzigzag(zigzag(n)) for n in (0, -1, 2**63 - 1, -2**63)]
    [0, -1, 9223372036854775807, -9223372036854775808]
    """
    return (value >> 1) ^ -(value & 1)


def read_fields(content: memoryview) -> Iterator[Field]:
    """Yield the fields of one message in their order."""
    for number, value in find_fields(content):
        yield number, content[value] if isinstance(value, slice) else value


def find_fields(content: memoryview) -> Iterator[tuple[int, int | slice]]:
    """Yield the same fields, with the place of what is no varint instead of its bytes."""
    at, end = 0, len(content)
    while at < end:
        tag, at = _read_varint(content, at)
        number, kind = tag >> 3, tag & 7
        if not 1 <= number <= MAX_FIELD_NUMBER:
            raise MalformedError(f"field number {number} cannot be")
        if kind == VARINT:
            value, at = _read_varint(content, at)
            yield number, value
            continue
        if kind == LENGTH:
            size, at = _read_varint(content, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise MalformedError(f"wire type {kind} is not used here")
        if size > end - at:
            raise MalformedError(f"a field of {size} bytes is cut short")
        yield number, slice(at, at + size)
        at += size


def read_varints(content: memoryview) -> Iterator[int]:
    """Yield packed varints."""
    at = 0
    while at < len(content):
        value, at = _read_varint(content, at)
        yield value


def read_text(value: int | memoryview, limit: int) -> str:
    """Return a string field of at most ``limit`` bytes."""
    raw = read_bytes(value)
    if len(raw) > limit:
        raise MalformedError(f"a text of {len(raw)} bytes is over {limit}")
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as why:
        raise MalformedError("a text is not UTF-8") from why


def read_bytes(value: int | memoryview) -> memoryview:
    """Return the bytes of a field that must not be a varint."""
    if isinstance(value, int):
        raise MalformedError("a number stands where bytes are expected")
    return value


def read_number(value: int | memoryview) -> int:
    """Return the varint of a field."""
    if not isinstance(value, int):
        raise MalformedError("bytes stand where a number is expected")
    return value


def read_double(value: int | memoryview) -> float:
    """Return the double of a field."""
    raw = read_bytes(value)
    if len(raw) != 8:  # noqa: PLR2004 - a double
        raise MalformedError(f"a double of {len(raw)} bytes cannot be")
    return float(struct.unpack("<d", raw)[0])


def _read_varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(content):
            raise MalformedError("a number is cut short")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - seven bits a byte
            break
        shift += 7
        if shift > 63:  # noqa: PLR2004 - 64 bits
            raise MalformedError("a number is longer than 64 bits")
    if value > MAX_U64:
        raise MalformedError("a number is longer than 64 bits")
    return value, at
