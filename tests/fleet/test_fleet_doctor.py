"""Faults planted in a manager's home: each is named, with what to do about it."""

import dataclasses
import fcntl
import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.contract.broker_url import BrokerUrl
from agent.contract.checkup import Checkup
from agent.contract.topics import Topics
from fleet.cli.program import fieldfare
from fleet.config import FleetConfig
from fleet.errors import FleetError, UnreachableError
from fleet.ingest.client_authority import ClientAuthority, clients_folder
from fleet.ingest.mosquitto import Backend, BrokerLayout, write_broker
from fleet.ingest.password_file import read_dynamic_security
from fleet.ingest.rights import MANAGER_USER
from fleet.registry.artifacts import Artifacts
from fleet.registry.sqlite import open_registry
from fleet.service import doctor
from fleet.service.desk import open_desk
from fleet.service.doctor import Found, examine, is_held
from fleet.service.doctor_trust import check_repository
from fleet.service.founding import Ports, found_dev
from fleet.service.views import StatusView
from fleet.signing.published import read_published
from tests.brokers import PROGRAM, accepts, eventually, free_port
from tests.certificates import HOUR, make_certificates
from tests.doctors import DAY_MS, named, now_ms
from tests.manager_home import join
from tests.releases import Published
from tests.small_fleet import add_device, device_id

Plant = Callable[[FleetConfig], Found]
YEAR_MS = 365 * DAY_MS
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def founded(tmp_path_factory) -> FleetConfig:
    ports = Ports(devices=free_port(), enrolment=free_port())
    home = tmp_path_factory.mktemp("manager") / "home"
    return found_dev(home, "demo", kind="mosquitto", ports=ports)


@pytest.fixture
def config(tmp_path, founded) -> FleetConfig:
    """A home of this test; its broker's configuration names the folder it was made in."""
    home = tmp_path / "home"
    shutil.copytree(founded.home, home)
    conf = home / "broker" / "mosquitto.conf"
    conf.write_text(conf.read_text().replace(str(founded.home), str(home)))
    return FleetConfig.load(home)


def found_of(config: FleetConfig, /, **changes: object) -> Found:
    plain: dict[str, object] = {
        "config": config,
        "home": config.home,
        "running": True,
        "status": status(broker_connected=True),
        "now_ms": now_ms(),
        "environment": {},
    }
    return Found(**{**plain, **changes})


def status(*, broker_connected: bool) -> StatusView:
    numbers = {
        name: 0
        for name in StatusView.__struct_fields__
        if name not in {"fleet", "dev_mode", "broker", "broker_connected", "devices"}
    }
    told = {"fleet": "demo", "dev_mode": True, "broker": "b", "devices": {}}
    return StatusView(**told, broker_connected=broker_connected, **numbers)


def seen(**changes: object) -> Plant:
    return lambda config: found_of(config, **changes)


def removed(name: str) -> Plant:
    def plant(config: FleetConfig) -> Found:
        path = config.home / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return found_of(config)

    return plant


def written(name: str, content: str) -> Plant:
    def plant(config: FleetConfig) -> Found:
        (config.home / name).write_text(content)
        return found_of(config)

    return plant


def opened(name: str, mode: int) -> Plant:
    def plant(config: FleetConfig) -> Found:
        (config.home / name).chmod(mode)
        return found_of(config)

    return plant


def edited(name: str, old: str, new: str) -> Plant:
    def plant(config: FleetConfig) -> Found:
        path = config.home / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return found_of(config)

    return plant


def sql(*statements: str) -> Plant:
    def plant(config: FleetConfig) -> Found:
        with closing(sqlite3.connect(config.registry)) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()
        return found_of(config)

    return plant


def recorded(at_ms: int) -> Plant:
    def plant(config: FleetConfig) -> Found:
        registry = open_registry(config.registry, create=False)
        registry.events.record("manager.started", "manager-1", {}, at_ms=at_ms)
        registry.close()
        return found_of(config)

    return plant


