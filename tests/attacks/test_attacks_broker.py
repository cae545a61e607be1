"""Rows 17 to 19 and 21 at a real mosquitto, configured and provisioned as Fieldfare ships it.

Each with both keepers of accounts. Dynamic security refuses what is foreign; an access
list grants a foreign subscription and then delivers nothing, so delivery is what counts.
"""

from collections.abc import Callable, Iterator

import pytest

from agent.contract.limits import enrol_seat
from agent.contract.topics import (
    ASSIGNMENT,
    ENROL_REPLY,
    EVENT,
    HINT,
    MANAGER_PRESENCE,
    PRESENCE,
    REPORTED,
)
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Arrived, Connected, Connection, Disconnected, Message
from fleet.ingest.mosquitto import Backend
from fleet.ingest.provision import ENROL_USER
from tests.brokers import TOPICS, Listener, Mosquitto, eventually

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module", params=list(Backend), ids=str)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mosquitto]:
    home = tmp_path_factory.mktemp("broker") / "home"
    mosquitto = Mosquitto(home, backend=request.param, websockets=True).start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture(scope="module")
def passwords(broker: Mosquitto) -> Iterator[dict[str, str]]:
    provisioner = broker.keeper()
    yield {name: provisioner.grant(name) for name in ("d-one", "d-two")}
    provisioner.close()


def device(broker: Mosquitto, name: str, password: str) -> Listener:
    return Listener(broker.connection(name, password), f"{TOPICS.root}/dn/{name}/#")


def refusal(connection: Connection, *filters: str) -> str:
    """Why the broker ends a connection that it must not serve."""
    link = BrokerLink(connection, subscriptions=tuple((name, 1) for name in filters))
    said: list[str] = []

    def ended() -> bool:
        for news in link.poll(0.1):
            assert not isinstance(news, Connected), "the broker took it"
            if isinstance(news, Disconnected):
                said.append(news.why)
        return bool(said)

    try:
        eventually(ended, 10)
    finally:
        link.close()
    return said[0]


FOREIGN = [
    pytest.param(f"{TOPICS.root}/dn/d-two/#", id="another device's inbox"),
    pytest.param(f"{TOPICS.root}/up/#", id="everybody's reports"),
    pytest.param(f"{TOPICS.root}/enrol/req/+", id="strangers' requests"),
    pytest.param("#", id="everything"),
    pytest.param("$CONTROL/#", id="the accounts"),
    pytest.param("$SYS/#", id="the broker's figures"),
    pytest.param(f"$share/g/{TOPICS.root}/dn/d-two/#", id="a shared subscription"),
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_attack_17_a_device_subscribes_to_foreign_topics(broker, passwords, foreign):
    culprit = broker.connection("d-one", passwords["d-one"])
    if broker.layout.backend is Backend.DYNSEC:
        assert "Not authorized" in refusal(culprit, foreign)
        return
    assert overheard(broker, culprit, foreign, passwords["d-two"]) == []


def overheard(
    broker: Mosquitto, connection: Connection, filter_: str, password: str
) -> list[Arrived]:
    """What a connection hears of messages to and from d-two."""
    fleet = Listener(broker.manager(), *TOPICS.of_manager())
    victim = device(broker, "d-two", password)
    link = BrokerLink(connection, subscriptions=((filter_, 1),))
    heard: list[Arrived] = []

    def turned() -> bool:
        fleet.turn(0.01)
        victim.turn(0.01)
        heard.extend(news for news in link.poll(0.01) if isinstance(news, Arrived))
        return bool(victim.heard and fleet.heard)

    try:
        eventually(lambda: any(isinstance(n, Connected | Disconnected) for n in link.poll(0.1)))
        fleet.link.publish(Message(topic=TOPICS.write(ASSIGNMENT.at("d-two")), payload=b"wish"))
        victim.link.publish(Message(topic=TOPICS.write(PRESENCE.at("d-two")), payload=b"here"))
        eventually(turned)
        heard.extend(news for news in link.poll(0.3) if isinstance(news, Arrived))
    finally:
        for each in (fleet, victim, link):
            each.close()
    return heard


@pytest.mark.parametrize("by_will", [False, True], ids=["publish", "will"])
@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(TOPICS.write(PRESENCE.at("d-one")), id="its own presence"),
        pytest.param(TOPICS.write(PRESENCE.at("d-two")), id="another device's presence"),
        pytest.param(TOPICS.write(ASSIGNMENT.at("d-two")), id="another device's inbox"),
        pytest.param(TOPICS.write(HINT.at("all")), id="a group"),
        pytest.param(TOPICS.write(MANAGER_PRESENCE.at("main")), id="the manager"),
        pytest.param(TOPICS.write(ENROL_REPLY.at("00")), id="an enrolment reply"),
    ],
)
def test_attack_17_a_device_writes_to_foreign_topics(broker, passwords, foreign, by_will):
    fleet = Listener(broker.manager(), *TOPICS.of_manager())
    victim = device(broker, "d-two", passwords["d-two"])
    good = Message(topic=TOPICS.write(EVENT.at("d-one", "alarm")), payload=b"good")
    evil = Message(topic=foreign, payload=b"evil")
    culprit = BrokerLink(
        broker.connection("d-one", passwords["d-one"]),
        subscriptions=(),
        will=evil if by_will else None,
    )

    def turn_until(holds: Callable[[], bool]) -> None:
        def turned() -> bool:
            culprit.poll(0.01)
            fleet.turn(0.01)
            victim.turn(0.01)
            return holds()

        eventually(turned)

    try:
        eventually(lambda: any(isinstance(n, Connected) for n in culprit.poll(0.1)))
        if not by_will:
            assert culprit.publish(evil)
        assert culprit.publish(good)
        turn_until(lambda: any(m.payload == b"good" for m in fleet.heard))
        if by_will:
            drop(culprit)
        own = "/up/d-one/" in foreign
        turn_until(lambda: not own or any(m.payload == b"evil" for m in fleet.heard))
        last = Message(topic=TOPICS.write(ASSIGNMENT.at("d-two")), payload=b"last")
        assert fleet.link.publish(last)
        turn_until(lambda: any(m.payload == b"last" for m in victim.heard))
        heard = [m.topic for m in (*fleet.heard, *victim.heard) if m.payload == b"evil"]
        assert heard == ([foreign] if own else [])
    finally:
        culprit.close()
        victim.close()
        fleet.close()


