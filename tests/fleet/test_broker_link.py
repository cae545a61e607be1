"""The manager's connection: many descriptors, other threads, outages, its own Will."""

import resource
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509

from fleet.errors import ConfigError, ConflictError, UnreachableError
from fleet.ingest.broker import BrokerLink
from fleet.ingest.embedded import EmbeddedBroker
from fleet.ingest.mail import Arrived, Connected, Connection, Disconnected, Message, News
from fleet.ingest.tls import create_dev_tls
from tests.brokers import TOPICS, Listener, Mosquitto, accepts, free_port

UP = f"{TOPICS.root}/up/d-one/presence"
DOWN = f"{TOPICS.root}/dn/d-one/ack"


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker") / "home").start()
    yield broker
    broker.stop()


def until(link: BrokerLink, kind: type[News], seconds: float = 20.0) -> News:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for news in link.poll(0.1):
            if isinstance(news, kind):
                return news
    raise AssertionError(f"no {kind} in {seconds} s")


@pytest.mark.broker
def test_it_works_above_1023_descriptors(mosquitto: Mosquitto) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"this machine allows only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    held = [socket.socket() for _ in range(1100)]
    try:
        listener = Listener(mosquitto.manager(), f"{TOPICS.root}/up/#")
        channel = listener.link._client.socket()
        assert channel.fileno() > 1023
        assert listener.link.publish(Message(topic=UP, payload=b"to myself"))
        listener.until(lambda: any(m.payload == b"to myself" for m in listener.heard))
        listener.close()
    finally:
        for extra in held:
            extra.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.broker
def test_another_thread_wakes_a_waiting_poll(mosquitto: Mosquitto) -> None:
    listener = Listener(mosquitto.manager(), f"{TOPICS.root}/up/#")
    waker = Thread(target=listener.link.wake)
    began = time.monotonic()
    waker.start()
    assert listener.link.poll(20.0) == []
    assert time.monotonic() - began < 5
    waker.join()
    listener.close()


@pytest.mark.broker
def test_what_was_not_settled_comes_again_and_what_was_does_not(mosquitto: Mosquitto) -> None:
    filters = ((f"{TOPICS.root}/up/#", 1),)
    first = BrokerLink(mosquitto.manager(), subscriptions=filters)
    until(first, Connected)
    for text in (b"settled", b"unsettled"):
        assert first.publish(Message(topic=UP, payload=text))
    heard: list[Arrived] = []
    while len(heard) < 2:
        heard += [news for news in first.poll(1.0) if isinstance(news, Arrived)]
    assert [m.payload for m in heard] == [b"settled", b"unsettled"]
    first.settle(heard[:1])
    first.close()
    second = BrokerLink(mosquitto.manager(), subscriptions=filters)
    again = until(second, Arrived)
    assert isinstance(again, Arrived)
    assert again.payload == b"unsettled"
    second.settle([again])
    second.close()


@pytest.mark.broker
def test_its_will_is_published_when_it_dies_and_not_when_it_stops(mosquitto: Mosquitto) -> None:
    presence = f"{TOPICS.root}/srv/main/presence"
    will = Message(topic=presence, payload=b"offline", retain=True)
    provisioner = mosquitto.provisioner()
    device = Listener(mosquitto.connection("d-one", provisioner.grant("d-one")), presence)
    provisioner.close()
    for dies in (True, False):
        device.heard.clear()
        link = BrokerLink(
            mosquitto.manager(), subscriptions=((f"{TOPICS.root}/up/#", 1),), will=will
        )
        until(link, Connected)
        if dies:
            link._client.socket().shutdown(socket.SHUT_RDWR)
            device.until(lambda: b"offline" in [m.payload for m in device.heard])
            until(link, Connected)
            link.close()
        else:
            link.close(Message(topic=presence, payload=b"stopped", retain=True))
            device.until(lambda: b"stopped" in [m.payload for m in device.heard])
            assert device.heard[-1].payload == b"stopped"
    device.close()


def test_an_unreachable_broker_is_news_and_not_an_exception() -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    link = BrokerLink(
        Connection(url=url, client_id="m", longest_wait_seconds=0.2), subscriptions=()
    )
    for _ in range(3):
        news = until(link, Disconnected)
        assert isinstance(news, Disconnected)
        assert news.why == f"broker {url} cannot be reached: Connection refused"
    assert not link.publish(Message(topic=UP, payload=b"x"))
    link.close()


def test_an_address_of_another_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="mqtt://host:port"):
        Connection(url="https://broker", client_id="m")


def test_the_embedded_broker_listens_on_loopback_only_and_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    broker = EmbeddedBroker(tmp_path, port)
    broker.start()
    assert accepts(port)
    assert 'listen = "127.0.0.1:' in (tmp_path / "embedded.toml").read_text()
    assert "isolation=none" in caplog.text
    second = EmbeddedBroker(tmp_path / "second", port)
    with pytest.raises(UnreachableError, match="did not start"):
        second.start()
    broker.stop()
    broker.stop()
    assert not accepts(port)


def test_development_certificates_name_the_host_and_keep_their_keys(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    ca = create_dev_tls(folder, ("broker.example", "192.0.2.7"))
    assert (folder / "ca.pem").read_text() == ca
    for key in ("ca.key", "server.key"):
        assert stat.S_IMODE((folder / key).stat().st_mode) == 0o600
    server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "broker.example"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "192.0.2.7"} <= addresses
    with pytest.raises(ConflictError, match="not overwritten"):
        create_dev_tls(folder)
    assert (folder / "ca.pem").read_text() == ca


@pytest.mark.broker
def test_a_poll_ends_when_most_of_what_waited_has_been_sent(mosquitto: Mosquitto) -> None:
    fleet = Listener(mosquitto.manager(), f"{TOPICS.root}/up/#")
    for _ in range(32):
        assert fleet.link.publish(Message(topic=DOWN, payload=bytes(100_000), qos=0))
    began = time.monotonic()
    assert fleet.link.poll(20.0, until_unsent_bytes=200_000) == []
    assert fleet.link.unsent_bytes <= 200_000
    assert time.monotonic() - began < 10
    fleet.close()
