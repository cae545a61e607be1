"""Making a new fleet: keys, metadata, registry, and the broker's configuration.

Rule 1: everything is made in a folder beside the home and renamed at the end, so that a
        failure leaves nothing behind and an existing home is never touched.
Rule 2: ``--dev`` puts every key in one place without a passphrase, and the result says so.
"""

import os
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from agent.contract.topics import Topics
from fleet.config import BrokerConfig, FleetConfig
from fleet.errors import ConfigError, ConflictError
from fleet.ingest.mosquitto import BrokerLayout, prepare_broker
from fleet.ingest.tls import create_dev_tls
from fleet.registry.sqlite import open_registry
from fleet.signing.ceremony import create_dev


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where the broker listens.

    Attributes:
        host: Name or address that devices use.
        bind: Address to listen on; empty for all.
        devices, enrolment: TCP ports; equal for the embedded broker, which has one.

    """

    host: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    devices: int = 8883
    enrolment: int = 8884


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
    home = home.resolve()
    if home.exists() and any(home.iterdir()):
        raise ConflictError(f"{home} is not empty: choose another --home, or remove it yourself")
    scheme = "mqtts" if kind == "mosquitto" else "mqtt"
    config = FleetConfig(
        home=home,
        fleet=fleet,
        dev=True,
        broker=BrokerConfig(
            kind=kind,
            url=f"{scheme}://{ports.host}:{ports.devices}",
            enrol_url=f"{scheme}://{ports.host}:{ports.enrolment}",
        ),
    )
    building = home.with_name(f"{home.name}.new")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True, mode=0o700)
        _furnish(replace(config, home=building), ports)
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


def _furnish(config: FleetConfig, ports: Ports) -> None:
    create_dev(config.keys, config.repository, config.fleet, datetime.now(UTC))
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
