"""Flower's messages, read and written without Flower: what a device needs of them.

The wire schema of ``flwr.proto.message_pb2`` (flwr 1.21 to 1.42)::

    Message     1 metadata  2 content: RecordDict  3 error {1 sint64 code, 2 reason}
    RecordDict  1 items {1 key, 2 ArrayRecord | 3 MetricRecord | 4 ConfigRecord}

Rule 1: what was written by flwr and read here is written here as the same bytes, and the
        other way round (fuzzed against flwr in the tests).
Rule 2: sizes are checked before anything is allocated; an array is a read-only view of
        the message's own bytes.
Rule 3: bad bytes raise ``MalformedError`` and nothing else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.contract import wireformat as wire
from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.records import (
    MAX_KEY_BYTES,
    MAX_VALUES_BYTES,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    Record,
    decode_record,
    encode_record,
)
from agent.errors import MalformedError

__all__ = [
    "ArrayRecord",
    "ConfigRecord",
    "Failure",
    "FlowerMessage",
    "Metadata",
    "MetricRecord",
    "Record",
    "decode_message",
    "encode_message",
]

MAX_RECORDS: Final = 256
MAX_REASON_BYTES: Final = 4096
_MESSAGE_TYPE: Final = re.compile(r"(train|evaluate|query|system)(\.[A-Za-z_]\w{0,60})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Where a Flower message comes from and goes to; times in seconds since 1970."""

    run_id: int
    message_id: str
    src_node_id: int
    dst_node_id: int
    message_type: str
    reply_to_message_id: str = ""
    group_id: str = ""
    ttl: float = 43_200.0
    created_at: float = 0.0
    src_task_id: int | None = None
    dst_task_id: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What a message holds instead of content when its maker failed."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlowerMessage:
    """One message with its records by name, or a failure."""

    metadata: Metadata
    content: Mapping[str, Record] | Failure


def encode_message(message: FlowerMessage) -> bytes:
    """Return the bytes that flwr would write.

    Raises:
        MalformedError: A number does not fit 64 bits, a tuple mixes types, or an array
            has a dtype that is not in ``DTYPES``.

    """
    head = wire.write_field(1, _encode_metadata(message.metadata))
    match message.content:
        case Failure(code=code, reason=reason):
            number = wire.write_number(1, wire.zigzag(code)) if code else b""
            return head + wire.write_field(3, number + wire.write_text(2, reason))
        case records:
            items = (wire.write_field(1, encode_record(k, r)) for k, r in records.items())
            return head + wire.write_field(2, b"".join(items))


def decode_message(payload: bytes, *, limit: int = MAX_FLOWER_BYTES) -> FlowerMessage:
    """Read a message of at most ``limit`` bytes.

    Raises:
        MalformedError: It is longer, or not such a message.

    """
    if len(payload) > limit:
        raise MalformedError(f"Flower message of {len(payload)} bytes is over {limit}")
    metadata: Metadata | None = None
    content: Mapping[str, Record] | Failure | None = None
    for number, value in wire.read_fields(memoryview(payload)):
        if number == 1:
            metadata = _decode_metadata(wire.read_bytes(value))
        elif number == 2:  # noqa: PLR2004 - a field number of the schema
            content = _decode_content(wire.read_bytes(value))
        elif number == 3:  # noqa: PLR2004 - a field number of the schema
            content = _decode_failure(wire.read_bytes(value))
    if metadata is None or content is None:
        raise MalformedError("Flower message without metadata or content")
    return FlowerMessage(metadata=metadata, content=content)


_METADATA: Final = (
    (1, "run_id", int),
    (2, "message_id", str),
    (3, "src_node_id", int),
    (4, "dst_node_id", int),
    (5, "reply_to_message_id", str),
    (6, "group_id", str),
    (7, "ttl", float),
    (8, "message_type", str),
    (9, "created_at", float),
)
_OPTIONAL: Final = ((10, "src_task_id"), (11, "dst_task_id"))


def _encode_metadata(metadata: Metadata) -> bytes:
    parts = []
    for number, name, kind in _METADATA:
        value = getattr(metadata, name)
        if kind is str:
            parts.append(wire.write_text(number, value))
        elif value:
            parts.append(
                wire.write_number(number, value)
                if kind is int
                else wire.write_double(number, value)
            )
    parts += [wire.write_number(n, getattr(metadata, name)) for n, name in _OPTIONAL]
    return b"".join(parts)


def _decode_metadata(content: memoryview) -> Metadata:
    found: dict[str, Any] = {name: kind() for _, name, kind in _METADATA}
    known = {number: (name, kind) for number, name, kind in _METADATA}
    optional = dict(_OPTIONAL)
    for number, value in wire.read_fields(content):
        if number in optional:
            found[optional[number]] = wire.read_number(value)
        elif number in known:
            name, kind = known[number]
            if kind is str:
                found[name] = wire.read_text(value, MAX_KEY_BYTES)
            elif kind is int:
                found[name] = wire.read_number(value)
            else:
                found[name] = wire.read_double(value)
    if not _MESSAGE_TYPE.fullmatch(found["message_type"]):
        raise MalformedError(f"Flower message of unknown type {found['message_type'][:80]!r}")
    return Metadata(**found)


def _decode_failure(content: memoryview) -> Failure:
    code, reason = 0, ""
    for number, value in wire.read_fields(content):
        if number == 1:
            code = wire.unzigzag(wire.read_number(value))
        elif number == 2:  # noqa: PLR2004 - a field number of the schema
            reason = wire.read_text(value, MAX_REASON_BYTES)
    return Failure(code, reason)


def _decode_content(content: memoryview) -> dict[str, Record]:
    records: dict[str, Record] = {}
    values_bytes = 0
    for number, item in wire.read_fields(content):
        if number != 1:
            continue
        if len(records) >= MAX_RECORDS:
            raise MalformedError(f"Flower message of more than {MAX_RECORDS} records")
        raw = wire.read_bytes(item)
        key, record = decode_record(raw)
        if not isinstance(record, ArrayRecord):
            values_bytes += len(raw)
            if values_bytes > MAX_VALUES_BYTES + MAX_RECORDS * MAX_KEY_BYTES:
                raise MalformedError(f"Flower message of over {MAX_VALUES_BYTES} bytes of values")
        records[key] = record
    return records
