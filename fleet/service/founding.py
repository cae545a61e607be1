"""Making a new fleet: keys, metadata, registry, and the broker's configuration.

Rule 1: everything is made in a folder beside the home and renamed at the end, so that a
        failure leaves nothing behind and an existing home is never touched.
Rule 2: ``--dev`` puts every key in one place without a passphrase, and the result says so.
        Otherwise the home gets the manager's own keys and what people signed elsewhere.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from agent.contract.authority import AUTHORITY_TARGET
from agent.contract.topics import Topics
from fleet.config import BrokerConfig, DownloadsConfig, FleetConfig
from fleet.errors import ConfigError, ConflictError
from fleet.ingest.mosquitto import BrokerLayout, prepare_broker
from fleet.ingest.tls import create_dev_tls
from fleet.registry.sqlite import open_registry
from fleet.signing.ceremony import create_dev, found, load_ring
from fleet.signing.proposal import Proposal
from fleet.signing.published import parse_authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the broker listens.

    Attributes:
        host: Name or address that devices use.
        bind: Address to listen on; empty for all.
        devices, enrolment: TCP ports; equal for the embedded broker, which has one.
        downloads: TCP port of artifacts over HTTP(S); 0 serves none.

    """

    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    devices: int = 8883
    enrolment: int = 8884
    downloads: int = 0


MakeTrust = Callable[[FleetConfig], object]
"""Puts keys and the first repository into a home."""


def found_dev(home: Path, fleet: str, *, kind: str, ports: Ports) -> FleetConfig:
    """Make a development fleet and return its configuration.

    Args:
        home: Must not exist yet, or be empty.
        fleet: Its name.
        kind: ``mosquitto`` (with TLS by an authority of its own) or ``embedded``.
        ports: Where the broker will listen.

    Raises:
        ConflictError: The home holds something.
        ConfigError: A name or address is not acceptable, or the folder cannot be made.

    """

    def make_trust(config: FleetConfig) -> None:
        create_dev(config.keys, config.repository, config.fleet, datetime.now(UTC))

    return _found(home, fleet, kind=kind, ports=ports, dev=True, make_trust=make_trust)


def found_signed(
    home: Path, founding: Proposal, online: Path, passphrase: str, *, kind: str, ports: Ports
) -> FleetConfig:
    """Make the manager's home of a fleet whose people signed its founding elsewhere.

    Args:
        home: Must not exist yet, or be empty.
        founding: Complete; see ``fleet.signing.ceremony``.
        online: Folder of the manager's key files; they are copied.
        passphrase: Opens them.
        kind: ``mosquitto`` or ``embedded``.
        ports: Where the broker will listen.

    Raises:
        ConflictError: The home holds something.
        ConfigError: An address is not acceptable, or the folder cannot be made.
        SigningError: The founding is not complete, or the keys are others.

    """

    def make_trust(config: FleetConfig) -> None:
        shutil.copytree(online, config.keys / "online")
        config.keys.chmod(0o700)
        ring = load_ring(config.keys, passphrase, dev=False)
        found(founding, ring, config.repository, datetime.now(UTC))

    fleet = parse_authority(founding.files.get(AUTHORITY_TARGET)).fleet
    return _found(home, fleet, kind=kind, ports=ports, dev=False, make_trust=make_trust)


def _found(
    home: Path, fleet: str, *, kind: str, ports: Ports, dev: bool, make_trust: MakeTrust
) -> FleetConfig:
    home = home.resolve()
    if home.exists() and any(home.iterdir()):
        raise ConflictError(f"{home} is not empty: choose another --home, or remove it yourself")
    scheme = "mqtts" if kind == "mosquitto" else "mqtt"
    config = FleetConfig(
        home=home,
        fleet=fleet,
        dev=dev,
        broker=BrokerConfig(
            kind=kind,
            url=f"{scheme}://{ports.host}:{ports.devices}",
            enrol_url=f"{scheme}://{ports.host}:{ports.enrolment}",
        ),
        downloads=_downloads(kind, ports),
    )
    building = home.with_name(f"{home.name}.new")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True, mode=0o700)
        _furnish(replace(config, home=building), ports, make_trust)
        if home.exists():
            home.rmdir()
        building.rename(home)
    except OSError as why:
        raise ConfigError(f"{home} cannot be made: {why.strerror or why}") from why
    finally:
        shutil.rmtree(building, ignore_errors=True)
    if kind == "mosquitto":
        # The configuration names absolute paths, so it is written in its final place.
        _prepare_mosquitto(config, ports)
    return config


def _downloads(kind: str, ports: Ports) -> DownloadsConfig:
    if not ports.downloads:
        return DownloadsConfig()
    scheme = "https" if kind == "mosquitto" else "http"  # the embedded one has no certificate
    return DownloadsConfig(url=f"{scheme}://{ports.host}:{ports.downloads}")


def _furnish(config: FleetConfig, ports: Ports, make_trust: MakeTrust) -> None:
    make_trust(config)
    config.artifacts.mkdir(mode=0o700)
    open_registry(config.registry, create=True).close()
    config.broker_folder.mkdir(mode=0o700)
    if config.broker.kind == "mosquitto":
        create_dev_tls(config.broker_folder, (ports.host,))
    (config.home / "fleet.toml").write_text(config.render())


def _prepare_mosquitto(config: FleetConfig, ports: Ports) -> None:
    folder = config.broker_folder
    layout = BrokerLayout(
        folder=folder,
        device_port=ports.devices,
        enrol_port=ports.enrolment,
        bind=ports.bind,
        certificate=folder / "server.pem",
        key=folder / "server.key",
        user="root" if os.getuid() == 0 else None,
    )
    accounts = prepare_broker(layout, Topics(fleet=config.fleet, prefix=config.prefix))
    for name, secret in (
        ("manager-password", accounts.manager),
        ("provisioner-password", accounts.provisioner),
        ("enrol-password", accounts.enrol),
    ):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(secret)
