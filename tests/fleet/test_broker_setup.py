"""``fieldfare broker setup``: what it writes was tried, and nobody is stranded."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.contract.broker_url import BrokerUrl
from agent.contract.checkup import Check
from agent.contract.endpoints import Endpoint, split_authorities
from agent.contract.topics import Topics
from fleet.__main__ import open_door
from fleet.cli.program import main
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError, RefusedError, UnreachableError
from fleet.ingest.knock import ADMITTED, Listener, knock
from fleet.ingest.mosquitto import Backend, backend_of
from fleet.ingest.password_file import (
    read_dynamic_security,
    read_passwords,
    render_passwords,
    replace_file,
)
from fleet.ingest.rights import Hashed, device_role, dynamic_security
from fleet.ingest.tls import create_dev_tls
from fleet.registry.sqlite import open_registry
from fleet.service.broker_setup import BrokerWish, set_up_broker
from fleet.service.desk import open_desk, wall_clock_ms
from fleet.service.doctor_broker import check_broker
from fleet.service.founding import Ports, found_dev
from fleet.service.occupancy import occupy
from tests.brokers import accepts, eventually, free_port
from tests.manager_home import ROOT, make_home, sign_list
from tests.small_fleet import add_device

pytestmark = pytest.mark.broker


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    """A development fleet with one device's account, whose password is ``secret``."""
    ports = Ports(devices=free_port(), enrolment=free_port())
    config = found_dev(tmp_path / "home", "demo", kind="mosquitto", ports=ports)
    path = config.broker_folder / "dynamic-security.json"
    passwords = {**read_dynamic_security(path), "d-one": Hashed.of("secret")}
    path.write_text(json.dumps(dynamic_security(passwords, Topics(fleet="demo"))))
    return config


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def running(config: FleetConfig) -> Iterator[None]:
    """What an operator starts next."""
    ports = [BrokerUrl.parse(u).port for u in (config.broker.url, config.broker.enrol_url)]
    words = [sys.executable, "-m", "fleet", "broker", "run", "--home", str(config.home)]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        try:
            eventually(lambda: all(accepts(port) for port in ports))
            yield
        finally:
            child.terminate()


def admits(config: FleetConfig, user: str, password: str) -> bool:
    at = Listener(
        address="127.0.0.1",
        port=BrokerUrl.parse(config.broker.url).port,
        name="127.0.0.1",
        ca=config.broker_ca(),
    )
    return knock(at, user, password, user) == ADMITTED


@pytest.mark.parametrize("backend", list(Backend))
def test_a_device_keeps_its_password_when_its_account_moves(config: FleetConfig, backend: Backend):
    there = set_up_broker(config, BrokerWish(backend=Backend.ACL_FILE))
    made = set_up_broker(config, BrokerWish(backend=backend))
    assert there.accounts == made.accounts
    assert backend_of(config.broker_folder) is backend
    with running(config):
        assert admits(config, "d-one", "secret")
        assert admits(config, "fieldfare-manager", config.secret("manager-password") or "")
        assert not admits(config, "d-one", "other")


def test_what_held_is_told_and_accounts_that_a_broker_may_change_are_left(config: FleetConfig):
    accounts = config.broker_folder / "dynamic-security.json"
    before = accounts.read_bytes()
    made = set_up_broker(config, BrokerWish())
    assert "a wrong password is refused" in made.held
    assert "its certificate names 127.0.0.1 and is believed; TLS 1.2 or later" in made.held
    assert accounts.read_bytes() == before


@pytest.mark.parametrize(
    ("devices", "wanted", "backend", "warning"),
    [
        pytest.param(2000, None, Backend.DYNSEC, "", id="a fleet that dynamic security bears"),
        pytest.param(2001, None, Backend.ACL_FILE, "", id="one that it does not"),
        pytest.param(
            2001, Backend.DYNSEC, Backend.DYNSEC, "take --backend acl_file", id="against advice"
        ),
    ],
)
def test_the_size_of_the_fleet_chooses_the_backend(
    config: FleetConfig, devices: int, wanted: Backend | None, backend: Backend, warning: str
):
    made = set_up_broker(config, BrokerWish(devices=devices, backend=wanted))
    assert made.backend is backend
    assert made.warning.endswith(warning)
    assert bool(made.warning) == bool(warning)


def test_a_fleet_that_outgrew_dynamic_security_does_not_go_back_by_itself(config: FleetConfig):
    set_up_broker(config, BrokerWish(devices=5000))
    assert set_up_broker(config, BrokerWish()).backend is Backend.ACL_FILE
    assert "d-one" in read_passwords(config.broker_folder / "passwords")


def test_a_role_goes_with_each_device(config: FleetConfig):
    set_up_broker(config, BrokerWish(backend=Backend.ACL_FILE))
    set_up_broker(config, BrokerWish(backend=Backend.DYNSEC))
    found = json.loads((config.broker_folder / "dynamic-security.json").read_bytes())
    assert device_role("d-one") in {role["rolename"] for role in found["roles"]}


def foreign_tls(tmp_path: Path, *hosts: str) -> Path:
    folder = tmp_path / "-".join(("tls", *hosts))
    create_dev_tls(folder, hosts)
    return folder


def test_a_certificate_of_another_authority_takes_both_before_devices_come(
    config: FleetConfig, tmp_path: Path
):
    tls = foreign_tls(tmp_path)
    pair = {"certificate": tls / "server.pem", "key": tls / "server.key"}
    before = contents(config.broker_folder)
    with pytest.raises(UnreachableError, match="not believed"):
        set_up_broker(config, BrokerWish(**pair))
    assert contents(config.broker_folder) == before
    set_up_broker(config, BrokerWish(**pair, authority=tls / "ca.pem"))
    assert config.broker_ca() == (tls / "ca.pem").read_text()
    with running(config):
        assert admits(config, "d-one", "secret")


