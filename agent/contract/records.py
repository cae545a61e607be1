"""What stands inside a Flower message: named arrays, metrics and settings.

The wire schema of ``flwr.proto.recorddict_pb2``::

    Array   1 dtype  2 shape (int32, packed)  3 stype "numpy.ndarray"  4 .npy bytes
    value   1 double  2 sint64  3 uint64  4 bool  5 string  6 bytes
            21 to 26: lists of these, {1 vals}, numbers packed

Rule 1: an array's text, shape, header and length must agree before it is an array, which
        is then a read-only view; no header is evaluated as Python.
Rule 2: a list is a tuple here; an empty one counts as doubles among metrics and as
        truths among settings, as in flwr.
Rule 3: an array of an app older than Flower's Message API has neither text nor shape: its
        header alone says what it is, and both stand where it is written again.

Source of the array format: numpy.lib.format, version 1.0.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.contract import wireformat as wire
from agent.contract.limits import MAX_TENSOR_ELEMENTS
from agent.errors import MalformedError

MAX_ITEMS: Final = 65_536
MAX_DIMENSIONS: Final = 16
MAX_KEY_BYTES: Final = 1024
MAX_TEXT_BYTES: Final = 1 << 20
MAX_VALUES_BYTES: Final = 4 << 20
"""Metrics and settings of one message: a list takes many times its bytes in memory."""
DTYPES: Final = frozenset(
    {"float16", "float32", "float64", "bool"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_STYPE: Final = "numpy.ndarray"
_MAGIC: Final = b"\x93NUMPY\x01\x00"
_HEADER: Final = re.compile(
    rb"\{'descr': '([<|][fiub][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]{0,200})\), \} *\n"
)
_HEADER_AT: Final = 10
_NPY: Final[Any] = np.lib.format  # without types in some versions

Scalar = bool | int | float | str | bytes
Value = Scalar | tuple[Scalar, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRecord:
    """Named arrays; those of a read message are read-only views."""

    items: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class MetricRecord:
    """Named numbers or tuples of numbers."""

    items: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """Named settings: numbers, truths, texts, bytes, or tuples of one of these."""

    items: Mapping[str, Value]


Record = ArrayRecord | MetricRecord | ConfigRecord


def encode_record(key: str, record: Record) -> bytes:
    """Return one item of a ``RecordDict``.

    Raises:
        MalformedError: A value or an array is not one that flwr can carry.

    """
    match record:
        case ArrayRecord(items=arrays):
            content = wire.write_field(2, _encode_items(arrays, _encode_array))
        case MetricRecord(items=values):
            content = wire.write_field(3, _encode_items(values, _encode_value))
        case ConfigRecord(items=values):
            content = wire.write_field(4, _encode_items(values, _encode_setting))
    return wire.write_text(1, key) + content


def decode_record(item: memoryview) -> tuple[str, Record]:
    """Read one item of a ``RecordDict``.

    Raises:
        MalformedError: It is not one.

    """
    key = ""
    record: Record | None = None
    for number, value in wire.read_fields(item):
        match number:
            case 1:
                key = wire.read_text(value, MAX_KEY_BYTES)
            case 2:
                record = ArrayRecord(_decode_items(wire.read_bytes(value), _decode_array))
            case 3:
                record = MetricRecord(_decode_items(_values(value), _decode_value))
            case 4:
                record = ConfigRecord(_decode_items(_values(value), _decode_value))
    if record is None:
        raise MalformedError(f"Flower record {key[:80]!r} is of no known kind")
    return key, record


def _values(value: int | memoryview) -> memoryview:
    content = wire.read_bytes(value)
    if len(content) > MAX_VALUES_BYTES:
        raise MalformedError(
            f"a record of {len(content)} bytes of values is over {MAX_VALUES_BYTES}"
        )
    return content


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """An array inside the bytes of an ``ArrayRecord``: its key, a view, and where it begins."""

    key: str
    array: NDArray[Any]
    start: int


def find_arrays(record: memoryview) -> list[Span]:
    """Return the arrays of a record's bytes (the content of its field 2), in their order.

    Raises:
        MalformedError: It is not one.

    """
    begin = np.frombuffer(record, np.uint8).__array_interface__["data"][0]
    arrays = _decode_items(record, _decode_array)
    return [
        Span(key, array, array.__array_interface__["data"][0] - begin if array.size else 0)
        for key, array in arrays.items()
    ]


def _encode_items(items: Mapping[str, T], encode: Callable[[T], bytes]) -> bytes:
    return b"".join(
        wire.write_field(1, wire.write_text(1, key) + wire.write_field(2, encode(value)))
        for key, value in items.items()
    )


def _decode_items(content: memoryview, decode: Callable[[memoryview], T]) -> dict[str, T]:
    items: dict[str, T] = {}
    for number, item in wire.read_fields(content):
        if number != 1:
            continue
        if len(items) >= MAX_ITEMS:
            raise MalformedError(f"Flower record of more than {MAX_ITEMS} items")
        key, value = "", memoryview(b"")
        for part, found in wire.read_fields(wire.read_bytes(item)):
            if part == 1:
                key = wire.read_text(found, MAX_KEY_BYTES)
            elif part == 2:  # noqa: PLR2004 - a field number of the schema
                value = wire.read_bytes(found)
        items[key] = decode(value)
    return items


def _encode_array(array: NDArray[Any]) -> bytes:
    if array.dtype.name not in DTYPES or array.dtype.byteorder == ">":
        raise MalformedError(f"an array of {array.dtype} cannot be sent")
    header = io.BytesIO()
    _NPY.write_array_header_1_0(header, _NPY.header_data_from_array_1_0(array))
    shape = b"".join(wire.write_varint(d) for d in array.shape)
    size = wire.write_varint(len(header.getvalue()) + array.nbytes)
    ordered = array if array.flags.c_contiguous else array.T if array.flags.f_contiguous else None
    return b"".join(
        (
            wire.write_text(1, array.dtype.name),
            wire.write_field(2, shape) if shape else b"",
            wire.write_text(3, _STYPE),
            wire.write_varint(4 << 3 | wire.LENGTH) + size,
            header.getvalue(),
            np.ascontiguousarray(array if ordered is None else ordered).data,  # copied once
        )
    )


def _decode_array(content: memoryview) -> NDArray[Any]:
    dtype, stype, raw = "", "", memoryview(b"")
    shape: list[int] = []
    for number, value in wire.read_fields(content):
        match number:
            case 1:
                dtype = wire.read_text(value, MAX_KEY_BYTES)
            case 2 if isinstance(value, int):
                shape.append(value)
            case 2:
                shape.extend(wire.read_varints(wire.read_bytes(value)))
            case 3:
                stype = wire.read_text(value, MAX_KEY_BYTES)
            case 4:
                raw = wire.read_bytes(value)
        if len(shape) > MAX_DIMENSIONS:
            raise MalformedError(f"an array of more than {MAX_DIMENSIONS} dimensions")
    if not dtype and not shape:
        dtype, shape = _described(raw)
    if stype != _STYPE or dtype not in DTYPES:
        raise MalformedError(f"an array of {dtype[:40]!r} as {stype[:40]!r} is not taken")
    return _view(np.dtype(dtype), tuple(shape), raw)


def _described(raw: memoryview) -> tuple[str, list[int]]:
    """Return the dtype and the shape of an array's header; what is no header has none."""
    size = int.from_bytes(raw[8:_HEADER_AT], "little")
    header = _HEADER.fullmatch(raw[_HEADER_AT : _HEADER_AT + size])
    dtype = _dtype(header[1]) if header else None
    if header is None or dtype is None:
        return "", []
    shape = [int(d) for d in header[3].replace(b" ", b"").split(b",") if d]
    if len(shape) > MAX_DIMENSIONS:
        raise MalformedError(f"an array of more than {MAX_DIMENSIONS} dimensions")
    return dtype.name, shape


