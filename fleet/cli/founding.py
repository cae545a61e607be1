"""``fieldfare init``, ``serve`` and ``broker``: the commands that need no running manager."""

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import click

from agent.contract.broker_url import BrokerUrl
from fleet.cli.output import home_option
from fleet.config import FleetConfig
from fleet.errors import ConfigError, UnreachableError
from fleet.service.desk import Ask
from fleet.service.founding import Ports, found_dev


class Door(Protocol):
    """What answers the CLI while the manager runs."""

    def start(self) -> None:
        """Begin to answer."""

    def stop(self) -> None:
        """Close."""


OpenDoor = Callable[[Path, Ask], Door]
"""Opens the door at a socket path; handed in, because surfaces do not import each other."""


@click.command()
@click.option("--dev", is_flag=True, help="Make every key here, without a passphrase. Required.")
@click.option("--fleet", default="fleet-1", show_default=True, help="Name of the fleet.")
@click.option(
    "--broker",
    "kind",
    type=click.Choice(["mosquitto", "embedded"]),
    default="mosquitto",
    show_default=True,
    help="Broker to configure; embedded is for loopback only.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Name or address that devices reach the broker by.",
)
@click.option("--port", default=8883, show_default=True, help="Port for devices.")
@click.option("--enrol-port", default=8884, show_default=True, help="Port for enrolment.")
@home_option
def init(
    dev: bool, fleet: str, kind: str, host: str, port: int, enrol_port: int, home: Path
) -> None:
    """Make a new fleet: keys, signed metadata, registry, broker configuration."""
    if not dev:
        raise ConfigError(
            "only development fleets can be made yet: add --dev, which puts every key, also the "
            "offline ones, in one folder without a passphrase"
        )
    loopback = host in {"127.0.0.1", "localhost", "::1"}
    if kind == "embedded" and not loopback:
        raise ConfigError("the embedded broker isolates nobody and serves loopback only")
    ports = Ports(
        host=host,
        bind="127.0.0.1" if loopback else "",
        devices=port,
        enrolment=port if kind == "embedded" else enrol_port,
    )
    config = found_dev(home, fleet, kind=kind, ports=ports)
    click.echo(f"made fleet {config.fleet} in {config.home}")
    click.secho(
        "DEVELOPMENT FLEET: root, targets and online keys all lie in\n"
        f"  {config.keys}\nwithout a passphrase. Whoever reads that folder owns every device.",
        fg="yellow",
        bold=True,
    )
    click.echo(f"\nnext: fieldfare broker run --home {home}\n      fieldfare serve --home {home}")


@click.command()
@click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True),
    help="Opens the online keys; not needed for a development fleet.",
)
@home_option
@click.pass_obj
def serve(open_door: OpenDoor, passphrase_file: Path | None, home: Path) -> None:
    """Run the manager until SIGTERM or Ctrl-C."""
    from fleet.service.loop import RunningManager

    logging.basicConfig(level=logging.INFO, format="%(asctime)s level=%(levelname)s %(message)s")
    config = FleetConfig.load(home)
    passphrase = passphrase_file.read_text().strip() if passphrase_file else ""
    manager = RunningManager(config, passphrase=passphrase)
    door = open_door(config.socket, manager.ask)
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: manager.stop())
    door.start()
    try:
        manager.run()
    finally:
        door.stop()


@click.group()
def broker() -> None:
    """The broker that 'init' configured."""


@broker.command("run")
@home_option
def run_broker(home: Path) -> None:
    """Run it in the foreground: mosquitto as configured, or the embedded one."""
    config = FleetConfig.load(home)
    if config.broker.kind == "embedded":
        _run_embedded(config)
        return
    found = shutil.which(
        "mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    )
    if found is None:
        raise UnreachableError(
            "mosquitto is not installed: install it (Debian: apt-get install mosquitto), or make "
            "the fleet with --broker embedded for loopback"
        )
    os.execv(found, [found, "-c", str(config.broker_folder / "mosquitto.conf")])  # noqa: S606 - our own program


def _run_embedded(config: FleetConfig) -> None:
    from fleet.ingest.embedded import EmbeddedBroker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s level=%(levelname)s %(message)s")
    running = EmbeddedBroker(config.broker_folder, BrokerUrl.parse(config.broker.url).port)
    stopping = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: stopping.set())
    running.start()
    stopping.wait()
    running.stop()
