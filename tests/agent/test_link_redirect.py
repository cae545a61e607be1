"""The link is sent elsewhere while it runs, and says of each piece of news where it is from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.link.connection import Connection
from agent.link.inbox import Connected, Disconnected, Inbox, Refused
from agent.link.patience import Pace
from agent.link.session import Broker
from tests.brokers import TOPICS, Mosquitto, free_port, next_of

pytestmark = pytest.mark.broker
DEVICE = "d-aaaaaaaaaaaaaaaa"
PATIENT = Pace(first_seconds=0.0, shortest_seconds=100.0, longest_seconds=100.0)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mosquitto, Mosquitto]]:
    both = [Mosquitto(tmp_path_factory.mktemp(name) / "home").start() for name in ("a", "b")]
    yield both[0], both[1]
    for broker in both:
        broker.stop()


def password(broker: Mosquitto) -> str:
    provisioner = broker.provisioner()
    secret = provisioner.grant(DEVICE)
    provisioner.close()
    return secret


def a_link(url: str, secret: str, inbox: Inbox) -> Broker:
    return Broker(
        Connection(url=url, username=DEVICE, password=secret, client_id=DEVICE),
        TOPICS,
        inbox,
        subscriptions=TOPICS.heard_by_device(DEVICE),
        pace=PATIENT,
    )


def test_a_connection_moves_at_once_and_in_order(brokers, tmp_path: Path):
    first, second = brokers
    secret, inbox = password(first), Inbox()
    link = a_link(first.url, secret, inbox)
    link.start()
    assert next_of(inbox, Connected).place == 0
    link.redirect(second.url, "", 1, at_once=True)
    assert next_of(inbox, Disconnected).retry_seconds == 0.0
    refused = next_of(inbox, Refused)  # it has no account there, and is not asked again soon
    assert refused.place == 1
    assert refused.retry_seconds >= 50.0
    link.redirect(first.url, "", 2, at_once=True)
    assert next_of(inbox, Connected).place == 2
    link.stop()


def test_a_redirection_that_is_not_urgent_waits_for_the_next_attempt(brokers):
    first, _ = brokers
    secret, inbox = password(first), Inbox()
    link = a_link(f"mqtt://127.0.0.1:{free_port()}", secret, inbox)
    link.start()
    assert next_of(inbox, Refused).place == 0
    link.redirect(first.url, "", 1, at_once=False)
    assert inbox.get(0.5) is None
    link.redirect(first.url, "", 2, at_once=True)
    assert next_of(inbox, Connected).place == 2
    link.stop()