def _view(dtype: np.dtype[Any], shape: tuple[int, ...], raw: memoryview) -> NDArray[Any]:
    elements = prod(shape)
    if elements > MAX_TENSOR_ELEMENTS or any(d > MAX_TENSOR_ELEMENTS for d in shape):
        raise MalformedError(f"an array of {elements} elements is over {MAX_TENSOR_ELEMENTS}")
    size = int.from_bytes(raw[8:_HEADER_AT], "little")
    start = _HEADER_AT + size
    header = _HEADER.fullmatch(raw[_HEADER_AT:start])
    if bytes(raw[:8]) != _MAGIC or header is None:
        raise MalformedError("an array's bytes are not .npy of version 1.0")
    written = tuple(int(d) for d in header[3].replace(b" ", b"").split(b",") if d)
    if _dtype(header[1]) != dtype or written != shape:
        raise MalformedError(f"an array called {dtype} {shape} holds other bytes")
    if len(raw) - start != elements * dtype.itemsize:
        raise MalformedError(
            f"an array of {elements * dtype.itemsize} bytes comes with {len(raw) - start}"
        )
    flat = np.frombuffer(raw, dtype, count=elements, offset=start)
    array = flat.reshape(shape, order="F" if header[2] == b"True" else "C")
    array.flags.writeable = False
    return array


