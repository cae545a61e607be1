"""The certificate's half of rows 18 and 19, at a real mosquitto that asks for certificates."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from agent.disk import Disk
from agent.identity.certificate import install, restore_identity
from fleet.errors import UnreachableError
from fleet.ingest.broker import BrokerLink
from fleet.ingest.certified_accounts import CertifiedAccounts
from fleet.ingest.client_authority import ClientAuthority
from fleet.ingest.mail import Connected, Connection, Disconnected, Message
from fleet.ingest.provision import PROVISIONER_USER, Provisioner
from fleet.ingest.rights import MANAGER_USER
from fleet.ingest.tls import create_dev_tls
from tests.brokers import TOPICS, Listener, Mosquitto, eventually

pytestmark = pytest.mark.broker


class Guarded:
    """A broker that admits nobody without a certificate, and those of its own accounts."""

    def __init__(self, folder: Path) -> None:
        now = datetime.now(UTC)
        self.folder = folder
        self.ca = create_dev_tls(folder / "tls")
        clients = folder / "broker" / "clients"
        ClientAuthority.create(clients, "demo", now)
        self.authority = ClientAuthority(clients, required=True)
        self.own = {
            u: self.authority.own_identity(u, now) for u in (MANAGER_USER, PROVISIONER_USER)
        }
        self.mosquitto = Mosquitto(
            folder / "broker",
            certificate=folder / "tls" / "server.pem",
            key=folder / "tls" / "server.key",
            clients=clients,
        ).start()
        self.accounts = CertifiedAccounts(
            Provisioner(self.connection(PROVISIONER_USER), TOPICS),
            self.authority,
            folder / "broker",
        )

    def connection(self, user: str, identity: Path | None = None) -> Connection:
        plain = self.mosquitto.connection(user, "", self.ca)
        return replace(plain, username=None, password=None, identity=identity or self.own.get(user))

    def device(self, name: str) -> Connection:
        """Make a device's account and certificate, as enrolment does."""
        assert self.accounts.grant(name) is None
        key, disk = SigningKey.generate(), Disk(self.folder / name)
        public = bytes(key.verify_key).hex()
        install(disk, key, self.authority.issue(name, public, datetime.now(UTC)))
        return self.connection(name, restore_identity(disk))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    place = Guarded(tmp_path_factory.mktemp("guarded"))
    yield place
    place.accounts.close()
    place.mosquitto.stop()


def inbox(name: str) -> str:
    return f"{TOPICS.root}/dn/{name}/#"


def is_shut_out(connection: Connection, *filters: str) -> bool:
    """Whether an attempt to connect and to subscribe ends without success."""
    link = BrokerLink(connection, subscriptions=tuple((name, 1) for name in filters))
    seen: list[bool] = []

    def ended() -> bool:
        for news in link.poll(0.1):
            match news:
                case Connected():
                    seen.append(False)
                case Disconnected():
                    seen.append(True)
        return bool(seen)

    try:
        eventually(ended, 10)
    finally:
        link.close()
    return seen[0]


def test_a_device_with_its_certificate_is_served_without_a_password(guarded: Guarded):
    device = Listener(guarded.device("d-good"), inbox("d-good"))
    fleet = Listener(guarded.connection(MANAGER_USER), *TOPICS.of_manager())
    fleet.link.publish(Message(topic=f"{TOPICS.root}/dn/d-good/ack", payload=b"yes"))
    fleet.turn()
    device.until(lambda: bool(device.heard))
    device.link.publish(Message(topic=f"{TOPICS.root}/up/d-good/evt/alarm", payload=b"no"))
    device.turn()
    fleet.until(lambda: bool(fleet.heard))
    device.close()
    fleet.close()


