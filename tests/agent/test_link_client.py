"""What a broker may do to the stream: send in any cut, lie about lengths, and hang up.

The broker here is a socket that says bytes, because no real one would say these.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from agent.contract.topics import ARTIFACT, ASSIGNMENT, Address
from agent.link.client import MAX_PACKET_BYTES, RECEIVE_MAXIMUM
from agent.link.connection import Connection
from agent.link.inbox import Arrived, Connected, Disconnected, Inbox
from agent.link.patience import Pace
from agent.link.session import Broker
from tests.agent.test_link_packets import packet, publish
from tests.brokers import TOPICS

DEVICE = "d-one"
CHUNKS = ARTIFACT.at(DEVICE, "0123456789abcdef")
NEVER_AGAIN = Pace(first_seconds=0.0, shortest_seconds=600.0, longest_seconds=600.0)


def said(address: Address, payload: bytes, number: int = 0) -> bytes:
    """Return a message as the broker says it: with a number, it is of QoS 1."""
    topic = TOPICS.write(address).encode()
    if not number:
        return publish(payload, topic=topic)
    head = len(topic).to_bytes(2, "big") + topic + number.to_bytes(2, "big") + b"\0"
    return packet(0x32, head + payload)


@contextmanager
def broker_that_says(
    *parts: bytes, pace_seconds: float = 0.0, keepalive_seconds: int = 60
) -> Iterator[Inbox]:
    """Connect a link to a broker that welcomes it, says these parts, and hangs up."""

    def serve(server: socket.socket) -> None:
        channel, _ = server.accept()
        with channel:
            channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            channel.recv(4096)
            channel.sendall(packet(0x20, b"\0\0\0"))
            asked = channel.recv(4096)  # to subscribe
            channel.sendall(packet(0x90, asked[2:4] + b"\0\1"))
            connected.wait(20)
            for part in parts:
                channel.sendall(part)
                over.wait(pace_seconds)
            channel.shutdown(socket.SHUT_WR)
            while channel.recv(4096):
                pass

    inbox, connected, over = Inbox(), Event(), Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        link = Broker(
            Connection(url=url, client_id=DEVICE, keepalive_seconds=keepalive_seconds),
            TOPICS,
            inbox,
            subscriptions=("one",),
            pace=NEVER_AGAIN,
        )
        link.start()
        try:
            assert isinstance(inbox.get(20.0), Connected)
            connected.set()
            yield inbox
        finally:
            connected.set()
            over.set()
            link.stop()
            thread.join(20)


def everything(inbox: Inbox) -> list[object]:
    """Return what came until the end, and the chunks, which are served after it."""
    found: list[object] = []
    while not found or not isinstance(found[-1], Disconnected):
        found.append(inbox.get(20.0))
        assert found[-1] is not None, "nothing came in 20 s"
    end = found.pop()
    while (chunk := inbox.get(0)) is not None:
        found.append(chunk)
    return [*found, end]


@pytest.mark.parametrize("cut", [1, 7, 1000, 10**6])
def test_chunks_and_wishes_arrive_in_whatever_pieces_they_come(cut: int) -> None:
    wishes = [said(ASSIGNMENT.at(DEVICE), b"wish %d" % n, number=n) for n in (1, 2)]
    chunks = [said(CHUNKS, bytes([n]) * 3000) for n in range(3)]
    stream = chunks[0] + wishes[0] + chunks[1] + packet(0xD0, b"") + wishes[1] + chunks[2]
    parts = [stream[at : at + cut] for at in range(0, len(stream), cut)]
    with broker_that_says(*parts) as inbox:
        arrived = [item for item in everything(inbox) if isinstance(item, Arrived)]
    of_chunks = [a.payload for a in arrived if a.address == CHUNKS]
    assert of_chunks == [bytes([n]) * 3000 for n in range(3)]
    assert [a.payload for a in arrived if a.receipt is not None] == [b"wish 1", b"wish 2"]


def test_many_chunks_at_once_are_all_read() -> None:
    count = 3 * RECEIVE_MAXIMUM
    with broker_that_says(said(CHUNKS, b"c" * 10_000) * count) as inbox:
        arrived = [item for item in everything(inbox) if isinstance(item, Arrived)]
    assert len(arrived) == count


@pytest.mark.slow
def test_a_link_that_is_slowly_fed_is_not_taken_for_dead_though_no_ping_is_answered() -> None:
    """Keep-alive is 1 s here, and the chunk comes in 2.5 s."""
    chunk = said(CHUNKS, b"c" * 1000)
    parts = [chunk[at : at + 100] for at in range(0, len(chunk), 100)]
    with broker_that_says(*parts, pace_seconds=0.25, keepalive_seconds=1) as inbox:
        arrived = [item for item in everything(inbox) if isinstance(item, Arrived)]
    assert [a.payload for a in arrived] == [b"c" * 1000]


@pytest.mark.parametrize(
    ("bytes_said", "why"),
    [
        pytest.param(
            b"\x30\xff\xff\x7f", f"told to send at most {MAX_PACKET_BYTES}", id="too large"
        ),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", "length is malformed", id="a length of 5 bytes"),
        pytest.param(b"", "connection ended", id="nothing"),
        pytest.param(said(CHUNKS, b"c" * 100)[:-1], "connection ended", id="a part of a chunk"),
    ],
)
def test_a_stream_that_ends_or_lies_ends_the_connection_with_its_reason(
    bytes_said: bytes, why: str
) -> None:
    with broker_that_says(bytes_said) as inbox:
        *others, end = everything(inbox)
    assert others == []
    assert isinstance(end, Disconnected)
    assert why in end.why