def drop(link: BrokerLink) -> None:
    """End a connection as a dying device does, without a good-bye."""
    import socket

    link._client.socket().shutdown(socket.SHUT_RDWR)


def test_attack_18_a_client_id_is_not_taken_over(broker, passwords):
    for url, user, password in (
        (broker.url, "d-one", passwords["d-one"]),
        (broker.enrol_url, "d-one", passwords["d-one"]),
        (broker.enrol_url, enrol_seat(ENROL_USER, 4), broker.accounts.enrol),
    ):
        impostor = Connection(url=url, username=user, password=password, client_id="d-two")
        inbox = f"{TOPICS.root}/dn/d-two/#"
        assert overheard(broker, impostor, inbox, passwords["d-two"]) == []


@pytest.mark.parametrize("listener", ["devices", "strangers", "over WebSocket"])
def test_attack_18_a_live_device_is_not_displaced(broker, passwords, listener):
    victim = device(broker, "d-one", passwords["d-one"])
    url = {
        "devices": broker.url,
        "strangers": broker.enrol_url,
        "over WebSocket": f"ws://127.0.0.1:{broker.layout.websocket_port}/mqtt",
    }[listener]
    for user, password in (
        ("d-two", passwords["d-two"]),
        (enrol_seat(ENROL_USER, 4), broker.accounts.enrol),
    ):
        impostor = Connection(url=url, username=user, password=password, client_id="d-one")
        link = BrokerLink(impostor, subscriptions=())
        eventually(
            lambda link=link: any(isinstance(n, Connected | Disconnected) for n in link.poll(0.1))
        )
        link.close()
    victim.turn(0.3)
    assert not [news for news in victim.news if isinstance(news, Disconnected)]
    victim.close()


def test_attack_19_a_revoked_device_is_cut_off_and_stays_out(broker):
    provisioner = broker.keeper()
    password = provisioner.grant("d-gone")
    gone = device(broker, "d-gone", password)
    provisioner.revoke("d-gone")
    gone.until(lambda: any(isinstance(news, Disconnected) for news in gone.news))
    assert "Not authorized" in refusal(broker.connection("d-gone", password))
    gone.close()
    provisioner.close()


def test_attack_21_what_a_revoked_device_retained_is_cleared(broker):
    provisioner = broker.keeper()
    left = device(broker, "d-left", provisioner.grant("d-left"))
    topic = TOPICS.write(REPORTED.at("d-left"))
    left.link.publish(Message(topic=topic, payload=b"{}", retain=True))
    fleet = Listener(broker.manager(), f"{TOPICS.root}/up/d-left/#")
    fleet.until(lambda: bool(left.turn(0.01) or fleet.heard))
    left.close()
    provisioner.revoke("d-left")
    fleet.link.publish(Message(topic=topic, payload=b"", retain=True))
    fleet.until(lambda: fleet.link.unsent_bytes == 0 and len(fleet.heard) > 1)
    fleet.close()
    later = Listener(broker.manager(), f"{TOPICS.root}/up/d-left/#")
    later.turn(0.2)
    assert not [m for m in later.heard if m.payload]
    later.close()
    provisioner.close()
