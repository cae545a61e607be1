"""Client certificates for a fleet, as an operator introduces them: nobody is stranded."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from nacl.signing import SigningKey

from agent.contract.broker_url import BrokerUrl
from agent.contract.topics import Topics
from fleet.config import FleetConfig
from fleet.errors import RefusedError, UnreachableError
from fleet.ingest.client_authority import ClientAuthority, clients_folder
from fleet.ingest.hangup import have_it_read
from fleet.ingest.mosquitto import Backend, find_client_authority, requires_certificates
from fleet.ingest.password_file import read_dynamic_security
from fleet.ingest.rights import Hashed, dynamic_security
from fleet.registry.sqlite import open_registry
from fleet.service.broker_setup import BrokerWish, set_up_broker
from fleet.service.client_certificates import ClientCertificates
from fleet.service.desk import wall_clock_ms
from fleet.service.doctor_broker import check_broker
from fleet.service.founding import Ports, found_dev
from tests.brokers import accepts, eventually, free_port
from tests.small_fleet import add_device

pytestmark = pytest.mark.broker
OFFER, REQUIRE = ClientCertificates.OFFER, ClientCertificates.REQUIRE
KEY = bytes(SigningKey.generate().verify_key).hex()


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    ports = Ports(devices=free_port(), enrolment=free_port())
    return found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)


def enrol_one(config: FleetConfig) -> str:
    """Enrol one device in the registry and at the broker; its password is ``secret``."""
    registry = open_registry(config.registry, create=False)
    device = add_device(registry, 1)
    registry.close()
    path = config.broker_folder / "dynamic-security.json"
    passwords = {**read_dynamic_security(path), device: Hashed.of("secret")}
    path.write_text(json.dumps(dynamic_security(passwords, Topics(fleet="demo"))))
    return device


def authority(config: FleetConfig) -> ClientAuthority:
    found = find_client_authority(config.broker_folder)
    assert found is not None
    return found


def hold(config: FleetConfig, device: str) -> None:
    """Give a device its certificate, and hear from it that it has it."""
    place, now = authority(config), datetime.now(UTC)
    place.issue(device, KEY, now)
    (certificate,) = place._certificates(device)
    place.confirm(device, certificate.fingerprint(hashes.SHA256()).hex())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_offered_certificates_change_nothing_at_the_broker(config: FleetConfig):
    before = (config.broker_folder / "mosquitto.conf").read_bytes()
    made = set_up_broker(config, BrokerWish(certificates=OFFER))
    assert made.certificates is OFFER
    assert (config.broker_folder / "mosquitto.conf").read_bytes() == before
    assert not authority(config).required


def test_they_are_required_once_every_device_says_that_it_has_one(config: FleetConfig):
    device = enrol_one(config)
    set_up_broker(config, BrokerWish(certificates=OFFER))
    before = contents(config.broker_folder)
    with pytest.raises(RefusedError, match=f"1 of 1 enrolled .* no certificate yet .{device}."):
        set_up_broker(config, BrokerWish(certificates=REQUIRE))
    assert contents(config.broker_folder) == before
    hold(config, device)
    made = set_up_broker(config, BrokerWish(certificates=REQUIRE))
    assert "nobody is admitted without a certificate" in made.held
    assert "a revoked certificate is refused" in made.held
    assert "a certificate of another authority is refused" in made.held
    assert requires_certificates(config.broker_folder)
    assert authority(config).required
    # what was tried left nothing in the fleet's own list
    assert not list(authority(config)._list())


def test_no_device_has_a_password_any_more_and_the_way_back_is_shut(config: FleetConfig):
    device = enrol_one(config)
    set_up_broker(config, BrokerWish(certificates=OFFER))
    hold(config, device)
    path = config.broker_folder / "dynamic-security.json"
    before = read_dynamic_security(path)
    set_up_broker(config, BrokerWish(certificates=REQUIRE))
    after = read_dynamic_security(path)
    assert {name for name in before if before[name] != after[name]} == {device}
    with pytest.raises(RefusedError, match="would be stranded"):
        set_up_broker(config, BrokerWish(certificates=OFFER))
    again = set_up_broker(config, BrokerWish())
    assert again.certificates is REQUIRE
    assert read_dynamic_security(path) == after


def test_a_fleet_without_devices_may_go_either_way(config: FleetConfig):
    set_up_broker(config, BrokerWish(certificates=REQUIRE))
    assert requires_certificates(config.broker_folder)
    set_up_broker(config, BrokerWish(certificates=OFFER))
    assert not requires_certificates(config.broker_folder)


@pytest.mark.parametrize(
    ("wish", "broker", "says"),
    [
        pytest.param({"backend": Backend.ACL_FILE}, {}, "need --backend dynsec", id="files"),
        pytest.param({"folder": Path("elsewhere")}, {}, "leave --dir out", id="elsewhere"),
        pytest.param({}, {"wss_url": "wss://127.0.0.1:1"}, "over WebSocket", id="WebSocket"),
        pytest.param({}, {"url": "mqtt://127.0.0.1:1"}, "sees no certificates", id="without TLS"),
    ],
)
def test_what_would_not_hold_is_refused_before_anything_is_written(
    config: FleetConfig, wish: dict[str, object], broker: dict[str, str], says: str
):
    changed = replace(config, broker=replace(config.broker, **broker))
    before = contents(config.broker_folder)
    with pytest.raises(RefusedError, match=says):
        set_up_broker(changed, BrokerWish(certificates=REQUIRE, **wish))
    assert contents(config.broker_folder) == before


def test_an_authority_made_for_a_trial_that_fails_does_not_stay(config: FleetConfig):
    (config.broker_folder / "server.pem").write_text("none")
    with pytest.raises(Exception, match="server"):
        set_up_broker(config, BrokerWish(certificates=OFFER))
    assert not clients_folder(config.broker_folder).exists()


def test_the_doctor_knows_the_lines_that_ask_for_certificates(config: FleetConfig):
    set_up_broker(config, BrokerWish(certificates=REQUIRE))
    found = check_broker(config, running=True, status=None, now_ms=wall_clock_ms())
    assert {check.name: check.why for check in found if check.state != "ok"} == {}


def test_the_doctor_logs_in_with_the_certificates_of_the_fleets_own(config: FleetConfig):
    set_up_broker(config, BrokerWish(certificates=REQUIRE))
    program = ["mosquitto", "-c", str(config.broker_folder / "mosquitto.conf")]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    with subprocess.Popen(
        program, env={**os.environ, "PATH": path}, stderr=subprocess.DEVNULL
    ) as child:
        try:
            eventually(lambda: accepts(BrokerUrl.parse(config.broker.url).port))
            found = check_broker(config, running=False, status=None, now_ms=wall_clock_ms())
            said = {check.name: (check.state, check.why) for check in found}
            assert said["broker"][0] == said["provisioner"][0] == "ok"
            other = ClientAuthority.create(config.home / "other", "demo", datetime.now(UTC))
            strange = other.own_identity("fieldfare-manager", datetime.now(UTC))
            shutil.copy(strange, clients_folder(config.broker_folder) / strange.name)
            found = check_broker(config, running=False, status=None, now_ms=wall_clock_ms())
            said = {check.name: (check.state, check.why) for check in found}
            assert said["broker"][0] == "fail"
            assert "hung up during the login" in said["broker"][1]
            assert "see the check of client-certificates" in said["broker"][1]
        finally:
            child.terminate()


@contextmanager
def a_process_named(folder: Path, name: str) -> Iterator[int]:
    """Run ``sleep`` under another name."""
    program = folder / name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    # whoever started the tests may ignore a hangup, and children inherit that
    words = ["env", "--default-signal=HUP", program, "60"]
    with subprocess.Popen(words) as child:
        try:
            eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text().strip() == name)
            yield child.pid
        finally:
            child.kill()


def test_a_signal_goes_to_mosquitto_only(tmp_path: Path):
    number = tmp_path / "mosquitto.pid"
    with pytest.raises(UnreachableError, match="no mosquitto runs"):
        have_it_read(number, "its accounts")
    with a_process_named(tmp_path, "editor") as pid:
        number.write_text(f"{pid}\n")
        with pytest.raises(UnreachableError, match="no mosquitto runs"):
            have_it_read(number, "its accounts")
        os.kill(pid, 0)
    with a_process_named(tmp_path, "mosquitto") as pid:
        number.write_text(f"{pid}\n")
        have_it_read(number, "its accounts")
        assert os.waitpid(pid, 0)[1] == signal.SIGHUP
