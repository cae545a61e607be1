"""``fieldfare broker rotate-ca``: another authority for the broker, leaving nobody behind."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.contract.endpoints import Endpoint
from fleet.cli.endpoints import manager_of, settle_endpoints
from fleet.cli.output import client_of, home_option
from fleet.cli.proposing import Settle, settles
from fleet.config import FleetConfig
from fleet.errors import ConfigError

if TYPE_CHECKING:
    from fleet.service.endpoints import EndpointsView
    from fleet.signing.published import Published

_PEM = click.Path(path_type=Path, dir_okay=False)


@click.group("rotate-ca")
def rotate_ca() -> None:
    """Change the authority of the broker's certificate, in three steps.

    \b
    begin    make it, and have devices believe both
    switch   let the broker show a certificate by the new one
    retire   when all devices have confirmed: have them believe the new one alone

    \b
    abandon  before the switch: go back to the old one

    'fieldfare endpoint show' says who has confirmed. Each step may be repeated.
    """  # noqa: D301 - click wants the control character, not a backslash


@rotate_ca.command("begin")
@click.option(
    "--tls-ca", "authority", type=_PEM, help="An authority of your own (PEM), instead of a new one."
)
@click.option("--tls-cert", "certificate", type=_PEM, help="Certificate chain by it (PEM).")
@click.option("--tls-key", "key_file", type=_PEM, help="The key of that, without a passphrase.")
@settles
def begin(
    authority: Path | None,
    certificate: Path | None,
    key_file: Path | None,
    held: "Published",
    settle: Settle,
) -> None:
    """Lay a new authority ready, and have devices believe both.

    The broker goes on showing what it shows. Enrolment files that are made from now on
    name both. Repeat it to see and sign the list of endpoints again.
    """
    from fleet.service import rotation

    config = manager_of(settle)
    brought = None
    if authority or certificate or key_file:
        if not (authority and certificate and key_file):
            raise ConfigError("--tls-ca, --tls-cert and --tls-key are given together")
        brought = rotation.Brought(authority=authority, certificate=certificate, key=key_file)
    begun = rotation.begin(config, brought, datetime.now(UTC))
    view = _view(config)
    wanted = rotation.overlapping(view, begun)
    if view.version and _is_in_force(view, wanted):
        click.echo(f"list version {view.version} names both authorities already")
    else:
        settle_endpoints(settle, held, view, wanted, force=False)
    if begun.stranded:
        click.secho(
            "no bridge leads from the old authority to the new one "
            f"({begun.stranded}): the switch has to wait for every device",
            fg="yellow",
            err=True,
        )
    click.echo("next: fieldfare broker rotate-ca switch")


@rotate_ca.command("switch")
@click.option(
    "--force", is_flag=True, help="Also where devices that have not confirmed would be stranded."
)
@home_option
def switch(force: bool, home: Path) -> None:
    """Let the broker show a certificate by the new authority.

    The old authority has signed the new one as well, and that is shown with it: devices
    that were away and believe only the old one come back. Where no such bridge is possible
    it is refused until all devices have confirmed.
    """
    from fleet.service import rotation

    config = FleetConfig.load(home)
    rotation.switch(config, _view(config), force=force)
    click.echo(f"wrote {config.broker_folder / 'server.pem'}")
    _tell_broker(config)
    click.echo("then, when all have confirmed: fieldfare broker rotate-ca retire")


@rotate_ca.command("retire")
@click.option(
    "--force",
    is_flag=True,
    help="Also where devices have not confirmed; who of them never heard of the new authority "
    "must be enrolled anew, by hand.",
)
@settles
def retire(force: bool, held: "Published", settle: Settle) -> None:
    """Have devices believe the new authority alone, and forget the old one.

    Refused while devices have not confirmed the list that names both. With --file, publish
    what the others signed and then repeat this to forget the old authority here too.
    """
    from fleet.service import rotation

    config = manager_of(settle)
    found = rotation.require_rotation(config)
    rotation.require_switched(found)
    view = _view(config)
    wanted = rotation.renewed(view, found)
    if not _is_in_force(view, wanted):
        settle_endpoints(settle, held, view, wanted, force=force)
        if settle.file is not None:
            return
    rotation.finish(config, found)
    click.echo("the old authority is forgotten: enrolment and manager believe the new one alone")
    _tell_broker(config)


@rotate_ca.command("abandon")
@settles
def abandon(held: "Published", settle: Settle) -> None:
    """Go back to the old authority alone, as long as the broker shows no other.

    Enrolment files that were made meanwhile name both authorities, and go on working.
    """
    from fleet.service import rotation

    config = manager_of(settle)
    found = rotation.require_rotation(config)
    rotation.require_not_switched(found)
    view = _view(config)
    wanted = rotation.without_new(view, found)
    if view.version and not _is_in_force(view, wanted):
        # Nobody needs the new authority: it has signed nothing that was ever shown.
        settle_endpoints(settle, held, view, wanted, force=True)
        if settle.file is not None:
            return
    rotation.abandon(config, found)
    click.echo("the new authority is forgotten; the broker shows what it showed")


def _view(config: FleetConfig) -> "EndpointsView":
    from fleet.service.endpoints import EndpointsView

    with client_of(config) as client:
        return client.get("/endpoints", EndpointsView)


def _is_in_force(view: "EndpointsView", wanted: tuple[Endpoint, ...]) -> bool:
    return [(e.url, e.cas) for e in view.endpoints] == [(e.url, e.cas) for e in wanted]


def _tell_broker(config: FleetConfig) -> None:
    if config.broker.wss_url:
        click.echo(
            "next: start the broker anew: mosquitto reads the certificate of a WebSocket listener "
            "only then"
        )
        return
    click.echo(
        "next: have the broker read it: send mosquitto a SIGHUP (systemctl reload mosquitto), "
        "which ends no connection, or start it anew"
    )