def test_an_authority_that_enrolled_devices_do_not_believe_is_refused(
    config: FleetConfig, tmp_path: Path
):
    registry = open_registry(config.registry, create=False)
    add_device(registry, 0)
    registry.close()
    tls = foreign_tls(tmp_path)
    before = contents(config.broker_folder)
    with pytest.raises(RefusedError, match="stranded"):
        set_up_broker(
            config,
            BrokerWish(
                certificate=tls / "server.pem", key=tls / "server.key", authority=tls / "ca.pem"
            ),
        )
    assert contents(config.broker_folder) == before


def test_an_authority_beside_a_signed_list_is_refused(config: FleetConfig, tmp_path: Path):
    desk = open_desk(config, "", lambda _run, _word: None)
    cas = split_authorities(config.broker_ca())
    sign_list(desk, Endpoint(url=config.broker.url, cas=cas))
    desk.registry.close()
    tls = foreign_tls(tmp_path)
    wish = BrokerWish(
        certificate=tls / "server.pem", key=tls / "server.key", authority=tls / "ca.pem"
    )
    with pytest.raises(RefusedError, match="list of endpoints version 1"):
        set_up_broker(config, wish)
    assert split_authorities(config.broker_ca()) == cas


@pytest.mark.parametrize(
    ("wish", "error", "sentence"),
    [
        ({"certificate": "server.pem"}, RefusedError, "together"),
        ({"certificate": "server.pem", "key": "ca.key"}, ConfigError, "not a certificate and its"),
        ({"certificate": "nothing", "key": "nothing"}, ConfigError, "nothing"),
        ({"folder": "elsewhere", "backend": Backend.ACL_FILE}, RefusedError, "leave --dir out"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    config: FleetConfig, tmp_path: Path, wish, error, sentence
):
    tls = foreign_tls(tmp_path)
    paths = {k: v if isinstance(v, Backend) else tls / v for k, v in wish.items()}
    before = contents(config.broker_folder)
    with pytest.raises(error, match=sentence):
        set_up_broker(config, BrokerWish(**paths))
    assert contents(config.broker_folder) == before
    assert not (tls / "elsewhere").exists()


def test_a_broker_that_does_not_start_changes_nothing_and_says_why(
    config: FleetConfig, monkeypatch
):
    monkeypatch.setattr(
        "fleet.ingest.mosquitto.render_mosquitto_conf", lambda *_: "no_such_setting 1\n"
    )
    before = contents(config.broker_folder)
    with pytest.raises(UnreachableError, match="no_such_setting"):
        set_up_broker(config, BrokerWish())
    assert contents(config.broker_folder) == before


def test_a_broker_that_admits_anybody_is_refused(config: FleetConfig, monkeypatch):
    from fleet.ingest import mosquitto

    render = mosquitto.render_mosquitto_conf
    monkeypatch.setattr(
        "fleet.ingest.mosquitto.render_mosquitto_conf",
        lambda *words: render(*words).replace("allow_anonymous false", "allow_anonymous true"),
    )
    before = contents(config.broker_folder)
    with pytest.raises(RefusedError, match="nobody is admitted to enrol without an account"):
        set_up_broker(config, BrokerWish())
    assert contents(config.broker_folder) == before


def test_a_lost_password_of_the_managers_own_is_named(config: FleetConfig):
    (config.broker_folder / "manager-password").unlink()
    with pytest.raises(ConfigError, match="manager-password is missing"):
        set_up_broker(config, BrokerWish())


def test_a_running_manager_is_not_set_up_under_its_feet(config: FleetConfig):
    with occupy(config.home), pytest.raises(ConflictError, match="stop it first"):
        set_up_broker(config, BrokerWish())


def test_the_embedded_broker_has_no_settings(tmp_path: Path):
    with pytest.raises(RefusedError, match="embedded"):
        set_up_broker(make_home(tmp_path), BrokerWish())


def test_the_command_tells_what_it_tried_and_what_comes_next(config: FleetConfig, capsys):
    words = ["broker", "setup", "--home", str(config.home), "--devices", "3000"]
    main(open_door, words)
    out = capsys.readouterr().out
    assert "tried: the manager is admitted" in out
    assert "kept by acl_file" in out
    assert "fieldfare broker run" in out


def test_the_provisioner_comes_back_with_the_password_in_its_file(config: FleetConfig):
    """Files gave it another with each edit; dynamic security needs the one that is kept."""
    set_up_broker(config, BrokerWish(backend=Backend.ACL_FILE))
    edit_provisioner(config)
    set_up_broker(config, BrokerWish(backend=Backend.DYNSEC))
    with running(config):
        kept = config.secret("provisioner-password") or ""
        assert admits(config, "fieldfare-provisioner", kept)


def edit_provisioner(config: FleetConfig) -> None:
    path = config.broker_folder / "passwords"
    edited = {**read_passwords(path), "fieldfare-provisioner": Hashed.of("new")}
    replace_file(path, render_passwords(edited))


def doctor(config: FleetConfig) -> dict[str, Check]:
    found = check_broker(config, running=True, status=None, now_ms=wall_clock_ms())
    return {check.name: check for check in found}


def test_the_doctor_reads_accounts_in_files(config: FleetConfig):
    """Each edit gives the provisioner another password than the one in its file."""
    set_up_broker(config, BrokerWish(backend=Backend.ACL_FILE))
    edit_provisioner(config)
    assert {name for name, check in doctor(config).items() if check.state != "ok"} == set()
    (config.broker_folder / "passwords").write_text("d-one:$7$1$a$b\n")
    assert "no account fieldfare-manager" in doctor(config)["accounts"].why
