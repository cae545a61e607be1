"""The agent's link against real brokers."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from agent.contract.envelope import Boot
from agent.contract.frames import Piece
from agent.contract.topics import (
    ACK,
    ARTIFACT,
    ARTIFACT_CAST,
    ASSIGNMENT,
    ENROL_REPLY,
    ENROL_REQUEST,
    EVENT,
    EVERYBODY,
    PRESENCE,
    TELEMETRY,
    Address,
)
from agent.errors import ConfigError, DisplacedError, LinkError, MalformedError
from agent.link.connection import Connection, Outgoing
from agent.link.inbox import Arrived, Connected, Disconnected, Inbox, Lane, Refused
from agent.link.patience import Pace, Patience
from agent.link.session import Broker, exchange
from fleet.ingest.embedded import EmbeddedBroker
from fleet.ingest.mail import Connection as ManagerConnection
from fleet.ingest.mail import Message
from fleet.ingest.mosquitto import ENROL_USER
from fleet.ingest.tls import create_dev_tls
from tests.brokers import TOPICS, Listener, Mosquitto, eventually, free_port, next_of

DEVICE = "d-one"
QUICK = Pace(first_seconds=0.0, shortest_seconds=0.1, longest_seconds=0.4)
BOOT = Boot.parse("1-0011223344556677")


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker") / "home").start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def password(mosquitto: Mosquitto) -> str:
    return grant(mosquitto)


def grant(mosquitto: Mosquitto, device: str = DEVICE) -> str:
    provisioner = mosquitto.provisioner()
    secret = provisioner.grant(device)
    provisioner.close()
    return secret


def connection(url: str, password: str | None, ca: str = "") -> Connection:
    return Connection(
        url=url,
        ca=ca,
        username=DEVICE,
        password=password,
        client_id=DEVICE,
        will_delay_seconds=0,
    )


def cut(broker: Broker) -> None:
    """Lose the network below a link, as a device that dies does."""
    channel = broker._wire._client.socket()
    channel.shutdown(socket.SHUT_RDWR)


def link(connection: Connection, inbox: Inbox, will: str = "") -> Broker:
    def will_for(epoch: int) -> Outgoing:
        return Outgoing(address=PRESENCE.at(DEVICE), payload=f"{will} {epoch}".encode())

    return Broker(
        connection,
        TOPICS,
        inbox,
        subscriptions=TOPICS.heard_by_device(DEVICE),
        will_for=will_for if will else None,
        pace=QUICK,
    )


def report(text: bytes) -> Outgoing:
    return Outgoing(
        address=EVENT.at(DEVICE, "alarm"), payload=text, properties=(("boot", str(BOOT)),)
    )


@pytest.mark.broker
def test_messages_go_both_ways_with_their_properties(mosquitto: Mosquitto, password: str) -> None:
    inbox = Inbox()
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    broker = link(connection(mosquitto.url, password), inbox)
    broker.start()
    assert next_of(inbox, Connected).epoch == 1
    assert broker.publish(report(b"{}"))
    fleet.until(lambda: bool(fleet.heard))
    assert fleet.heard[0].properties == (("boot", str(BOOT)),)
    fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=b"ok"))
    fleet.turn()
    answer = next_of(inbox, Arrived)
    assert (answer.address, answer.payload) == (ACK.at(DEVICE), b"ok")
    broker.settle(answer)
    broker.stop()
    fleet.close()


@pytest.mark.broker
def test_a_topic_is_heard_only_while_it_is_listened_to(mosquitto: Mosquitto, password: str) -> None:
    inbox, address = Inbox(), ARTIFACT_CAST.at(EVERYBODY, "ab" * 8)
    other = ARTIFACT_CAST.at(EVERYBODY, "cd" * 8)
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    broker = link(connection(mosquitto.url, password), inbox)

    def heard(*addresses: Address) -> set[bytes]:
        for one in addresses:
            fleet.link.publish(Message(topic=TOPICS.write(one), payload=b"chunk", qos=0))
        fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=b"end"))
        fleet.turn()
        found: list[Arrived] = []
        while not any(message.payload == b"end" for message in found):
            found.append(next_of(inbox, Arrived))
            broker.settle(found[-1])
        while isinstance(more := inbox.get(0.2), Arrived):  # control overtakes chunks
            found.append(more)
        return {message.address.name.encode() for message in found if message.address.name}

    broker.start()
    next_of(inbox, Connected)
    assert heard(address) == set()
    assert broker.listen(address)
    until_heard(lambda: heard(address, other) == {b"ab" * 8})
    cut(broker)
    next_of(inbox, Connected)
    until_heard(lambda: heard(address, other) == {b"ab" * 8})
    broker.unlisten(address)
    until_heard(lambda: heard(address) == set())
    broker.stop()
    fleet.close()


def until_heard(holds: Callable[[], bool]) -> None:
    """Ask a few times: a subscription needs a moment at the broker."""
    assert any(holds() for _ in range(20))


@pytest.mark.broker
def test_what_was_not_settled_comes_again(mosquitto: Mosquitto, password: str) -> None:
    inbox = Inbox()
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    for time in ("first", "again", "settled"):
        broker = link(connection(mosquitto.url, password), inbox)
        broker.start()
        if time == "first":
            next_of(inbox, Connected)
            wish = Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=b"unsettled")
            fleet.link.publish(wish)
            fleet.turn()
        if time == "settled":
            next_of(inbox, Connected)
            assert not isinstance(inbox.get(0.3), Arrived)
        else:
            # what waits in the session may come before ``Connected``
            message = next_of(inbox, Arrived)
            assert message.payload == b"unsettled"
            if time == "again":
                eventually(lambda broker=broker: broker.connected)
                broker.settle(message)
        broker.stop()
        while inbox.get(0) is not None:
            pass
    fleet.close()


class PromptInbox(Inbox):
    """An inbox whose reader settles each message at the moment at which it comes."""

    broker: Broker | None = None

    def put(self, lane: Lane, item: object, *, size_bytes: int = 0) -> bool:
        taken = super().put(lane, item, size_bytes=size_bytes)
        if self.broker is not None and isinstance(item, Arrived):
            self.broker.settle(item)
        return taken


@pytest.mark.broker
def test_what_is_settled_before_the_link_says_connected_does_not_come_again(
    mosquitto: Mosquitto, password: str
) -> None:
    inbox = PromptInbox()
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    for time in ("unsettled", "settled at once", "settled"):
        broker = link(connection(mosquitto.url, password), inbox)
        inbox.broker = broker if time == "settled at once" else None
        broker.start()
        if time == "unsettled":
            next_of(inbox, Connected)
            fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=b"early"))
            fleet.turn()
        if time == "settled":
            assert isinstance(inbox.get(10), Connected)
            assert not isinstance(inbox.get(0.3), Arrived)
        else:
            assert next_of(inbox, Arrived).payload == b"early"
            eventually(lambda broker=broker: broker.connected)
        broker.stop()
        while inbox.get(0) is not None:
            pass
    fleet.close()


@pytest.mark.broker
def test_a_receipt_of_an_old_connection_settles_nothing_on_the_new_one(
    mosquitto: Mosquitto, password: str
) -> None:
    inbox = Inbox()
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    broker = link(connection(mosquitto.url, password), inbox)
    broker.start()
    next_of(inbox, Connected)
    fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=b"wish"))
    fleet.turn()
    old = next_of(inbox, Arrived)
    cut(broker)
    again = next_of(inbox, Arrived)
    assert old.receipt is not None
    assert again.receipt is not None
    assert (old.payload, old.receipt.mid) == (again.payload, again.receipt.mid)
    eventually(lambda: broker.connected)
    broker.settle(old)
    broker.stop()
    later = link(connection(mosquitto.url, password), inbox)
    later.start()
    message = next_of(inbox, Arrived)
    assert message.payload == b"wish"
    eventually(lambda: later.connected)
    later.settle(message)
    later.stop()
    fleet.close()


@pytest.mark.broker
def test_a_dying_agent_leaves_its_will_and_a_stopping_one_its_last_word(
    mosquitto: Mosquitto, password: str
) -> None:
    inbox = Inbox()
    fleet = Listener(mosquitto.manager(), TOPICS.write(PRESENCE.at(DEVICE)))
    broker = link(connection(mosquitto.url, password), inbox, will="died in epoch")
    broker.start()
    next_of(inbox, Connected)
    cut(broker)
    fleet.until(lambda: b"died in epoch 1" in [m.payload for m in fleet.heard])
    eventually(lambda: broker.connected)
    assert next_of(inbox, Connected).epoch > 1
    broker.stop(Outgoing(address=PRESENCE.at(DEVICE), payload=b"shutdown"))
    fleet.until(lambda: b"shutdown" in [m.payload for m in fleet.heard])
    assert fleet.heard[-1].payload == b"shutdown"
    fleet.close()


@pytest.mark.broker
def test_the_will_of_each_connection_carries_its_own_epoch(
    mosquitto: Mosquitto, password: str
) -> None:
    inbox = Inbox()
    fleet = Listener(mosquitto.manager(), TOPICS.write(PRESENCE.at(DEVICE)))
    broker = link(connection(mosquitto.url, password), inbox, will="this life, epoch")
    broker.start()
    for _ in range(2):
        epoch = next_of(inbox, Connected).epoch
        wanted = f"this life, epoch {epoch}".encode()
        assert wanted not in [m.payload for m in fleet.heard]
        eventually(lambda: broker.connected)
        cut(broker)
        fleet.until(lambda wanted=wanted: wanted in [m.payload for m in fleet.heard])
    broker.stop()
    fleet.close()


@pytest.mark.broker
def test_the_link_comes_back_after_a_killed_broker(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "home").start()
    inbox = Inbox()
    broker = link(connection(mosquitto.url, grant(mosquitto)), inbox)
    broker.start()
    try:
        next_of(inbox, Connected)
        mosquitto.kill()
        next_of(inbox, Disconnected)
        assert not broker.publish(report(b"lost"))
        assert "cannot be reached" in next_of(inbox, Refused).reason
        mosquitto.start()
        assert next_of(inbox, Connected).epoch > 1
        assert broker.publish(report(b"here again"))
    finally:
        broker.stop()
        mosquitto.stop()


@pytest.mark.broker
def test_tls_believes_only_the_pinned_authority(tmp_path: Path) -> None:
    ca = create_dev_tls(tmp_path / "tls")
    stranger = create_dev_tls(tmp_path / "other")
    mosquitto = Mosquitto(
        tmp_path / "home",
        certificate=tmp_path / "tls" / "server.pem",
        key=tmp_path / "tls" / "server.key",
    ).start()
    try:
        inbox = Inbox()
        for authority in (stranger, ""):
            doubtful = link(connection(mosquitto.url, "x", authority), inbox)
            doubtful.start()
            assert "is not believed" in next_of(inbox, Refused).reason
            doubtful.stop()
        broker = link(connection(mosquitto.url, "wrong", ca), inbox)
        broker.start()
        assert next_of(inbox, Refused).code == 0x87
        broker.stop()
    finally:
        mosquitto.stop()


@pytest.mark.broker
def test_chunks_that_nobody_reads_are_dropped_and_control_is_not(
    mosquitto: Mosquitto, password: str
) -> None:
    inbox = Inbox(chunk_bytes=3 * 65_000)
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    broker = link(connection(mosquitto.url, password), inbox)
    broker.start()
    next_of(inbox, Connected)
    art = TOPICS.write(ARTIFACT.at(DEVICE, "0" * 16))
    piece = Piece(name=b"12345678", index=0, total=1, content=b"c" * 60_000).encode()
    for _ in range(20):
        fleet.link.publish(Message(topic=art, payload=piece, qos=0))
        fleet.turn(0)
    fleet.link.publish(Message(topic=TOPICS.write(ASSIGNMENT.at(DEVICE)), payload=b"wish"))
    eventually(lambda: fleet.turn() == [] and fleet.link.unsent_bytes == 0)
    eventually(lambda: inbox.dropped(Lane.CHUNKS) == 17)
    assert next_of(inbox, Arrived).payload == b"wish"
    broker.stop()
    fleet.close()


@pytest.mark.broker
def test_topics_of_other_shapes_are_counted_and_not_seen(
    mosquitto: Mosquitto, password: str
) -> None:
    inbox = Inbox()
    fleet = Listener(mosquitto.manager(), *TOPICS.of_manager())
    broker = link(connection(mosquitto.url, password), inbox)
    broker.start()
    next_of(inbox, Connected)
    for stray in ("nothing/we/know", "ack/deeper", ""):
        fleet.link.publish(Message(topic=f"{TOPICS.root}/dn/{DEVICE}/{stray}", payload=b"x"))
    fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=b"known"))
    fleet.turn()
    assert next_of(inbox, Arrived).payload == b"known"
    assert broker.strays == 3
    broker.stop()
    fleet.close()


@pytest.mark.broker
def test_an_enrolment_exchange_returns_the_reply(mosquitto: Mosquitto) -> None:
    nonce = "00112233445566778899aabbccddeeff"
    fleet = Listener(mosquitto.manager(), f"{TOPICS.root}/enrol/req/+")

    def answer() -> None:
        fleet.until(lambda: bool(fleet.heard))
        reply = TOPICS.write(ENROL_REPLY.at(nonce))
        fleet.link.publish(Message(topic=reply, payload=b"re: " + fleet.heard[0].payload))
        fleet.turn()

    manager = Thread(target=answer)
    manager.start()
    stranger = Connection(
        url=mosquitto.enrol_url,
        username=ENROL_USER,
        password=mosquitto.accounts.enrol,
        client_id="s-1",
        session_expiry_seconds=0,
    )
    request = Outgoing(address=ENROL_REQUEST.at(nonce), payload=b"please")
    reply = exchange(stranger, TOPICS, request, ENROL_REPLY.at(nonce), timeout_seconds=10)
    manager.join()
    fleet.close()
    assert reply == b"re: please"


@pytest.mark.broker
def test_an_exchange_that_is_displaced_says_so(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another stranger sits down on the same seat while the first waits for its answer."""
    monkeypatch.setattr("secrets.randbelow", lambda _: 7)
    fleet = Listener(mosquitto.manager(), f"{TOPICS.root}/enrol/req/+")
    stranger = Connection(
        url=mosquitto.enrol_url,
        username=ENROL_USER,
        password=mosquitto.accounts.enrol,
        client_id="any",
        session_expiry_seconds=0,
    )
    ends: list[str] = []

    def ask(nonce: str) -> None:
        request = Outgoing(address=ENROL_REQUEST.at(nonce), payload=nonce.encode())
        try:
            exchange(stranger, TOPICS, request, ENROL_REPLY.at(nonce), timeout_seconds=10)
            ends.append(f"{nonce} answered")
        except DisplacedError:
            ends.append(f"{nonce} displaced")

    first, second = (Thread(target=ask, args=(nonce,)) for nonce in ("aa", "bb"))
    first.start()
    fleet.until(lambda: len(fleet.heard) == 1)
    second.start()
    fleet.until(lambda: len(fleet.heard) == 2)
    fleet.link.publish(Message(topic=TOPICS.write(ENROL_REPLY.at("bb")), payload=b"yes"))
    fleet.turn()
    first.join()
    second.join()
    fleet.close()
    assert sorted(ends) == ["aa displaced", "bb answered"]


