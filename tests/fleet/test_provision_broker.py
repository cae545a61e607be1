"""Who may do what at a real mosquitto, configured and provisioned by us."""

import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.contract.limits import enrol_seat
from agent.contract.topics import (
    ASSIGNMENT,
    ENROL_REPLY,
    ENROL_REQUEST,
    EVENT,
    HINT,
    MANAGER_PRESENCE,
    PRESENCE,
    REPORTED,
)
from fleet.errors import ConflictError, RefusedError, UnreachableError
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Connected, Connection, Disconnected, Message
from fleet.ingest.provision import (
    ENROL_USER,
    BrokerLayout,
    Provisioner,
    find_dynamic_security,
    prepare_broker,
    render_mosquitto_conf,
)
from tests.brokers import TOPICS, Listener, Mosquitto, eventually, free_port

pytestmark = pytest.mark.broker
SHIPPED = Path(__file__).parents[2] / "firmware-configs" / "broker" / "mosquitto.conf"
OWN_UP = TOPICS.write(EVENT.at("d-one", "alarm"))
OWN_DOWN = TOPICS.write(ASSIGNMENT.at("d-one"))


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker") / "home").start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture(scope="module")
def accounts(broker: Mosquitto) -> Iterator[dict[str, str]]:
    provisioner = broker.provisioner()
    yield {name: provisioner.grant(name) for name in ("d-one", "d-two")}
    provisioner.close()


def device(broker: Mosquitto, name: str, password: str, *filters: str) -> Listener:
    own = filters or (f"{TOPICS.root}/dn/{name}/#",)
    return Listener(broker.connection(name, password), *own)


def seated(broker: Mosquitto, seat: int, client_id: str = "") -> Connection:
    name = enrol_seat(ENROL_USER, seat)
    return Connection(
        url=broker.enrol_url,
        username=name,
        password=broker.accounts.enrol,
        client_id=client_id or name,
    )


def manager(broker: Mosquitto, *filters: str) -> Listener:
    return Listener(broker.manager(), *(filters or TOPICS.of_manager()))


def refusal(connection: Connection, *filters: str) -> str:
    """Return why the broker ends a connection that it should not accept."""
    link = BrokerLink(connection, subscriptions=tuple((name, 1) for name in filters))
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            for news in link.poll(0.2):
                if isinstance(news, Disconnected):
                    return news.why
                assert not isinstance(news, Connected), "the broker took it"
    finally:
        link.close()
    raise AssertionError("the broker said nothing")


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(f"{TOPICS.root}/dn/d-two/#", id="another device's inbox"),
        pytest.param(f"{TOPICS.root}/up/d-one/#", id="its own reports"),
        pytest.param(f"{TOPICS.root}/up/#", id="everybody's reports"),
        pytest.param(f"{TOPICS.root}/dn/+/#", id="a wildcard over devices"),
        pytest.param(f"{TOPICS.root}/enrol/req/+", id="strangers' requests"),
        pytest.param("#", id="everything"),
        pytest.param("$SYS/#", id="the broker's own figures"),
        pytest.param("$CONTROL/#", id="the accounts"),
        pytest.param(f"$share/g/{TOPICS.root}/dn/d-two/#", id="a shared subscription"),
    ],
)
def test_a_device_cannot_subscribe_to_what_is_not_its_own(
    broker: Mosquitto, accounts: dict[str, str], foreign: str
) -> None:
    connection = broker.connection("d-one", accounts["d-one"])
    assert "Not authorized" in refusal(connection, foreign)


@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(TOPICS.write(PRESENCE.at("d-two")), id="another device's presence"),
        pytest.param(OWN_DOWN, id="its own inbox"),
        pytest.param(TOPICS.write(ASSIGNMENT.at("d-two")), id="another device's inbox"),
        pytest.param(TOPICS.write(HINT.at("all")), id="a group"),
        pytest.param(TOPICS.write(MANAGER_PRESENCE.at("main")), id="the manager"),
        pytest.param(TOPICS.write(ENROL_REPLY.at("00")), id="an enrolment reply"),
    ],
)
def test_a_device_cannot_write_where_it_does_not_own(
    broker: Mosquitto, accounts: dict[str, str], foreign: str
) -> None:
    everything = Listener(
        broker.manager(), *TOPICS.of_manager()
    )  # the manager may not read `dn`, so delivery to the devices is watched as well
    victim = device(broker, "d-two", accounts["d-two"])
    culprit = device(broker, "d-one", accounts["d-one"])
    try:
        assert culprit.link.publish(Message(topic=foreign, payload=b"evil"))
        assert culprit.link.publish(Message(topic=OWN_UP, payload=b"good"))
        culprit.turn()
        everything.until(lambda: any(m.payload == b"good" for m in everything.heard))
        victim.turn(0.2)
        heard = [*everything.heard, *victim.heard, *culprit.heard]
        assert not [m for m in heard if m.payload == b"evil"]
    finally:
        for listener in (everything, victim, culprit):
            listener.close()