def changed_event(config: FleetConfig) -> Found:
    recorded(now_ms())(config)
    with closing(sqlite3.connect(config.registry)) as database:
        found = database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        triggers = [name for (name,) in found]
        for name in triggers:
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE events SET subject = 'manager-2'")
        database.commit()
    return found_of(config)


def another_director(config: FleetConfig) -> Found:
    other = config.keys / "offline" / "root-1.json"
    (config.keys / "online" / "director.json").unlink()
    shutil.copy(other, config.keys / "online" / "spare.json")
    return found_of(config)


def certificate(**wrong: object) -> Plant:
    def plant(config: FleetConfig) -> Found:
        for name in ("ca.key", "ca.pem", "server.key", "server.pem"):
            (config.broker_folder / name).unlink()
        make_certificates(config.broker_folder, **wrong)
        return found_of(config)

    return plant


def of_another_authority(config: FleetConfig) -> Found:
    make_certificates(config.home.parent / "tls")
    shutil.copy(config.home.parent / "tls" / "ca.pem", config.broker_folder / "ca.pem")
    return found_of(config)


def of_another_key(config: FleetConfig) -> Found:
    make_certificates(config.home.parent / "tls")
    shutil.copy(config.home.parent / "tls" / "server.key", config.broker_folder / "server.key")
    return found_of(config)


def unreadable_settings(config: FleetConfig) -> Found:
    try:
        FleetConfig.load(config.home / "nowhere")
    except FleetError as why:
        return found_of(config, config=why)
    raise AssertionError


SILENT = UnreachableError("no manager answers on the socket")


def clients(
    lost: str = "",
    *,
    of_another: bool = False,
    required: bool = False,
    age: timedelta = timedelta(0),
) -> Plant:
    """Make an authority for client certificates, and spoil it."""

    def plant(config: FleetConfig) -> Found:
        folder, begun = clients_folder(config.broker_folder), datetime.now(UTC) - age
        ClientAuthority.create(folder, "demo", begun)
        if lost:
            (folder / lost).unlink()
        if of_another:
            other = ClientAuthority.create(config.home / "other", "demo", begun)
            shutil.copy(other.folder / lost, folder / lost)
            shutil.rmtree(other.folder)
        if required:
            path = config.broker_folder / "mosquitto.conf"
            path.write_text(path.read_text() + "\nrequire_certificate true\n")
        return found_of(config)

    return plant


