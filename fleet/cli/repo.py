"""``fieldfare repo``: the signed metadata that devices fetch."""

import click

from fleet.cli.client import ManagerClient
from fleet.cli.output import show, with_manager


@click.group()
def repo() -> None:
    """The signed metadata that devices fetch."""


@repo.command("refresh")
@with_manager
def refresh(client: ManagerClient, output: str) -> None:
    """Sign snapshot and timestamp anew, now.

    The manager does it by itself when they live less than six days more; an operator
    does it to see that it can.
    """
    from fleet.service.trust import TrustView

    view = client.post("/trust/refresh", None, TrustView)
    show(
        view,
        output,
        lambda: click.echo(
            "signed anew: " + ", ".join(f"{role} {n}" for role, n in view.versions.items())
        ),
    )