@pytest.mark.broker
@pytest.mark.parametrize(
    ("secret", "sentence"),
    [pytest.param(None, "nobody answered", id="no manager"), ("bad", "Not authorized")],
)
def test_an_exchange_that_fails_says_why(
    mosquitto: Mosquitto, secret: str | None, sentence: str
) -> None:
    stranger = Connection(
        url=mosquitto.enrol_url,
        username=ENROL_USER,
        password=secret or mosquitto.accounts.enrol,
        client_id="s-2",
        session_expiry_seconds=0,
    )
    request = Outgoing(address=ENROL_REQUEST.at("aa"), payload=b"please")
    with pytest.raises(LinkError, match=sentence):
        exchange(stranger, TOPICS, request, ENROL_REPLY.at("aa"), timeout_seconds=0.3)


def test_an_unreachable_broker_is_one_sentence() -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    request = Outgoing(address=ENROL_REQUEST.at("aa"), payload=b"please")
    with pytest.raises(LinkError, match=f"^broker {url} cannot be reached: Connection refused$"):
        exchange(connection(url, None), TOPICS, request, ENROL_REPLY.at("aa"))


def test_a_broker_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        mute = Connection(url=url, client_id=DEVICE, connect_timeout_seconds=0.3)
        request = Outgoing(address=ENROL_REQUEST.at("aa"), payload=b"please")
        with pytest.raises(LinkError, match="did not answer"):
            exchange(mute, TOPICS, request, ENROL_REPLY.at("aa"))


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1883", "http://broker", "mqtt://", "mqtt://host:99999", "mqtt://h:x"]
)
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://host:port"):
        connection(url, None)


