"""Flower's messages without Flower: byte for byte what flwr writes, and never a surprise."""

import contextlib
import io
import tracemalloc

import flwr.app as flower
import numpy as np
import pytest
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.contract import records as tensors_records
from agent.contract import tensors
from agent.contract import wireformat as wire
from agent.contract.records import DTYPES
from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    Failure,
    FlowerMessage,
    Metadata,
    MetricRecord,
    decode_message,
    encode_message,
)
from agent.errors import ContractError, MalformedError

U64 = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1])
TEXT = st.text(max_size=40).filter(lambda t: len(t.encode()) < 200)


def lists_of(one):
    return st.lists(one, max_size=5).map(tuple)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
LARGE = st.integers(2**63, 2**64 - 1)
FLOATS = st.floats(allow_nan=False) | st.just(float("nan"))
METRICS = st.one_of(INTEGERS, LARGE, FLOATS, lists_of(INTEGERS), lists_of(LARGE), lists_of(FLOATS))
SETTINGS = st.one_of(
    METRICS,
    st.booleans(),
    TEXT,
    st.binary(max_size=300),
    lists_of(st.booleans()),
    lists_of(TEXT),
    lists_of(st.binary(max_size=40)),
)


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    chance = np.random.default_rng(draw(st.integers(0, 999)))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    with np.errstate(invalid="ignore"):  # ARM and x86 differ in what is left of -1.5 as uint8
        array = np.array(chance.normal(size=shape) * 50).astype(dtype)
    return np.asfortranarray(array) if draw(st.booleans()) else array


def named(values):
    return st.dictionaries(TEXT, values, max_size=3)


RECORDS = st.one_of(
    named(arrays()).map(ArrayRecord),
    named(METRICS).map(MetricRecord),
    named(SETTINGS).map(ConfigRecord),
)


@st.composite
def messages(draw):
    metadata = Metadata(
        run_id=draw(U64),
        message_id=draw(TEXT),
        src_node_id=draw(U64),
        dst_node_id=draw(U64),
        reply_to_message_id=draw(TEXT),
        group_id=draw(TEXT),
        ttl=draw(st.floats(0.5, 1e6)),
        message_type=draw(st.sampled_from(["train", "evaluate.x", "query"])),
        created_at=draw(st.floats(1e9, 2e9)),
        src_task_id=draw(st.none() | U64),
        dst_task_id=draw(st.none() | U64),
    )
    failure = st.builds(Failure, st.integers(-1000, 1000), TEXT)
    content = draw(st.one_of(failure, st.dictionaries(TEXT, RECORDS, max_size=3)))
    return FlowerMessage(metadata=metadata, content=content)


def to_flower(message):
    """The same message by flwr's own classes."""
    names = Metadata.__dataclass_fields__
    metadata = flower.Metadata(**{n: getattr(message.metadata, n) for n in names})
    match message.content:
        case Failure(code=code, reason=reason):
            return flower.Message(metadata=metadata, error=flower.Error(code, reason))
        case records:
            return flower.Message(
                metadata=metadata,
                content=flower.RecordDict({n: record_to_flower(r) for n, r in records.items()}),
            )


def record_to_flower(record):
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in record.items.items()}
    match record:
        case ArrayRecord():
            return flower.ArrayRecord({k: flower.Array(v) for k, v in record.items.items()})
        case MetricRecord():
            return flower.MetricRecord(listed)
        case ConfigRecord():
            return flower.ConfigRecord(listed)


def small_message(**content):
    metadata = Metadata(
        run_id=1, message_id="m", src_node_id=1, dst_node_id=2, message_type="train"
    )
    return FlowerMessage(metadata=metadata, content=content)


@given(messages())
@settings(max_examples=300, deadline=None)
def test_we_write_the_bytes_that_flower_writes(message):
    theirs = message_to_proto(to_flower(message)).SerializeToString(deterministic=True)
    assert encode_message(message) == theirs


@given(messages())
@settings(max_examples=300, deadline=None)
def test_what_flower_writes_is_read_back_to_the_same_bytes(message):
    theirs = message_to_proto(to_flower(message)).SerializeToString(deterministic=True)
    read = decode_message(theirs, limit=2**20)
    assert encode_message(read) == theirs


@given(messages())
@settings(max_examples=200, deadline=None)
def test_what_we_write_is_the_same_message_to_flower(message):
    found = message_from_proto(ProtoMessage.FromString(encode_message(message)))
    for name in ("run_id", "message_id", "src_node_id", "group_id", "ttl", "message_type"):
        assert getattr(found.metadata, name) == getattr(message.metadata, name)
    match message.content:
        case Failure(code=code, reason=reason):
            assert (found.error.code, found.error.reason or "") == (code, reason)
        case records:
            assert found.content.keys() == records.keys()
            for name, record in records.items():
                same_record(found.content[name], record)