def test_a_device_and_the_manager_reach_each_other(
    broker: Mosquitto, accounts: dict[str, str]
) -> None:
    fleet = manager(broker)
    one = device(broker, "d-one", accounts["d-one"], *TOPICS.of_device("d-one"))
    properties = (("boot", "1-0011223344556677"), ("seq", "1"))
    one.link.publish(Message(topic=OWN_UP, payload=b"report", properties=properties))
    one.turn()
    fleet.until(lambda: bool(fleet.heard))
    assert (fleet.heard[0].topic, fleet.heard[0].properties) == (OWN_UP, properties)
    fleet.link.publish(Message(topic=OWN_DOWN, payload=b"wish", retain=True))
    fleet.turn()
    one.until(lambda: any(m.payload == b"wish" for m in one.heard))
    fleet.link.publish(Message(topic=OWN_DOWN, payload=b"", retain=True))
    fleet.turn()
    one.close()
    fleet.close()


def test_another_client_id_is_not_taken_over(broker: Mosquitto, accounts: dict[str, str]) -> None:
    """On the devices' listener the name is the id; on the other the id is bound."""
    victim = device(broker, "d-one", accounts["d-one"])
    impostor = Connection(
        url=broker.url, username="d-two", password=accounts["d-two"], client_id="d-one"
    )
    taken = Listener(impostor, f"{TOPICS.root}/dn/d-two/#")
    elsewhere = Connection(
        url=broker.enrol_url, username="d-two", password=accounts["d-two"], client_id="d-one"
    )
    assert "Not authorized" in refusal(elsewhere)
    victim.turn(0.3)
    assert not [n for n in victim.news if isinstance(n, Disconnected)]
    taken.close()
    victim.close()


def test_a_stranger_has_two_topics_and_hears_no_device(
    broker: Mosquitto, accounts: dict[str, str]
) -> None:
    fleet = manager(broker)
    nonce = "00112233445566778899aabbccddeeff"
    reply = TOPICS.write(ENROL_REPLY.at(nonce))
    stranger = Listener(seated(broker, 1), reply)
    other = Listener(seated(broker, 2), f"{reply[:-1]}0")
    stranger.link.publish(Message(topic=TOPICS.write(PRESENCE.at("d-one")), payload=b"evil"))
    stranger.link.publish(Message(topic=TOPICS.write(ENROL_REQUEST.at(nonce)), payload=b"ask"))
    stranger.turn()
    fleet.until(lambda: any(m.payload == b"ask" for m in fleet.heard))
    assert not [m for m in fleet.heard if m.payload == b"evil"]
    fleet.link.publish(Message(topic=reply, payload=b"sealed"))
    fleet.turn()
    stranger.until(lambda: bool(stranger.heard))
    other.turn(0.2)
    assert not other.heard
    assert not [n for n in other.news if isinstance(n, Disconnected)]
    assert "Not authorized" in refusal(seated(broker, 3), f"{TOPICS.root}/up/#")
    for listener in (fleet, stranger, other):
        listener.close()


def test_a_stranger_can_neither_displace_a_device_nor_hear_what_waits_for_it(
    broker: Mosquitto, accounts: dict[str, str]
) -> None:
    victim = device(broker, "d-two", accounts["d-two"])
    assert "Not authorized" in refusal(seated(broker, 4, client_id="d-two"))
    victim.turn(0.2)
    assert not [n for n in victim.news if isinstance(n, Disconnected)]
    victim.close()
    assert "Not authorized" in refusal(seated(broker, 4, client_id="d-two"))


def test_a_revoked_device_is_cut_off_and_stays_out(broker: Mosquitto) -> None:
    provisioner = broker.provisioner()
    password = provisioner.grant("d-gone")
    gone = device(broker, "d-gone", password)
    gone.link.publish(
        Message(topic=TOPICS.write(REPORTED.at("d-gone")), payload=b"{}", retain=True)
    )
    gone.turn()
    provisioner.revoke("d-gone")
    gone.until(lambda: any(isinstance(n, Disconnected) for n in gone.news))
    assert "Not authorized" in refusal(broker.connection("d-gone", password))
    gone.close()
    provisioner.revoke("d-gone")
    provisioner.close()


def test_the_manager_can_clear_what_a_revoked_device_retained(broker: Mosquitto) -> None:
    provisioner = broker.provisioner()
    left = device(broker, "d-left", provisioner.grant("d-left"))
    topic = TOPICS.write(REPORTED.at("d-left"))
    left.link.publish(Message(topic=topic, payload=b"{}", retain=True))
    fleet = manager(broker, f"{TOPICS.root}/up/d-left/#")
    left.turn()
    fleet.until(lambda: bool(fleet.heard))
    left.close()
    provisioner.revoke("d-left")
    fleet.link.publish(Message(topic=topic, payload=b"", retain=True))
    fleet.until(lambda: fleet.link.unsent_bytes == 0 and len(fleet.heard) > 1)
    fleet.close()
    later = manager(broker, f"{TOPICS.root}/up/d-left/#")
    later.turn(0.2)
    assert not [m for m in later.heard if m.payload]
    later.close()
    provisioner.close()