def test_a_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    broker = link(connection("mqtt://127.0.0.1", None), Inbox())
    with pytest.raises(MalformedError, match="over 131072"):
        broker.publish(report(b"x" * 131_073))


def test_a_stopped_link_leaves_no_thread() -> None:
    before = threading.active_count()
    broker = link(connection(f"mqtt://127.0.0.1:{free_port()}", None), Inbox())
    broker.start()
    broker.stop()
    assert threading.active_count() == before


@pytest.mark.parametrize("publish_first", [True, False])
def test_the_embedded_broker_carries_reports_wishes_and_wills(
    tmp_path: Path, *, publish_first: bool
) -> None:
    embedded = EmbeddedBroker(tmp_path, free_port())
    embedded.start()
    inbox = Inbox()
    try:
        fleet = Listener(
            ManagerConnection(url=embedded.url, client_id="manager"), *TOPICS.of_manager()
        )
        wish = Message(topic=TOPICS.write(ASSIGNMENT.at(DEVICE)), payload=b"wish", retain=True)
        broker = link(connection(embedded.url, None), inbox, will="died in epoch")
        steps: list[Callable[[], object]] = [lambda: fleet.link.publish(wish), broker.start]
        for step in steps if publish_first else reversed(steps):
            step()
            fleet.turn()
        assert next_of(inbox, Arrived).payload == b"wish"
        assert broker.publish(report(b"y" * 100_000))
        fleet.until(lambda: any(len(m.payload) == 100_000 for m in fleet.heard))
        assert fleet.heard[-1].properties == (("boot", str(BOOT)),)
        cut(broker)
        fleet.until(lambda: b"died in epoch 1" in [m.payload for m in fleet.heard])
        broker.stop()
        fleet.close()
    finally:
        embedded.stop()


