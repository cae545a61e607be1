"""``fieldfare model bundle``: an update in one file, for devices without a network."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from agent.contract.bundle import BundleWriter
from fleet.cli.client import ManagerClient, path_of
from fleet.cli.offline import model
from fleet.cli.output import client_of, home_option, moment, tell
from fleet.config import FleetConfig
from fleet.errors import ConfigError
from fleet.service.views import BundleView
from fleet.service.wishes import BundleWish

__all__ = ["model"]


@model.command("bundle", short_help="Write a RELEASE into a file for devices without a network.")
@click.argument("release")
@click.option("--device", "devices", multiple=True, metavar="ID", help="For this; repeatable.")
@click.option("--all", "every", is_flag=True, help="For every enrolled device that it fits.")
@click.option(
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write; one that exists is replaced.",
)
@home_option
def bundle(release: str, devices: tuple[str, ...], every: bool, file: Path, home: Path) -> None:
    """Assign RELEASE to devices, and write everything that they need into one file.

    Carry the file to the devices and give it to 'fieldfare-agent apply'. It holds trust
    metadata, signed assignments and artifacts, and is verified like what comes over the
    air: it need not be guarded, but it expires. Devices that come online meanwhile get the
    same by the network. A release that is encrypted stays so in the file.
    """
    if every == bool(devices):
        raise click.UsageError("say --device ID (repeatable) or --all")
    with client_of(FleetConfig.load(home)) as client:
        wish = BundleWish(release=release, devices=devices, every=every)
        view = client.post("/bundles", wish, BundleView)
        _write_whole(file, lambda out: _write(out, client, view))
    for device, why in view.passed_over.items():
        tell(f"passed over {device}: {why}", err=True)
    tell(
        f"wrote {file} ({file.stat().st_size} bytes): {view.release} for "
        f"{len(view.assignments)} devices, until {moment(view.until_ms)}"
    )
    click.echo(f"next, on each device: fieldfare-agent apply {file.name}")


def _write(out: BinaryIO, client: ManagerClient, view: BundleView) -> None:
    writer = BundleWriter(out)
    for name, content in view.metadata.items():
        writer.metadata(name, content)
    for device, document in view.assignments.items():
        writer.assignment(device, document)
    for part in view.files:
        writer.file(part.digest, part.size, client.blocks(path_of("artifacts", part.digest)))
    writer.end()


def _write_whole(file: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file beside its place and then put it there, or leave nothing."""
    beside = file.with_name(f"{file.name}.part")
    try:
        try:
            with beside.open("wb") as out:
                write(out)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as why:
        raise ConfigError(f"{file} cannot be written: {why.strerror or why}") from why