def test_a_repeated_grant_replaces_the_password(broker: Mosquitto) -> None:
    provisioner = broker.provisioner()
    first = provisioner.grant("d-again")
    second = provisioner.grant("d-again")
    assert first != second
    assert "Not authorized" in refusal(broker.connection("d-again", first))
    device(broker, "d-again", second).close()
    provisioner.close()


@pytest.mark.parametrize("name", ["", "a#", "a/b", "+", "D-ONE", "a" * 64, "a\0b"])
def test_a_name_that_the_broker_would_accept_and_we_do_not(broker: Mosquitto, name: str) -> None:
    provisioner = broker.provisioner()
    with pytest.raises(RefusedError):
        provisioner.grant(name)
    provisioner.close()


def test_a_provisioner_whose_broker_is_gone_says_so_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fleet.ingest.provision.ANSWER_SECONDS", 0.5)
    away = Connection(url=f"mqtt://127.0.0.1:{free_port()}", client_id="x-1")
    provisioner = Provisioner(away, TOPICS)
    with pytest.raises(UnreachableError, match="Connection refused"):
        provisioner.grant("d-one")


def test_accounts_survive_a_killed_broker(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "home").start()
    try:
        provisioner = mosquitto.provisioner()
        password = provisioner.grant("d-one")
        mosquitto.kill()
        mosquitto.start()
        device(mosquitto, "d-one", password).close()
        assert provisioner.grant("d-two")
        provisioner.close()
    finally:
        mosquitto.stop()


def test_a_retained_message_of_the_largest_size_survives_a_restart(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "home").start()
    try:
        provisioner = mosquitto.provisioner()
        one = device(mosquitto, "d-one", provisioner.grant("d-one"))
        provisioner.close()
        topic = TOPICS.write(REPORTED.at("d-one"))
        one.link.publish(Message(topic=topic, payload=b"x" * 128 * 1024, retain=True))
        eventually(lambda: one.turn() == [] and one.link.unsent_bytes == 0)
        one.close()
        mosquitto.stop()
        mosquitto.start()
        fleet = manager(mosquitto)
        fleet.until(lambda: any(len(m.payload) == 128 * 1024 for m in fleet.heard))
        assert fleet.heard[0].retained
        fleet.close()
    finally:
        mosquitto.stop()


def test_the_accounts_are_for_the_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    layout = BrokerLayout(folder=tmp_path / "home")
    prepare_broker(layout, TOPICS)
    assert stat.S_IMODE(layout.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(layout.accounts_path.stat().st_mode) == 0o600
    with pytest.raises(ConflictError, match="already prepared"):
        prepare_broker(layout, TOPICS)


def test_the_shipped_configuration_is_the_rendered_one() -> None:
    """The same text is loaded by a real mosquitto in every other test of this file."""
    assert SHIPPED.read_text() == render_mosquitto_conf(
        BrokerLayout(
            folder=Path("/var/lib/mosquitto/fieldfare"),
            certificate=Path("/etc/mosquitto/certs/fieldfare.pem"),
            key=Path("/etc/mosquitto/certs/fieldfare.key"),
        ),
        Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so"),
    )


def test_the_shipped_configuration_is_loaded_by_mosquitto(tmp_path: Path) -> None:
    """Only its paths, ports and user are moved to places that a test may use."""
    from fleet.ingest.tls import create_dev_tls

    ca = create_dev_tls(tmp_path / "tls")
    mosquitto = Mosquitto(
        tmp_path / "home",
        certificate=tmp_path / "tls" / "server.pem",
        key=tmp_path / "tls" / "server.key",
    )
    text = (
        SHIPPED.read_text()
        .replace("/var/lib/mosquitto/fieldfare", str(mosquitto.layout.folder))
        .replace("/etc/mosquitto/certs/fieldfare.", f"{tmp_path}/tls/server.")
        .replace("listener 8883", f"listener {mosquitto.layout.device_port} 127.0.0.1")
        .replace("listener 8884", f"listener {mosquitto.layout.enrol_port} 127.0.0.1")
        .replace("/usr/lib/x86_64-linux-gnu", str(find_dynamic_security().parent))
    )
    user = f"user {mosquitto.layout.user}\n" if mosquitto.layout.user else ""
    (mosquitto.layout.folder / "mosquitto.conf").write_text(user + text)
    try:
        mosquitto.start()
        Listener(mosquitto.manager(ca), *TOPICS.of_manager()).close()
    finally:
        mosquitto.stop()
