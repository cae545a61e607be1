"""MQTT over WebSocket and through HTTP proxies, device and manager, with a real mosquitto."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from agent.contract.proxy import Proxies
from agent.contract.topics import ACK, EVENT
from agent.errors import ConfigError
from agent.link.connection import Connection, Outgoing
from agent.link.inbox import Arrived, Connected, Disconnected, Inbox, Refused
from agent.link.patience import Pace
from agent.link.session import Broker
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Connected as ManagerConnected
from fleet.ingest.mail import Connection as ManagerConnection
from fleet.ingest.mail import Disconnected as ManagerDisconnected
from fleet.ingest.mail import Message
from fleet.ingest.rights import MANAGER_USER
from fleet.ingest.tls import create_dev_tls
from tests.brokers import TOPICS, Listener, Mosquitto, next_of
from tests.proxies import FORBIDDEN, HttpProxy

DEVICE = "d-one"
QUICK = Pace(first_seconds=0.0, shortest_seconds=0.1, longest_seconds=0.4)
pytestmark = pytest.mark.broker


class Place:
    """One broker with TLS and WebSocket, and an account of one device."""

    def __init__(self, folder: Path) -> None:
        self.ca = create_dev_tls(folder / "tls")
        self.mosquitto = Mosquitto(
            folder / "broker",
            certificate=folder / "tls" / "server.pem",
            key=folder / "tls" / "server.key",
            websockets=True,
        ).start()
        provisioner = self.mosquitto.provisioner()
        provisioner._connection = self.manager(self.mosquitto.url, user="fieldfare-provisioner")
        self.password = provisioner.grant(DEVICE)
        provisioner.close()

    def manager(
        self, url: str, proxies: str | None = "none", user: str = MANAGER_USER, ca: str = ""
    ) -> ManagerConnection:
        accounts = self.mosquitto.accounts
        return ManagerConnection(
            url=url,
            ca=ca or self.ca,
            username=user,
            password=accounts.manager if user == MANAGER_USER else accounts.provisioner,
            client_id=user,
            connect_timeout_seconds=2.0,
            longest_wait_seconds=0.5,
            proxies=Proxies(proxies),
        )

    def device(self, url: str, proxies: str | None = "none", ca: str = "") -> Connection:
        return Connection(
            url=url,
            ca=ca or self.ca,
            username=DEVICE,
            password=self.password,
            client_id=DEVICE,
            connect_timeout_seconds=2.0,
            proxies=Proxies(proxies),
        )

    def url(self, scheme: str) -> str:
        return self.mosquitto.url if scheme == "mqtts" else self.mosquitto.wss_url


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    found = Place(tmp_path_factory.mktemp("place"))
    yield found
    found.mosquitto.stop()


def link(connection: Connection, inbox: Inbox) -> Broker:
    heard = TOPICS.heard_by_device(DEVICE)
    return Broker(connection, TOPICS, inbox, subscriptions=heard, pace=QUICK)


def refusal(connection: Connection) -> str:
    """Return why a device's link does not come about."""
    inbox = Inbox()
    broker = link(connection, inbox)
    broker.start()
    why = next_of(inbox, Refused).reason
    broker.stop()
    return why


def manager_refusal(connection: ManagerConnection) -> str:
    broker = BrokerLink(connection, subscriptions=())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for news in broker.poll(0.5):
            assert not isinstance(news, ManagerConnected)
            if isinstance(news, ManagerDisconnected):
                broker.close()
                return news.why
    raise AssertionError("nothing was said")


def exchange_both_ways(device: Connection, manager: ManagerConnection) -> None:
    """A small report up, and down an answer that fills many TLS records and frames."""
    inbox, answer = Inbox(), bytes(range(256)) * 500
    fleet = Listener(manager, *TOPICS.of_manager())
    broker = link(device, inbox)
    broker.start()
    next_of(inbox, Connected)
    for number in range(20):
        broker.publish(Outgoing(address=EVENT.at(DEVICE, "alarm"), payload=b"%d" % number))
    fleet.until(lambda: len(fleet.heard) == 20)
    assert [message.payload for message in fleet.heard] == [b"%d" % n for n in range(20)]
    for _ in range(3):
        fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=answer))
    for _ in range(3):
        while fleet.link.unsent_bytes:
            fleet.turn()
        message = next_of(inbox, Arrived)
        assert message.payload == answer
        broker.settle(message)
    broker.stop()
    fleet.close()


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
@pytest.mark.parametrize("through", ["straight", "proxy", "proxy with a password"])
def test_device_and_manager_speak_in_every_way(place: Place, scheme: str, through: str) -> None:
    url = place.url(scheme)
    if through == "straight":
        exchange_both_ways(place.device(url), place.manager(url))
        return
    login = "me:ge%3Aheim" if "password" in through else ""
    with HttpProxy(login=login.replace("%3A", ":")) as proxy:
        setting = proxy.url.replace("//", f"//{login}@") if login else proxy.url
        exchange_both_ways(place.device(url, setting), place.manager(url, setting))
        port = url.rsplit(":", 1)[1].split("/")[0]
        assert proxy.asked == [f"127.0.0.1:{port}"] * 2


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_small_packets_are_sent_at_once_in_every_way(place: Place, scheme: str) -> None:
    with HttpProxy() as proxy:
        for setting in ("none", proxy.url):
            inbox = Inbox()
            broker = link(place.device(place.url(scheme), setting), inbox)
            broker.start()
            next_of(inbox, Connected)
            with socket.socket(fileno=socket.dup(broker._wire._client.socket().fileno())) as same:
                assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            broker.stop()