def same_record(found, record):
    """Assert that flwr holds the values that we wrote."""
    assert found.keys() == record.items.keys()
    for key, value in record.items.items():
        if isinstance(record, ArrayRecord):
            array = found[key].numpy()
            assert (array.dtype, array.shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(array, value)
        else:
            told = list(value) if isinstance(value, tuple) else value
            assert repr(found[key]) == repr(told)  # where NaN is itself, and 1 is not 1.0


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_anything_but_a_contract_error(payload):
    with contextlib.suppress(ContractError):
        decode_message(payload)


@given(messages(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_message_is_read_or_refused_but_never_surprises(message, data):
    payload = bytearray(encode_message(message))
    at = data.draw(st.integers(0, len(payload) - 1))
    if data.draw(st.booleans()):
        payload[at] ^= data.draw(st.integers(1, 255))
    else:
        del payload[at:]
    with contextlib.suppress(ContractError):
        decode_message(bytes(payload), limit=2**20)


def test_arrays_come_back_as_read_only_views_of_the_message():
    head = np.arange(14, dtype=np.float32).reshape(7, 2)
    payload = encode_message(small_message(arrays=ArrayRecord({"w": head})))
    found = decode_message(payload).content["arrays"].items["w"]
    np.testing.assert_array_equal(found, head)
    assert not found.flags.writeable
    assert found.base is not None


def flower_array(**changes):
    """A message with one array whose protobuf fields are changed by hand."""
    message = small_message(arrays=ArrayRecord({"w": np.zeros((2, 3), np.float32)}))
    proto = ProtoMessage.FromString(encode_message(message))
    array = proto.content.items[0].array_record.items[0].value
    for name, value in changes.items():
        if name == "shape":
            array.shape[:] = value
        else:
            setattr(array, name, value(array.data) if callable(value) else value)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"dtype": "object"}, "is not taken", id="objects"),
        pytest.param({"stype": "pickle"}, "is not taken", id="another serialisation"),
        pytest.param({"shape": [6]}, "holds other bytes", id="another shape"),
        pytest.param({"dtype": "int32"}, "holds other bytes", id="another dtype"),
        pytest.param({"shape": [2**30, 2**30]}, "is over", id="more than any limit"),
        pytest.param({"shape": [1] * 40}, "dimensions", id="too many dimensions"),
        pytest.param({"data": lambda d: d[:-4]}, "comes with", id="too few bytes"),
        pytest.param({"data": lambda d: d + b"0"}, "comes with", id="too many bytes"),
        pytest.param(
            {"data": lambda d: d.replace(b"<f4", b"|O8")}, "not .npy", id="a pickle inside"
        ),
        pytest.param({"data": b""}, "not .npy", id="nothing"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(changes, sentence):
    with pytest.raises(MalformedError, match=sentence):
        decode_message(flower_array(**changes))


def test_a_message_over_the_limit_is_refused_unread():
    payload = encode_message(small_message(arrays=ArrayRecord({"w": np.zeros(100, np.float32)})))
    with pytest.raises(MalformedError, match=f"{len(payload)} bytes is over 99"):
        decode_message(payload, limit=99)


@pytest.mark.parametrize(
    "value", [2**64, -(2**63) - 1, (1, "a"), (-1, 2**63)], ids=["high", "low", "mixed", "wide"]
)
def test_what_flower_cannot_carry_is_refused_when_written(value):
    with pytest.raises(MalformedError):
        encode_message(small_message(config=ConfigRecord({"a": value})))


@given(arrays())
@settings(max_examples=100, deadline=None)
def test_an_array_of_an_older_app_is_what_its_header_says(array):
    content = flower.RecordDict()
    content["fitres.parameters"] = flower.ArrayRecord(
        {"0": flower.Array(dtype="", shape=(), stype="numpy.ndarray", data=npy(array))}
    )
    record = read_content(content)["fitres.parameters"]
    found = record.items["0"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(b"", "is not taken", id="nothing"),
        pytest.param(b"\x93NUMPY", "is not taken", id="half a magic"),
        pytest.param(("<f4", (2**40,)), "is over", id="more than any limit"),
        pytest.param(("<f4", (1,) * 17), "dimensions", id="too many dimensions"),
        pytest.param(("|O8", (1,)), "is not taken", id="objects"),
        pytest.param(("<f4", (3,)), "comes with 4", id="too few bytes"),
    ],
)
def test_an_older_array_with_a_false_header_is_refused(data, sentence):
    content = flower.RecordDict()
    content["fitres.parameters"] = flower.ArrayRecord(
        {
            "0": flower.Array(
                dtype="",
                shape=(),
                stype="numpy.ndarray",
                data=data if isinstance(data, bytes) else header_of(*data) + b"0000",
            )
        }
    )
    with pytest.raises(MalformedError, match=sentence):
        read_content(content)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def header_of(descr, shape):
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def read_content(content):
    """Records by flwr's own classes, as the device reads them."""
    metadata = flower.Metadata(
        run_id=1,
        message_id="m",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="",
        created_at=1.0,
        ttl=1.0,
        message_type="train",
    )
    message = flower.Message(metadata=metadata, content=content)
    return decode_message(message_to_proto(message).SerializeToString()).content


def memory_of(payload):
    """How many bytes reading takes at most, and whether it was refused."""
    tracemalloc.start()
    try:
        decode_message(payload)
    except ContractError:
        refused = True
    else:
        refused = False
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak, refused


@given(messages(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_damaged_message_takes_no_more_memory_than_its_bytes_can_hold(message, data):
    payload = bytearray(encode_message(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    peak, _ = memory_of(bytes(payload))
    assert peak < 64 * len(payload) + 128 * 1024


@pytest.mark.parametrize("records", [1, 8])
def test_endless_lists_of_numbers_are_refused_before_they_are_read(records, monkeypatch):
    limit = 64 * 1024
    for module in (tensors, tensors_records):
        monkeypatch.setattr(module, "MAX_VALUES_BYTES", limit)
    monkeypatch.setattr(tensors, "MAX_RECORDS", 16)
    many = b"\x80\x01" * (limit // (2 * records) + 1)
    values = wire.write_field(22, wire.write_field(1, many))
    item = wire.write_field(1, wire.write_text(1, "a") + wire.write_field(2, values))
    record = wire.write_field(1, wire.write_text(1, "m") + wire.write_field(3, item))
    head = encode_message(small_message())[:-2]
    peak, refused = memory_of(head + wire.write_field(2, record * 40))
    assert refused
    assert peak < 64 * limit
