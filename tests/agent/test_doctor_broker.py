"""The doctor before real brokers: how far the way is open, and whose move it is."""

from datetime import timedelta
from pathlib import Path

import pytest

from agent.contract.proxy import Proxies
from agent.doctor.facts import Deaf, Mute, NoName, NoPort, NoTls, NotTried, Open, Refused, Way
from agent.doctor.login import check_way
from agent.doctor.reach import FAR_ALL, FAR_PORT, FAR_TLS, knock, log_in
from agent.identity.enrol import Credentials
from fleet.ingest.provision import PROVISIONER_USER, Provisioner
from fleet.ingest.tls import create_dev_tls
from tests.brokers import Mosquitto, free_port
from tests.certificates import HOUR, make_certificates
from tests.proxies import FORBIDDEN, HttpProxy

pytestmark = pytest.mark.broker

DEVICE = "d-one"
PASSWORD = "correct horse battery"
ALL_RIGHTS = ("publishClientSend", "publishClientReceive", "subscribePattern")


def tls_broker(folder: Path, certificates: Path) -> Mosquitto:
    """Start a broker with these certificates; no device has an account there."""
    return Mosquitto(
        folder, certificate=certificates / "server.pem", key=certificates / "server.key"
    ).start()


def with_account(broker: Mosquitto, *, rights: tuple[str, ...] = ALL_RIGHTS, ca: str = "") -> None:
    """Make the account of one device that has these kinds of rights and no others."""
    reads = broker.topics.of_device(DEVICE)
    wanted = [("publishClientSend", f"{broker.topics.root}/up/{DEVICE}/#")]
    wanted += [(kind, topic) for topic in reads for kind in ALL_RIGHTS[1:]]
    acls = [
        {"acltype": kind, "topic": topic, "priority": 0, "allow": True}
        for kind, topic in wanted
        if kind in rights
    ]
    account = broker.connection(PROVISIONER_USER, broker.accounts.provisioner, ca)
    provisioner = Provisioner(account, broker.topics)
    role = f"device-{DEVICE}"
    provisioner._ask(
        {"command": "createRole", "rolename": role, "acls": acls},
        {
            "command": "createClient",
            "username": DEVICE,
            "clientid": DEVICE,
            "password": PASSWORD,
            "roles": [{"rolename": role, "priority": 0}],
        },
    )
    provisioner.close()


def mosquitto_with(folder: Path, *, rights: tuple[str, ...] = ALL_RIGHTS) -> Mosquitto:
    """Start a broker without TLS, with the account of one device."""
    broker = Mosquitto(folder).start()
    with_account(broker, rights=rights)
    return broker


def credentials(broker: Mosquitto, ca: str = "", password: str = PASSWORD) -> Credentials:
    return Credentials(
        device=DEVICE,
        fleet=broker.topics.fleet,
        broker_url=broker.url,
        broker_ca=ca,
        username=DEVICE,
        password=password,
    )


def sentence(way: Way, *, clock_is_wrong: bool = False) -> str:
    found = check_way("broker", way, clock_is_wrong=clock_is_wrong)
    assert found.state == "fail"
    return found.why


def test_a_device_with_all_its_rights_is_taken(tmp_path):
    broker = mosquitto_with(tmp_path / "broker")
    way = log_in(credentials(broker), 3600)
    broker.stop()
    assert way == Open(f"127.0.0.1:{broker.layout.device_port}", FAR_ALL)
    assert check_way("broker", way, clock_is_wrong=False).state == "ok"


def test_a_wrong_password_is_told_from_a_broker_that_is_away(tmp_path):
    broker = mosquitto_with(tmp_path / "broker")
    way = log_in(credentials(broker, password="another"), 3600)
    broker.stop()
    away = log_in(credentials(broker), 3600)
    assert isinstance(way, Refused)
    assert way.code in {0x86, 0x87}
    assert "enrol it again" in sentence(way)
    assert isinstance(away, NoPort)
    assert "does the broker run" in sentence(away)


def test_a_revoked_device_is_refused(tmp_path):
    broker = mosquitto_with(tmp_path / "broker")
    provisioner = broker.provisioner()
    provisioner.grant("d-two")
    provisioner.revoke(DEVICE)
    provisioner.close()
    way = log_in(credentials(broker), 3600)
    broker.stop()
    assert isinstance(way, Refused)
    assert "was revoked" in sentence(way)


def test_a_device_that_may_not_subscribe_is_told_so(tmp_path):
    broker = mosquitto_with(tmp_path / "broker", rights=("publishClientSend",))
    way = log_in(credentials(broker), 3600)
    broker.stop()
    assert isinstance(way, Deaf)
    assert way.code == 0x87
    assert "not listen" in sentence(way)


def test_a_device_that_may_not_publish_is_told_so(tmp_path):
    rights = ("publishClientReceive", "subscribePattern")
    broker = mosquitto_with(tmp_path / "broker", rights=rights)
    way = log_in(credentials(broker), 3600)
    broker.stop()
    assert isinstance(way, Mute)
    assert way.code == 0x87
    assert "not report" in sentence(way)


