"""A revocation that a killed manager only recorded is carried out by the next one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Connected, Disconnected
from fleet.ingest.mosquitto import PROVISIONER_USER
from fleet.ingest.provision import Provisioner
from fleet.service.desk import open_desk
from tests.brokers import eventually
from tests.fleet.test_manager_loop import Home, Manager

pytestmark = pytest.mark.broker


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    made.kill_broker()


def is_let_in(home: Home) -> bool:
    link = BrokerLink(home.connection(home.device.id, home.password), subscriptions=())
    try:
        while True:
            for news in link.poll(5):
                if isinstance(news, Connected | Disconnected):
                    return isinstance(news, Connected)
    finally:
        link.close()


def test_account_and_retained_assignment_of_a_revoked_device_go_at_the_next_start(home: Home):
    first = Manager(home.config)
    there = home.listener()
    there.until(lambda: bool(there.heard))
    there.close()
    first.stop()
    assert is_let_in(home)
    desk = open_desk(home.config, "", lambda _run, _word: None)
    desk.registry.devices.revoke(home.device.id, at_ms=2)  # and the manager is killed here
    desk.registry.close()

    second = Manager(home.config)
    try:
        eventually(lambda: not is_let_in(home))
        secret = home.config.secret("provisioner-password")
        provisioner = Provisioner(home.connection(PROVISIONER_USER, secret), home.topics)
        home.password = provisioner.grant(home.device.id)
        provisioner.close()
        again = home.listener()
        for _ in range(20):
            again.turn()
        again.close()
        assert [message for message in again.heard if message.payload] == []
    finally:
        second.stop()