def test_what_waits_for_a_device_on_a_slow_link_does_not_keep_it_from_connecting(
    place: Place,
) -> None:
    # mosquitto sends some 40 kB a second over WebSocket, and what waits before the subscription
    first = Inbox()
    broker = link(place.device(place.mosquitto.url), first)
    broker.start()
    next_of(first, Connected)
    broker.stop()
    fleet, waiting = Listener(place.manager(place.mosquitto.url)), bytes(120_000)
    fleet.link.publish(Message(topic=TOPICS.write(ACK.at(DEVICE)), payload=waiting))
    while fleet.link.unsent_bytes:
        fleet.turn()
    fleet.close()
    inbox = Inbox()
    broker = link(
        replace(place.device(place.mosquitto.wss_url), connect_timeout_seconds=1.5), inbox
    )
    broker.start()
    seen: list[object] = []
    while len(seen) < 2:
        item = inbox.get(20)
        assert item is not None
        seen.append(item)
        if isinstance(item, Arrived):
            broker.settle(item)
    broker.stop()
    assert {type(item) for item in seen} == {Arrived, Connected}


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_another_authority_is_not_believed_over_websocket_either(
    place: Place, tmp_path: Path, scheme: str
) -> None:
    strange = create_dev_tls(tmp_path)
    url = place.url(scheme)
    with HttpProxy() as proxy:
        for setting in ("none", proxy.url):
            assert "is not believed" in refusal(place.device(url, setting, ca=strange))
            assert "is not believed" in manager_refusal(place.manager(url, setting, ca=strange))


def test_a_name_that_the_certificate_does_not_bear_is_not_believed(place: Place) -> None:
    url = place.mosquitto.wss_url.replace("127.0.0.1", "127.0.0.2")
    assert "is not believed" in refusal(place.device(url))
    assert "is not believed" in manager_refusal(place.manager(url))


@pytest.mark.parametrize(
    ("options", "login", "says"),
    [
        pytest.param({"login": "me:x"}, "", "wants a user name and a password", id="who are you"),
        pytest.param({"login": "me:x"}, "me:y@", "does not take this user name", id="not you"),
        pytest.param({"answer": FORBIDDEN}, "", "forbids this address", id="not there"),
        pytest.param({"answer": None}, "", "does not answer: is it a proxy", id="silence"),
        pytest.param({"answer": b"SSH-2.0-x\r\n\r\n"}, "", "not answer as an HTTP", id="no proxy"),
        pytest.param({"answer": b"HTTP/1.1 200 OK\r\n"}, "", "not answer as an HTTP", id="cut off"),
        pytest.param({"answer": b"x" * 40_000}, "", "not answer as an HTTP", id="a flood"),
    ],
)
def test_a_proxy_that_does_not_help_is_named_with_its_reason(
    place: Place, options: dict[str, object], login: str, says: str
) -> None:
    with HttpProxy(**options) as proxy:
        setting = proxy.url.replace("//", f"//{login}")
        for why in (
            refusal(place.device(place.mosquitto.url, setting)),
            manager_refusal(place.manager(place.mosquitto.wss_url, setting)),
        ):
            assert why.startswith(f"proxy 127.0.0.1:{proxy.port} ")
            assert says in why
            assert "me:" not in why


def test_a_proxy_that_is_away_is_named(place: Place) -> None:
    with HttpProxy() as proxy:
        pass
    why = refusal(place.device(place.mosquitto.url, proxy.url))
    assert why == f"proxy 127.0.0.1:{proxy.port} cannot be reached: Connection refused"


def test_a_broker_behind_a_proxy_that_is_away_is_told_from_the_proxy(place: Place) -> None:
    with HttpProxy() as proxy:
        assert "does not reach the broker" in refusal(
            place.device("mqtts://127.0.0.1:1", proxy.url)
        )


def test_a_device_returns_when_its_proxy_does(place: Place) -> None:
    inbox = Inbox()
    with HttpProxy() as proxy:
        broker = link(place.device(place.mosquitto.wss_url, proxy.url), inbox)
        broker.start()
        next_of(inbox, Connected)
    next_of(inbox, Disconnected)
    next_of(inbox, Refused)
    with HttpProxy(port=proxy.port):
        next_of(inbox, Connected)
        broker.stop()


def test_a_web_server_is_told_from_a_broker(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                stream, _ = server.accept()
                stream.recv(4096)
                stream.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                stream.close()

        thread = Thread(target=serve)
        thread.start()
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/nothing"
        assert "not with MQTT over WebSocket" in refusal(place.device(url))
        assert "not with MQTT over WebSocket" in manager_refusal(place.manager(url))
        thread.join()


def drip(server: socket.socket, enough: Event) -> None:
    """Answer each connection with a byte now and then, and never come to an end."""
    with suppress(OSError):
        while not enough.is_set():
            stream, _ = server.accept()
            with stream, suppress(OSError):
                while not enough.wait(0.05):
                    stream.sendall(b"x")


def test_a_server_that_drips_its_answer_is_left_in_time(place: Place) -> None:
    enough = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=drip, args=(server, enough))
        thread.start()
        url = f"ws://127.0.0.1:{server.getsockname()[1]}/mqtt"
        try:
            assert "not with MQTT over WebSocket" in refusal(place.device(url))
            assert "not with MQTT over WebSocket" in manager_refusal(place.manager(url))
        finally:
            enough.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("url", ["ws://broker.example/mqtt", "wss://b.example/a b", "wss://b?x=1"])
def test_an_address_that_would_be_heard_or_misread_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="broker address"):
        Connection(url=url, client_id="x")