def test_attack_18_a_certificate_is_no_other_devices_whatever_it_calls_itself(guarded: Guarded):
    victim = Listener(guarded.device("d-victim"), inbox("d-victim"))
    culprit = guarded.device("d-culprit")
    liar = replace(culprit, client_id="d-victim", username="d-victim", password="x")
    assert is_shut_out(liar, inbox("d-victim"))
    manager = replace(culprit, client_id=MANAGER_USER, username=MANAGER_USER, password="x")
    assert is_shut_out(manager, f"{TOPICS.root}/up/#")
    victim.turn(0.3)
    assert not [news for news in victim.news if isinstance(news, Disconnected)]
    victim.close()


def test_attack_19_a_device_without_a_certificate_or_with_a_strangers_is_shut_out(
    guarded: Guarded, tmp_path: Path
):
    guarded.device("d-bare")
    bare = replace(guarded.connection("d-bare"), identity=None)
    assert is_shut_out(bare)
    password = guarded.mosquitto.accounts.manager
    assert is_shut_out(
        replace(bare, client_id=MANAGER_USER, username=MANAGER_USER, password=password)
    )
    other = ClientAuthority.create(tmp_path / "other", "demo", datetime.now(UTC))
    forged = other.own_identity("d-bare", datetime.now(UTC))
    assert is_shut_out(guarded.connection("d-bare", forged))


def test_attack_19_the_password_that_stands_for_a_device_is_known_to_nobody(guarded: Guarded):
    guarded.device("d-silent")
    strangers = replace(
        guarded.connection("d-silent"), url=guarded.mosquitto.enrol_url, identity=None
    )
    for password in (None, "", "d-silent"):
        assert is_shut_out(replace(strangers, username="d-silent", password=password))


def test_attack_19_a_revoked_certificate_is_cut_off_and_stays_out(guarded: Guarded):
    gone, other = guarded.device("d-gone"), guarded.device("d-other")
    live, neighbour = Listener(gone, inbox("d-gone")), Listener(other, inbox("d-other"))
    guarded.accounts.revoke("d-gone")
    live.until(lambda: any(isinstance(news, Disconnected) for news in live.news))
    live.close()
    assert is_shut_out(gone)
    neighbour.turn(0.3)
    assert not [news for news in neighbour.news if isinstance(news, Disconnected)]
    neighbour.close()
    assert not is_shut_out(other, inbox("d-other"))


def test_attack_19_a_revoked_certificate_stays_out_when_its_account_returns(guarded: Guarded):
    back = guarded.device("d-back")
    guarded.accounts.revoke("d-back")
    guarded.accounts.grant("d-back")
    eventually(lambda: is_shut_out(back), 10)
    assert is_shut_out(back)


def test_attack_19_a_device_is_cut_off_also_where_the_broker_cannot_be_told(guarded: Guarded):
    gone = guarded.device("d-untold")
    live = Listener(gone, inbox("d-untold"))
    number = guarded.folder / "broker" / "mosquitto.pid"
    kept = number.read_text()
    number.unlink()
    with pytest.raises(UnreachableError, match="no mosquitto runs"):
        guarded.accounts.revoke("d-untold")
    live.until(lambda: any(isinstance(news, Disconnected) for news in live.news))
    live.close()
    assert is_shut_out(gone, inbox("d-untold"))
    number.write_text(kept)
    guarded.accounts.revoke("d-untold")
    eventually(lambda: is_shut_out(gone), 10)


def test_attack_19_many_are_revoked_within_one_second(guarded: Guarded):
    names = [f"d-many{number}" for number in range(5)]
    devices = [guarded.device(name) for name in names]
    for name in names:
        guarded.accounts.revoke(name)
        guarded.accounts.grant(name)
    for device in devices:
        eventually(lambda device=device: is_shut_out(device), 10)


def test_attack_19_a_revocation_survives_a_restart_of_the_broker(tmp_path: Path):
    place = Guarded(tmp_path)
    gone = place.device("d-gone")
    place.accounts.revoke("d-gone")
    place.accounts.close()
    place.mosquitto.kill()
    place.mosquitto.start()
    assert is_shut_out(gone)
    assert not is_shut_out(place.connection(MANAGER_USER), *TOPICS.of_manager())
    place.mosquitto.stop()