FAULTS = [
    # what, how it is planted, the check, its state, words of its sentence
    ("no settings", unreadable_settings, "config", "fail", "fieldfare init"),
    ("a home open to others", opened(".", 0o755), "home", "warn", "chmod 700"),
    ("no manager", seen(running=False, status=None), "manager", "warn", "fieldfare serve"),
    ("a stale socket", seen(running=False, status=SILENT), "manager", "warn", "next start"),
    ("a manager that hangs", seen(status=SILENT), "manager", "fail", "does not answer"),
    ("a manager without a socket", seen(status=None), "manager", "fail", "see its log"),
    ("no key", removed("keys/online"), "keys", "fail", "restore the manager's keys"),
    ("no director key", removed("keys/online/director.json"), "keys", "fail", "director"),
    ("another director key", another_director, "keys", "fail", "director"),
    (
        "a key open to others",
        opened("keys/online/director.json", 0o644),
        "key:director",
        "fail",
        "chmod 600",
    ),
    (
        "a damaged key",
        written("keys/online/snapshot.json", "{}"),
        "key:snapshot",
        "fail",
        "not a key file",
    ),
    ("a development fleet", seen(), "dev", "warn", "without a passphrase"),
    ("no repository", removed("repository"), "repository", "fail", "no repository"),
    (
        "a damaged timestamp",
        written("repository/metadata/timestamp.json", ""),
        "repository",
        "fail",
        "timestamp",
    ),
    (
        "a timestamp that ran out",
        seen(now_ms=now_ms() + 8 * DAY_MS),
        "role:timestamp",
        "fail",
        "start the manager",
    ),
    (
        "a timestamp that nobody signs any more",
        seen(now_ms=now_ms() + 6 * DAY_MS),
        "role:timestamp",
        "warn",
        "start the manager",
    ),
    (
        "targets that run out soon",
        seen(now_ms=now_ms() + 80 * DAY_MS),
        "role:targets",
        "warn",
        "its people",
    ),
    ("a root that ran out", seen(now_ms=now_ms() + 2 * YEAR_MS), "role:root", "fail", "ran out"),
    ("a clock at 1970", seen(now_ms=0), "clock", "fail", "1970"),
    ("a clock that went back", recorded(now_ms() + DAY_MS), "clock", "fail", "recorded"),
    ("no registry", removed("registry.db"), "registry", "fail", "backup"),
    ("a registry that is none", written("registry.db", "words"), "registry", "fail", "not a"),
    ("an empty registry", written("registry.db", ""), "registry", "fail", "is empty"),
    (
        "a newer registry",
        sql("UPDATE registry_schema SET version = 99"),
        "registry",
        "fail",
        "newer version",
    ),
    (
        "an older registry",
        sql("UPDATE registry_schema SET version = 1"),
        "registry",
        "warn",
        "copy it first",
    ),
    ("a changed event log", changed_event, "registry", "fail", "not the one that was recorded"),
    (
        "a proxy variable that is for other programs",
        seen(environment={"HTTP_PROXY": "http://p:1"}),
        "proxy",
        "warn",
        "not used",
    ),
    ("no broker folder", removed("broker"), "broker-files", "fail", "missing"),
    ("a broker folder open to others", opened("broker", 0o755), "broker-files", "fail", "700"),
    (
        "a password open to others",
        opened("broker/manager-password", 0o644),
        "broker-files",
        "fail",
        "chmod 600",
    ),
    ("no password", removed("broker/manager-password"), "accounts", "fail", "manager-password"),
    ("no accounts", removed("broker/dynamic-security.json"), "accounts", "fail", "can log in"),
    (
        "damaged accounts",
        written("broker/dynamic-security.json", "{"),
        "accounts",
        "fail",
        "restore it",
    ),
    (
        "a password of another backup",
        written("broker/manager-password", "another"),
        "accounts",
        "fail",
        "one backup",
    ),
    (
        "the manager's account gone",
        edited("broker/dynamic-security.json", MANAGER_USER, "somebody"),
        "accounts",
        "fail",
        "no account",
    ),
    (
        "a changed broker configuration",
        edited("broker/mosquitto.conf", "allow_anonymous false", "allow_anonymous true"),
        "broker-config",
        "warn",
        "allow_anonymous",
    ),
    ("no broker configuration", removed("broker/mosquitto.conf"), "broker-config", "fail", "read"),
    ("no certificate", removed("broker/server.pem"), "tls", "fail", "restore"),
    (
        "an authority for clients without its key",
        clients("ca.key"),
        "client-certificates",
        "fail",
        "restore",
    ),
    (
        "no list of revoked certificates",
        clients("revoked.pem"),
        "client-certificates",
        "fail",
        "will not start",
    ),
    (
        "a list of revoked certificates by another authority",
        clients("revoked.pem", of_another=True),
        "client-certificates",
        "fail",
        "was not signed",
    ),
    (
        "an authority for clients that runs out",
        clients(age=timedelta(days=3000)),
        "client-certificates",
        "warn",
        "runs out in",
    ),
    (
        "a manager without its certificate",
        clients(required=True),
        "client-certificates",
        "fail",
        "fieldfare-manager has no certificate",
    ),
    ("a damaged certificate", written("broker/server.pem", "x"), "tls", "fail", "PEM"),
    ("a certificate for another host", certificate(host="a.example"), "tls", "fail", "not name"),
    (
        "a certificate that ran out",
        certificate(begins=-2 * HOUR, ends=-HOUR),
        "tls",
        "fail",
        "renew it",
    ),
    (
        "a certificate that runs out soon",
        certificate(ends=timedelta(days=3, hours=1)),
        "tls",
        "warn",
        "in 3 days",
    ),
    ("another authority", of_another_authority, "tls", "fail", "not signed by ca.pem"),
    ("another server key", of_another_key, "tls", "fail", "not the key"),
    (
        "a broker that is away from the manager",
        seen(status=status(broker_connected=False)),
        "broker",
        "fail",
        "fieldfare broker run",
    ),
    (
        "a broker that does not run",
        seen(running=False, status=None),
        "broker",
        "fail",
        "fieldfare broker run",
    ),
]


