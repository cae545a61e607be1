"""``fieldfare doctor``: what is wrong with this manager, and what to do about it."""

import os
import socket
import time
from pathlib import Path

import click
import msgspec

from agent.contract.plain_text import plain_json
from fleet.cli.client import ManagerClient
from fleet.cli.output import home_option, output_option
from fleet.config import FleetConfig
from fleet.errors import FleetError, UnreachableError
from fleet.service.views import StatusView


@click.command()
@home_option
@output_option
@click.pass_context
def doctor(context: click.Context, home: Path, output: str) -> None:
    """Say what is wrong with this manager, and what to do about it.

    Looks at the settings, keys, signed metadata, registry, artifacts, clock and disk, at the
    broker's configuration and certificate, and at the way to the broker; changes nothing and
    needs no running manager. Leaves with status 1 if a check fails.
    """
    from agent.contract.checkup import describe
    from fleet.service.doctor import Found, examine, is_held

    config: FleetConfig | FleetError
    try:
        config = FleetConfig.load(home)
    except FleetError as why:
        config = why
    found = examine(
        Found(
            config=config,
            home=home,
            running=is_held(home),
            status=None if isinstance(config, FleetError) else _status(config),
            now_ms=int(time.time() * 1000),
            environment=dict(os.environ),
        )
    )
    if output == "json":
        click.echo(plain_json(msgspec.json.format(msgspec.json.encode(found), indent=2).decode()))
    else:
        click.echo(describe(found))
    if found.failed:
        context.exit(1)


def _status(config: FleetConfig) -> StatusView | FleetError | None:
    if not config.socket.exists():
        return None
    with socket.socket(socket.AF_UNIX) as probe:  # the HTTP library forgets one that is refused
        try:
            probe.connect(str(config.socket))
        except OSError as why:
            return UnreachableError(f"{config.socket}: {why.strerror or why}")
    with ManagerClient(config.socket) as client:
        try:
            return client.get("/status", StatusView)
        except FleetError as why:
            return why
