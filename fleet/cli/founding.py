"""``fieldfare init``, ``serve`` and ``broker``: the commands that need no running manager."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import click

from agent.contract.broker_url import BrokerUrl
from fleet.cli.broker_setup import setup
from fleet.cli.keyring import read_passphrase
from fleet.cli.log_lines import log_events
from fleet.cli.output import home_option
from fleet.cli.proposing import read_file
from fleet.cli.rotate_ca import rotate_ca
from fleet.config import FleetConfig
from fleet.errors import ConfigError, UnreachableError
from fleet.service.desk import Ask
from fleet.service.founding import Ports, found_dev, found_signed


class Door(Protocol):
    """What answers the CLI while the manager runs."""

    def start(self, ended: Callable[[str], None]) -> None:
        """Begin to answer; ``ended`` is called if that ends before ``stop``."""

    def stop(self) -> None:
        """Close."""


LONGEST_SOCKET_PATH = 107  # sun_path in unix(7), without its end
OpenDoor = Callable[[Path, Ask], Door]
"""Opens the door at a socket path; handed in, because surfaces do not import each other."""


@click.command()
@click.option("--dev", is_flag=True, help="Make every key here, without a passphrase.")
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
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=8883,
    show_default=True,
    help="Port for devices.",
)
@click.option(
    "--enrol-port",
    type=click.IntRange(1, 65_535),
    default=8884,
    show_default=True,
    help="Port for enrolment.",
)
@click.option(
    "--download-port",
    type=click.IntRange(1, 65_535),
    help="Port for artifacts over HTTP(S) beside MQTT; without it there is none.",
)
@click.option(
    "--founding",
    type=click.Path(path_type=Path),
    help="What the fleet's people signed; see 'fieldfare keys init'.",
)
@click.option(
    "--online", type=click.Path(path_type=Path), help="Folder of 'fieldfare keys online'."
)
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="Opens the keys in --online."
)
@home_option
def init(
    dev: bool,
    fleet: str,
    kind: str,
    host: str,
    port: int,
    enrol_port: int,
    download_port: int | None,
    founding: Path | None,
    online: Path | None,
    passphrase_file: Path | None,
    home: Path,
) -> None:
    """Make a new fleet: keys, signed metadata, registry, broker configuration.

    With --dev every key is made here. Otherwise the people's keys have signed elsewhere,
    and --founding, --online and --passphrase-file bring what the manager needs.
    """
    ports = _ports(kind, host, port, enrol_port, download_port)
    longest = LONGEST_SOCKET_PATH - len("/fieldfare.sock")
    if len(os.fsencode(home.resolve())) > longest:
        raise ConfigError(
            f"--home {home} is too long a path for the socket in it: at most {longest} bytes"
        )
    if not dev:
        if founding is None or online is None or passphrase_file is None:
            raise ConfigError(
                "say --dev, which puts every key, also the offline ones, in one folder without "
                "a passphrase; or --founding, --online and --passphrase-file of a fleet whose "
                "people sign elsewhere ('fieldfare keys init --help')"
            )
        config = found_signed(
            home, read_file(founding), online, read_passphrase(passphrase_file),
            kind=kind, ports=ports,
        )  # fmt: skip
        click.echo(f"made fleet {config.fleet} in {config.home}")
        click.echo(f"its keys are in {config.keys}; delete {online}")
    else:
        config = found_dev(home, fleet, kind=kind, ports=ports)
        click.echo(f"made fleet {config.fleet} in {config.home}")
        click.secho(
            "DEVELOPMENT FLEET: root, targets and online keys all lie in\n"
            f"  {config.keys}\nwithout a passphrase. Whoever reads that folder owns every device.",
            fg="yellow",
            bold=True,
        )
    if ports.bind:
        click.echo("\nDevices on this machine only can reach it; for others make it with --host.")
    opens = "" if dev else f" --passphrase-file {passphrase_file}"
    click.echo(f"\nnext: fieldfare broker run --home {home}")
    click.echo(f"      fieldfare serve --home {home}{opens}")


def _ports(
    kind: str, host: str, port: int, enrol_port: int, download_port: int | None = None
) -> Ports:
    if not host or not host.isprintable() or set(host) & set(" /@?#"):
        raise ConfigError(f"--host {host!r} is neither a name nor an address")
    loopback = host in {"127.0.0.1", "localhost", "::1"}
    if kind == "embedded" and not loopback:
        raise ConfigError("the embedded broker isolates nobody and serves loopback only")
    if kind == "mosquitto" and port == enrol_port:
        raise ConfigError(f"devices and enrolment need a port each, not both {port}")
    if download_port in {port, enrol_port}:
        raise ConfigError(f"downloads need a port of their own, not {download_port} as well")
    return Ports(
        host=host,
        bind="127.0.0.1" if loopback else "",
        devices=port,
        enrolment=port if kind == "embedded" else enrol_port,
        downloads=download_port or 0,
    )


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

    log_events()
    config = FleetConfig.load(home)
    passphrase = read_passphrase(passphrase_file) if passphrase_file else ""
    manager = RunningManager(config, passphrase=passphrase)
    door = open_door(config.socket, manager.ask)
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: manager.stop())
    door.start(manager.fail)
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


broker.add_command(setup)
broker.add_command(rotate_ca)


def _run_embedded(config: FleetConfig) -> None:
    from fleet.ingest.embedded import EmbeddedBroker

    log_events()
    running = EmbeddedBroker(config.broker_folder, BrokerUrl.parse(config.broker.url).port)
    stopping = threading.Event()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, lambda *_: stopping.set())
    running.start()
    stopping.wait()
    running.stop()