@pytest.mark.parametrize(
    ("plant", "name", "state", "words"),
    [pytest.param(*fault[1:], id=fault[0]) for fault in FAULTS],
)
def test_a_planted_fault_is_named(config, plant, name, state, words):
    assert words in named(examine(plant(config)), name, state)


def doubts(checkup: Checkup) -> list[str]:
    return [check.name for check in checkup.checks if check.state != "ok"]


def test_a_manager_that_is_well_has_one_doubt_that_it_is_for_development(config):
    assert doubts(examine(found_of(config))) == ["dev"]


def test_files_of_another_user_are_named(config, monkeypatch):
    foreign = config.home / "registry.db"
    plain = Path.lstat

    def lstat(path: Path) -> object:
        found = plain(path)
        return type(found)((*found[:4], found.st_uid + 1, *found[5:])) if path == foreign else found

    monkeypatch.setattr(Path, "lstat", lstat)
    assert "chown" in named(examine(found_of(config)), "home", "fail")


def test_a_full_disk_is_named(config, monkeypatch):
    usage = shutil.disk_usage(config.home)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage._replace(free=5 << 20))
    assert "5 MiB are free" in named(examine(found_of(config)), "disk", "fail")


def test_a_lost_artifact_and_a_device_in_quarantine_are_named(config):
    registry = open_registry(config.registry, create=False)
    release = Published(1)
    published = registry.models.add(release.manifest, release.release, release.digest, at_ms=1)
    assert "0 releases" in named(examine(found_of(config)), "artifacts", "ok")  # nobody needs it
    add_device(registry, 1)
    registry.devices.want(device_id(1), "motion", published.assigned, at_ms=1)
    artifacts = Artifacts(config.artifacts)
    artifacts.put(release.files[release.model.digest])
    registry.close()
    lost = named(examine(found_of(config)), "artifacts", "fail")
    assert f"artifacts/{release.golden.digest}" in lost
    artifacts.put(release.files[release.golden.digest])
    assert "1 releases" in named(examine(found_of(config)), "artifacts", "ok")

    desk = open_desk(config, "", lambda _run, _word: None)
    device = join(desk)
    desk.registry.devices.quarantine(device.id, "two lives of one identity", at_ms=now_ms())
    desk.registry.close()
    apart = named(examine(found_of(config)), "quarantine", "warn")
    assert device.id in apart
    assert "two lives" in apart


def test_archives_of_the_log_are_checked_and_may_lie_elsewhere(config, tmp_path):
    registry = open_registry(config.registry, create=False)
    for number in range(4):
        registry.events.record("a.kind", "s", {"n": number}, at_ms=1)
    first = registry.events.archive(2, config.archive, at_ms=1)
    second = registry.events.archive(1, config.archive, at_ms=1)
    registry.close()
    assert "2 archives, of which 0" in named(examine(found_of(config)), "registry", "ok")

    (config.archive / first.name).rename(tmp_path / first.name)
    assert "2 archives, of which 1" in named(examine(found_of(config)), "registry", "ok")
    (config.archive / second.name).write_bytes(b"")
    wrong = named(examine(found_of(config)), "registry", "fail")
    assert f"{second.name} is not the one that was written" in wrong