def test_the_inbox_serves_control_first_then_local_then_chunks() -> None:
    inbox = Inbox(chunk_bytes=10, local_items=2)
    assert inbox.put(Lane.CHUNKS, "chunk", size_bytes=10)
    assert not inbox.put(Lane.CHUNKS, "too much", size_bytes=1)
    assert [inbox.put(Lane.LOCAL, n) for n in (1, 2, 3)] == [True, True, False]
    assert inbox.put(Lane.CONTROL, "control")
    assert [inbox.get(0) for _ in range(5)] == ["control", 1, 2, "chunk", None]
    assert (inbox.dropped(Lane.CHUNKS), inbox.dropped(Lane.LOCAL)) == (1, 1)
    assert inbox.put(Lane.CHUNKS, "room again", size_bytes=10)


def test_waits_grow_with_failures_and_shrink_only_after_a_stable_connection() -> None:
    patience = Patience(Pace(), chance=Random(1))
    waits = [patience.after_failure() for _ in range(60)]
    assert waits[0] <= 1.0
    assert 150 < max(waits[20:]) <= 300
    assert patience.after_connection(59.0) > 1.0 or patience.failures > 60
    patience.after_connection(60.0)
    assert patience.failures == 1


@pytest.mark.parametrize("code", [0x89, 0x97, 0x9F, 0x86, 0x87])
def test_a_busy_broker_or_wrong_credentials_are_asked_at_the_slow_end(code: int) -> None:
    patience = Patience(Pace(), chance=Random(1))
    assert all(150 <= patience.after_failure(code) <= 300 for _ in range(50))


def test_telemetry_has_the_expiry_and_quality_of_its_row() -> None:
    assert (TELEMETRY.qos, TELEMETRY.expiry_seconds) == (1, 86_400)
