"""Packets are cut out of a stream as they were put in, and chunks are read as they were sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import MalformedError
from agent.link.packets import Publish, Stream, read_publish

LARGEST = 1000
SPARE = 300
TOPIC = "ff/v1/bench/dn/d-7/art/0123456789abcdef"


def length_of(count: int) -> bytes:
    found = bytearray()
    while True:
        count, low = divmod(count, 128)
        found.append(low | (0x80 if count else 0))
        if not count:
            return bytes(found)


def packet(first: int, rest: bytes) -> bytes:
    return bytes([first]) + length_of(len(rest)) + rest


def publish(
    payload: bytes, *, first: int = 0x30, topic: bytes = TOPIC.encode(), properties: bytes = b"\0"
) -> bytes:
    return packet(first, len(topic).to_bytes(2, "big") + topic + properties + payload)


def properties(**named: object) -> bytes:
    found = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # left so by the library
    for name, value in named.items():
        setattr(found, name, value)
    packed: bytes = found.pack()  # type: ignore[no-untyped-call]  # left so by the library
    return packed


def feed(stream: Stream, content: bytes) -> list[bytes]:
    """Receive all of it, as much at once as there is room for."""
    found = []
    while True:
        room = stream.room()
        assert len(room) > 0, "there is room while no packet is whole"
        taken = min(len(room), len(content))
        room[:taken] = content[:taken]
        stream.received(taken)
        content = content[taken:]
        while (one := stream.next()) is not None:
            found.append(bytes(one))
        if not content:
            return found


def stream() -> Stream:
    return Stream(packet_bytes=LARGEST, spare_bytes=SPARE)


@given(
    sizes=st.lists(st.integers(0, LARGEST - 3), max_size=30),
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=30),
)
def test_packets_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sizes: list[int], cuts: list[int]
) -> None:
    packets = [packet(0xD0, bytes([n % 256]) * size) for n, size in enumerate(sizes)]
    whole, taken, found = b"".join(packets), stream(), []
    at = 0
    while at < len(whole):
        cut = cuts[at % len(cuts)]
        found += feed(taken, whole[at : at + cut])
        at += cut
    assert found == packets


def test_a_packet_over_what_we_take_is_refused_by_its_length_alone() -> None:
    assert feed(stream(), packet(0x30, bytes(LARGEST - 3))) != []
    with pytest.raises(MalformedError, match="1001 bytes"):
        feed(stream(), packet(0x30, bytes(LARGEST - 2))[:3])
    with pytest.raises(MalformedError, match="length is malformed"):
        feed(stream(), b"\x30\xff\xff\xff\xff")


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"MessageExpiryInterval": 30}, id="an expiry"),
        pytest.param({"ContentType": "application/octet-stream"}, id="a type"),
        pytest.param(
            {"PayloadFormatIndicator": 1, "MessageExpiryInterval": 9, "ContentType": "x"},
            id="all that changes nothing",
        ),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 200, 70_000])
def test_a_chunk_is_read_as_it_was_sent(said: dict[str, object], size: int) -> None:
    sent = publish(b"c" * size, properties=properties(**said))
    assert read_publish(memoryview(sent)) == Publish(TOPIC, b"c" * size, retained=False)


def test_a_retained_message_is_known_as_one() -> None:
    read = read_publish(memoryview(publish(b"", first=0x31)))
    assert read == Publish(TOPIC, b"", retained=True)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(publish(b"x", first=0x32), id="QoS 1"),
        pytest.param(publish(b"x", first=0x34), id="QoS 2"),
        pytest.param(packet(0xD0, b""), id="a ping's answer"),
        pytest.param(publish(b"x", topic=b""), id="a topic alias alone"),
        pytest.param(publish(b"x", properties=properties(TopicAlias=3)), id="a topic alias"),
        pytest.param(publish(b"x", properties=properties(UserProperty=("a", "b"))), id="a stamp"),
        pytest.param(publish(b"x", topic=b"\xff\xfe"), id="no UTF-8"),
        pytest.param(publish(b"", properties=b"\x05\x02\0\0"), id="properties cut off"),
        pytest.param(publish(b"", properties=b"\x03\x03\0\x09"), id="a type beyond its place"),
        pytest.param(packet(0x30, b"\0\x09ff"), id="a topic cut off"),
        pytest.param(packet(0x30, b""), id="nothing at all"),
    ],
)
def test_everything_else_is_left_to_the_library(other: bytes) -> None:
    assert read_publish(memoryview(other)) is None


@given(st.binary(max_size=80))
def test_no_bytes_make_the_reader_stumble(rest: bytes) -> None:
    whole = memoryview(packet(0x30, rest))
    read = read_publish(whole)
    assert read is None or whole[-len(read.payload) or len(whole) :] == read.payload