def _dtype(text: bytes) -> np.dtype[Any] | None:
    try:
        return np.dtype(text.decode())
    except TypeError:
        return None


def _encode_setting(value: Value) -> bytes:
    return wire.write_field(24, b"") if value == () else _encode_value(value)


def _encode_value(value: Value) -> bytes:
    if not isinstance(value, tuple):
        number, content = _scalar(value)
        if isinstance(value, float):
            return wire.write_double(number, value)
        if isinstance(value, str | bytes):
            return wire.write_field(number, content)
        return wire.write_varint(number << 3) + content
    if not value:
        return wire.write_field(21, b"")
    if len({type(v) for v in value}) != 1:
        raise MalformedError("a list of several types cannot be sent")
    number, parts = 1, []
    large = any(_scalar(v)[0] == 3 for v in value)  # noqa: PLR2004 - a field number of the schema
    for one in value:
        number, content = _scalar(one)
        if large:
            if not isinstance(one, int) or one < 0:
                raise MalformedError(f"{one!r} does not fit beside a number over 63 bits")
            number, content = 3, wire.write_varint(one)
        parts.append(content)
    packed = not isinstance(value[0], str | bytes)
    body = b"".join(parts)
    return wire.write_field(
        number + 20,
        wire.write_field(1, body) if packed else b"".join(wire.write_field(1, p) for p in parts),
    )


def _scalar(value: Scalar) -> tuple[int, bytes]:
    """Return the field number of one scalar and its bytes without tag and length."""
    match value:
        case bool():
            return 4, wire.write_varint(int(value))
        case float():
            return 1, wire.double_bytes(value)
        case int() if value >= 2**63:
            return 3, wire.write_varint(value)
        case int():
            return 2, wire.write_varint(wire.zigzag(value))
        case str():
            return 5, value.encode()
        case bytes():
            return 6, value


def _decode_value(content: memoryview) -> Value:
    result: Value | None = None
    for number, value in wire.read_fields(content):
        match number:
            case 1:
                result = wire.read_double(value)
            case 2:
                result = wire.unzigzag(wire.read_number(value))
            case 3:
                result = wire.read_number(value)
            case 4:
                result = bool(wire.read_number(value))
            case 5:
                result = wire.read_text(value, MAX_TEXT_BYTES)
            case 6:
                result = bytes(wire.read_bytes(value))
            case 21 | 22 | 23 | 24 | 25 | 26:
                result = tuple(_decode_list(number - 20, wire.read_bytes(value)))
    if result is None:
        raise MalformedError("a Flower value of no known type")
    return result


def _decode_list(kind: int, content: memoryview) -> Iterator[Scalar]:
    for number, value in wire.read_fields(content):
        if number != 1:
            continue
        match kind:
            case 1:
                raw = wire.read_bytes(value)
                if len(raw) % 8:
                    raise MalformedError("a list of doubles is cut short")
                yield from np.frombuffer(raw, "<f8").tolist()
            case 5:
                yield wire.read_text(value, MAX_TEXT_BYTES)
            case 6:
                yield bytes(wire.read_bytes(value))
            case _:
                numbers = [value] if isinstance(value, int) else wire.read_varints(value)
                for one in numbers:
                    yield wire.unzigzag(one) if kind == 2 else bool(one) if kind == 4 else one  # noqa: PLR2004 - a field number of the schema
