"""Faults of the download server: each is named, with what to do about it."""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.contract.checkup import Check
from fleet.config import DownloadsConfig, FleetConfig
from fleet.ingest.tls import create_dev_tls
from fleet.service.doctor_downloads import check_downloads
from fleet.service.downloads import open_downloads
from tests.brokers import free_port
from tests.certificates import make_certificates
from tests.download_fleet import AUTHORITY
from tests.manager_home import make_home


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    made = make_home(tmp_path)
    create_dev_tls(made.broker_folder)
    return replace(made, downloads=DownloadsConfig(url=f"https://localhost:{free_port()}"))


@contextmanager
def served(config: FleetConfig) -> Iterator[None]:
    server = open_downloads(config)
    assert server is not None
    server.renew(AUTHORITY)
    server.start()
    try:
        yield
    finally:
        server.stop()


def check_of(config: FleetConfig, *, running: bool = True) -> Check:
    (check,) = check_downloads(config, running=running)
    assert check.name == "downloads"
    return check


def test_a_server_that_devices_can_use_is_well(config: FleetConfig):
    with served(config):
        assert check_of(config).state == "ok"


def test_a_manager_that_is_stopped_could_serve(config: FleetConfig):
    assert check_of(config, running=False).state == "ok"
    assert check_of(config, running=False).state == "ok"  # nothing stays open


def test_where_nothing_is_configured_nothing_is_said(config: FleetConfig):
    plain = replace(config, downloads=DownloadsConfig())
    assert list(check_downloads(plain, running=True)) == []


def test_an_address_where_nobody_answers_is_named(config: FleetConfig):
    check = check_of(config)
    assert (check.state, "does not answer" in check.why) == ("warn", True)


def test_a_certificate_of_another_host_is_named(config: FleetConfig, tmp_path: Path):
    folder = config.broker_folder
    for name in ("ca.pem", "ca.key", "server.pem", "server.key"):
        (folder / name).unlink()
    make_certificates(folder, host="elsewhere.example")
    with served(config):
        check = check_of(config)
    assert (check.state, "not believed" in check.why) == ("warn", True)


def test_an_authority_that_devices_do_not_know_is_named(config: FleetConfig, tmp_path: Path):
    create_dev_tls(tmp_path / "other")
    for name in ("server.pem", "server.key"):
        shutil.copy(tmp_path / "other" / name, config.broker_folder / name)
    with served(config):
        check = check_of(config)
    assert (check.state, "not believed" in check.why) == ("warn", True)


def test_something_else_on_the_port_is_named(config: FleetConfig):
    port = int(config.downloads.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        check = check_of(config, running=False)
    assert (check.state, f"port {port}" in check.why) == ("fail", True)


def test_a_server_of_something_else_is_named(config: FleetConfig):
    below = DownloadsConfig(url=f"http://localhost:{free_port()}/behind")  # nobody strips it
    other = replace(config, downloads=below)
    with served(other):
        check = check_of(other)
    assert (check.state, "not as a manager's" in check.why) == ("warn", True)


def test_a_missing_certificate_keeps_the_manager_from_starting_and_is_named(config: FleetConfig):
    (config.broker_folder / "server.pem").unlink()
    check = check_of(config, running=False)
    assert (check.state, "server.pem" in check.why) == ("fail", True)
