"""``fieldfare endpoint``: where devices look for the fleet, signed by the targets keys."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.contract.endpoints import Endpoint, split_authorities
from agent.errors import MalformedError
from fleet.cli.client import ManagerClient
from fleet.cli.output import ago, client_of, table, with_manager
from fleet.cli.output import show as show_view
from fleet.cli.proposing import Settle, settles
from fleet.config import FleetConfig
from fleet.errors import ConfigError

if TYPE_CHECKING:
    from fleet.service.endpoints import EndpointsView
    from fleet.signing.published import Published


@click.group()
def endpoint() -> None:
    """Where devices look for the fleet, and whose certificates they believe there."""


@endpoint.command("show")
@with_manager
def show(client: ManagerClient, output: str) -> None:
    """Show the list in force, and the devices that have not confirmed it.

    A device has confirmed a list when it holds it and the fleet has answered it through
    one of its endpoints.
    """
    from fleet.service.endpoints import EndpointsView

    view = client.get("/endpoints", EndpointsView)
    show_view(view, output, lambda: tell(view))


@endpoint.command("change")
@click.argument("endpoints", nargs=-1, required=True, metavar="URL[=CA.pem]…")
@click.option(
    "--force",
    is_flag=True,
    help="Strike what devices may still need; who does must be enrolled anew, by hand.",
)
@settles
def change(endpoints: tuple[str, ...], force: bool, held: "Published", settle: Settle) -> None:
    """Have devices look for the fleet at these endpoints, the first before the others.

    Say URL=CA.pem where an authority is to be believed there, several in one file where
    several are; URL alone keeps what is believed at that address now, or takes the
    broker's own authorities.

    A device tries a new endpoint, keeps it when the fleet answers through it, and goes
    back otherwise. Name the old endpoints after the new ones until 'endpoint show' says
    that all devices have confirmed; only then leave them out.
    """
    config = manager_of(settle)
    with client_of(config) as client:
        view = _view(client)
    settle_endpoints(
        settle, held, view, [_read(text, view, config) for text in endpoints], force=force
    )


def settle_endpoints(
    settle: Settle,
    held: "Published",
    view: "EndpointsView",
    endpoints: Sequence[Endpoint],
    *,
    force: bool,
) -> None:
    """Propose a list, unless it leaves devices behind.

    Raises:
        RefusedError: It does, and nobody says ``force``.
        SigningError: It is not in order, or cannot be signed.

    """
    from fleet.service.endpoints import require_nobody_left, struck_by
    from fleet.signing.endpoints import propose_endpoints

    if not force:
        require_nobody_left(view, endpoints)
    for what in struck_by(view, endpoints):
        click.secho(f"struck: {what}", fg="red")
    settle(propose_endpoints(held, endpoints, datetime.now(UTC)))


def manager_of(settle: Settle) -> FleetConfig:
    """Return the configuration of the manager, which knows the devices.

    Raises:
        ConfigError: There is none in ``--home``.

    """
    if settle.config is None:
        raise ConfigError("this needs the running manager, which knows the devices: say its --home")
    return settle.config


def tell(view: "EndpointsView") -> None:
    """Print the list and its stragglers."""
    if view.version:
        click.echo(f"list version {view.version}; devices prefer the first")
    else:
        click.echo("no list is signed: devices keep to what their enrolment said")
    for each in view.endpoints:
        used = f"; {len(each.users)} device(s) reach the fleet by it" if view.version else ""
        click.echo(f"  {each.url}{used}")
        for mark in each.fingerprints:
            click.echo(f"    believes authority sha256 {mark}")
    total = view.confirmed + len(view.stragglers)
    if not view.version:
        return
    click.echo(f"\n{view.confirmed} of {total} enrolled device(s) have confirmed it")
    if view.stragglers:
        table(
            ("NOT CONFIRMED", "PRESENCE", "SEEN", "HOLDS", "USES"),
            [
                (s.device, s.presence, ago(s.last_seen_ms), s.holds or "none", s.url or "unknown")
                for s in view.stragglers
            ],
            "",
        )


def _view(client: ManagerClient) -> "EndpointsView":
    from fleet.service.endpoints import EndpointsView

    return client.get("/endpoints", EndpointsView)


def _read(text: str, view: "EndpointsView", config: FleetConfig) -> Endpoint:
    from agent.contract.broker_url import BrokerUrl
    from fleet.service.endpoints import broker_authorities

    url, given, file = text.partition("=")
    try:
        secure = BrokerUrl.parse(url).secure
        if given:
            cas = split_authorities(Path(file).read_text())
            if not cas:
                raise ConfigError(f"{file} holds no certificate in PEM")
            return Endpoint(url=url, cas=cas)
    except (MalformedError, UnicodeDecodeError) as why:
        raise ConfigError(f"{text}: {why}") from why
    except OSError as why:
        raise ConfigError(f"{file} cannot be read: {why.strerror or why}") from why
    known = {e.url: e.cas for e in view.endpoints}
    return Endpoint(url=url, cas=known.get(url, broker_authorities(config) if secure else ()))