def test_a_certificate_of_our_authority_for_this_address_is_believed(tmp_path):
    ca = make_certificates(tmp_path / "tls")
    broker = tls_broker(tmp_path / "broker", tmp_path / "tls")
    with_account(broker, ca=ca)
    ways = knock(broker.url, ca), log_in(credentials(broker, ca), 3600)
    broker.stop()
    assert [way.far for way in ways if isinstance(way, Open)] == [FAR_TLS, FAR_ALL]


def bad_certificate(tmp_path: Path, **wrong: object) -> NoTls:
    ca = make_certificates(tmp_path / "tls", **wrong)
    broker = tls_broker(tmp_path / "broker", tmp_path / "tls")
    way = log_in(credentials(broker, ca), 3600)
    broker.stop()
    assert isinstance(way, NoTls)
    return way


def test_a_certificate_that_is_not_yet_valid_is_blamed_on_the_clock(tmp_path):
    way = bad_certificate(tmp_path, begins=HOUR, ends=2 * HOUR)
    assert "clock" in sentence(way)


def test_a_certificate_that_ran_out_is_blamed_on_the_clock_only_where_that_is_wrong(tmp_path):
    way = bad_certificate(tmp_path, begins=-2 * HOUR, ends=-timedelta(seconds=60))
    assert "has to renew it" in sentence(way)
    assert "timedatectl" in sentence(way, clock_is_wrong=True)


def test_a_certificate_for_another_host_is_told(tmp_path):
    way = bad_certificate(tmp_path, host="other.example")
    assert "does not name this address" in sentence(way)


def test_a_certificate_of_another_authority_is_told(tmp_path):
    make_certificates(tmp_path / "tls")
    other = create_dev_tls(tmp_path / "other")
    broker = tls_broker(tmp_path / "broker", tmp_path / "tls")
    way = log_in(credentials(broker, other), 3600)
    broker.stop()
    assert "another authority" in sentence(way)


def test_tls_on_a_port_that_speaks_none_is_told(tmp_path):
    ca = create_dev_tls(tmp_path / "tls")
    broker = mosquitto_with(tmp_path / "broker")
    way = knock(broker.url.replace("mqtt:", "mqtts:"), ca)
    broker.stop()
    assert isinstance(way, NoTls)
    assert "right port" in sentence(way)


def test_a_port_that_wants_tls_and_gets_none_is_told(tmp_path):
    make_certificates(tmp_path / "tls")
    broker = tls_broker(tmp_path / "broker", tmp_path / "tls")
    plain = credentials(broker)
    url = plain.broker_url.replace("mqtts:", "mqtt:")
    way = log_in(Credentials(device=DEVICE, fleet="demo", broker_url=url), 3600)
    broker.stop()
    assert isinstance(way, Refused)
    assert "mqtts://" in sentence(way)


def test_a_name_that_leads_nowhere_is_told_from_a_closed_port():
    assert isinstance(knock("mqtt://no-such-host.invalid:1883", ""), NoName)
    assert isinstance(knock(f"mqtt://127.0.0.1:{free_port()}", ""), NoPort)
    assert isinstance(knock("http://127.0.0.1", ""), NotTried)


@pytest.mark.parametrize("websockets", [False, True])
def test_the_way_through_a_proxy_is_gone_to_its_end(tmp_path, websockets):
    ca = create_dev_tls(tmp_path / "tls")
    broker = Mosquitto(
        tmp_path / "broker",
        certificate=tmp_path / "tls" / "server.pem",
        key=tmp_path / "tls" / "server.key",
        websockets=True,
    ).start()
    url = broker.wss_url if websockets else broker.url
    try:
        with HttpProxy() as proxy:
            way = knock(url, ca, proxies=Proxies(proxy.url))
            assert isinstance(way, Open)
            assert way.far == FAR_TLS
            assert proxy.asked
            lost = Credentials(device="d-a", fleet="demo", broker_url=url, broker_ca=ca)
            assert isinstance(log_in(lost, 0, Proxies(proxy.url)), Refused)
        with HttpProxy(answer=FORBIDDEN) as proxy:
            why = sentence(knock(url, ca, proxies=Proxies(proxy.url)))
            assert "forbids this address" in why
            assert "[link] proxy" in why
    finally:
        broker.stop()


def test_knocking_needs_no_account(tmp_path):
    broker = mosquitto_with(tmp_path / "broker")
    assert knock(broker.url, "") == Open(f"127.0.0.1:{broker.layout.device_port}", FAR_PORT)
    broker.stop()


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x8A, "banned"), (0x97, "no room"), (0x85, "broker's log"), (None, "MQTT 5")],
)
def test_a_refusal_is_read_by_its_code(code, words):
    assert words in sentence(Refused("the broker refused us", code))