def test_a_broker_that_keeps_its_accounts_in_files_is_judged_by_those(config):
    idle = {"running": False, "status": None}
    folder, port = config.broker_folder, BrokerUrl.parse(config.broker.url).port
    layout = BrokerLayout(
        folder=folder,
        device_port=port,
        enrol_port=BrokerUrl.parse(config.broker.enrol_url).port,
        bind="127.0.0.1",
        certificate=folder / "server.pem",
        key=folder / "server.key",
        user="root" if os.geteuid() == 0 else None,
        backend=Backend.ACL_FILE,
    )
    passwords = read_dynamic_security(folder / "dynamic-security.json")
    write_broker(layout, Topics(fleet="demo"), passwords)
    (folder / "dynamic-security.json").unlink()
    with broker_of(config):
        well = examine(found_of(config, **idle))
    assert "acl are those" in named(well, "broker-config", "ok")
    assert "accounts" in named(well, "accounts", "ok")
    assert "takes fieldfare-manager" in named(well, "broker", "ok")
    assert "provisioner" not in [check.name for check in well.checks]

    (folder / "acl").write_text((folder / "acl").read_text() + "topic readwrite #\n")
    assert "topic readwrite #" in named(examine(found_of(config)), "broker-config", "warn")
    (folder / "passwords").write_text("words\n")
    assert "line 1" in named(examine(found_of(config)), "accounts", "fail")


def test_a_change_of_root_that_was_cut_off_is_named(config):
    cut = dataclasses.replace(read_published(config.repository), interrupted=True)
    found = Checkup(checks=tuple(check_repository(cut, now_ms())))
    assert "finishes it at start" in named(found, "repository", "warn")


def test_offline_keys_beside_a_manager_that_serves_real_devices_are_named(config):
    real = dataclasses.replace(config, dev=False)
    assert "move them off" in named(examine(found_of(real)), "dev", "warn")


def test_every_planted_fault_is_listed_in_the_documentation():
    page = (ROOT / "docs/doctor.md").read_text()
    missing = [f[0] for f in FAULTS if f"| {f[0]} | `{f[2]}` | {f[3]} |" not in page]
    assert missing == []


def test_the_lock_of_a_running_manager_is_seen(config):
    assert not is_held(config.home)
    with (config.home / "lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_held(config.home)


@contextmanager
def broker_of(config: FleetConfig) -> Iterator[None]:
    port = int(config.broker.url.rpartition(":")[2])
    conf = config.broker_folder / "mosquitto.conf"
    assert PROGRAM
    with subprocess.Popen([PROGRAM, "-c", str(conf)], stderr=subprocess.DEVNULL) as child:
        eventually(lambda: accepts(port))
        yield
        child.terminate()


@pytest.mark.broker
def test_accounts_that_work_and_passwords_that_do_not_are_told_apart(config):
    idle = {"running": False, "status": None}
    with broker_of(config):
        well = examine(found_of(config, **idle))
        (config.broker_folder / "provisioner-password").write_text("another")
        ill = examine(found_of(config, **idle))
    assert "from one backup" in named(ill, "accounts", "fail")
    assert "takes fieldfare-manager" in named(well, "broker", "ok")
    assert "takes fieldfare-provisioner" in named(well, "provisioner", "ok")
    assert "takes fieldfare-manager" in named(ill, "broker", "ok")
    assert "from one backup" in named(ill, "provisioner", "fail")


def test_the_command_leaves_with_one_where_something_is_wrong(config):
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(config.socket))
    said = CliRunner().invoke(fieldfare, ["doctor", "--home", str(config.home)])
    assert said.exit_code == 1
    assert "warn manager: no manager runs, and fieldfare.sock was left" in said.output
    assert "FAIL broker: " in said.output
    as_json = CliRunner().invoke(fieldfare, ["doctor", "--home", str(config.home), "-o", "json"])
    names = [check["name"] for check in json.loads(as_json.output)["checks"]]
    assert names == [line[5:].partition(": ")[0] for line in said.output.splitlines()]


def test_a_home_that_is_none_is_one_line(tmp_path):
    said = CliRunner().invoke(fieldfare, ["doctor", "--home", str(tmp_path / "nowhere")])
    assert (said.exit_code, len(said.output.splitlines())) == (1, 1)
    assert said.output.startswith("FAIL config: ")
