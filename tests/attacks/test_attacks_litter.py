"""Rows 17 and 21: what strangers and devices have the broker keep, until it is full."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.contract.limits import enrol_seat
from agent.contract.topics import ENROL_REQUEST, EVENT, PRESENCE, Topics
from fleet.ingest.broker import BrokerLink
from fleet.ingest.litter import take_away
from fleet.ingest.mail import Arrived, Connected, Message
from fleet.ingest.mosquitto import ENROL_USER, MANAGER_USER
from fleet.service import loop
from tests.brokers import Listener, eventually
from tests.fleet.test_manager_loop import Home, Manager

LATER = "ff" * 16


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    made.kill_broker()


def leave(link: BrokerLink, topics: list[str]) -> None:
    """Have the broker keep a message on each topic, and wait until it has them."""
    while not any(isinstance(news, Connected) for news in link.poll(1)):
        pass
    for topic in topics:
        assert link.publish(Message(topic=topic, payload=b'{"left":"here"}', retain=True))
    eventually(lambda: link.poll(0.05) == [] and link.unsent_bytes == 0)
    link.close()


def stranger(home: Home) -> BrokerLink:
    seat = enrol_seat(ENROL_USER, 7)
    connection = home.connection(seat, home.config.secret("enrol-password"))
    enrolment = replace(connection, url=home.config.broker.enrol_url)
    return BrokerLink(enrolment, subscriptions=())


def lies(home: Home) -> set[str]:
    """What the broker keeps of what the manager can read; the manager is not running."""
    password = home.config.secret("manager-password")
    listener = Listener(home.connection(MANAGER_USER, password), *home.topics.of_manager())
    for _ in range(10):
        listener.turn()
    listener.close()
    return {message.topic for message in listener.heard if message.retained and message.payload}


@pytest.mark.broker
def test_attack_17_what_is_left_lying_is_taken_away(home: Home, monkeypatch: pytest.MonkeyPatch):
    taken: set[str] = set()

    def counted(topics: Topics, message: Arrived) -> Message | None:
        found = take_away(topics, message)
        if found is not None:
            taken.add(found.topic)
        return found

    monkeypatch.setattr(loop, "take_away", counted)
    topics, device = home.topics, home.device.id
    left = [f"{topics.root}/enrol/req/{number:032x}" for number in range(20)]
    left += [f"{topics.root}/enrol/req/no nonce at all"]
    own = [topics.write(EVENT.at(device, f"kind-{number}")) for number in range(20)]
    own += [f"{topics.root}/up/{device}/nothing/of/ours"]
    leave(stranger(home), left)  # before the manager is there
    assert lies(home) >= set(left)
    manager = Manager(home.config)
    try:
        leave(BrokerLink(home.connection(device, home.password), subscriptions=()), own)
        leave(stranger(home), [f"{topics.root}/enrol/req/{LATER}"])  # and while it is
        eventually(lambda: len(taken) == len(left) + len(own) + 1)
    finally:
        manager.stop()
    assert {topic for topic in lies(home) if not topic.endswith("/presence")} == set()


def test_attack_17_only_what_may_be_kept_is_left():
    topics = Topics(fleet="demo")
    presence = topics.write(PRESENCE.at("d-1"))
    asked = topics.write(ENROL_REQUEST.at(LATER))
    for topic, payload, retained, taken in (
        (presence, b"x", True, False),
        (asked, b"x", True, True),
        (asked, b"x", False, False),
        (asked, b"", True, False),
        (f"{topics.root}/up/d-1/anything", b"x", True, True),
    ):
        found = take_away(topics, Arrived(topic=topic, payload=payload, retained=retained))
        assert (found is not None) == taken
        assert found is None or (found.topic, found.payload, found.retain) == (topic, b"", True)
