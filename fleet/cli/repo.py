"""``fieldfare repo``: the signed metadata that devices fetch."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from fleet.cli.client import ManagerClient
from fleet.cli.endpoints import manager_of
from fleet.cli.output import client_of, show, with_manager
from fleet.cli.proposing import Settle, settles

if TYPE_CHECKING:
    from fleet.signing.published import Published


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


@repo.command("resume")
@settles
def resume(held: "Published", settle: Settle) -> None:
    """Sign the targets anew above what devices have seen, after a restore from a copy.

    Everything else a restored manager resumes by itself. Until this is done, devices that
    saw newer targets refuse new releases. Releases that were published after the copy was
    made are not in the list any more: publish them again.
    """
    from fleet.errors import RefusedError
    from fleet.service.trust import TrustView
    from fleet.signing.lifting import propose_lift

    with client_of(manager_of(settle)) as client:
        view = client.get("/trust", TrustView)
    if "root" in view.seen:
        raise RefusedError(
            f"devices have seen root version {view.seen['root']}, this manager has "
            f"{view.versions['root']}: publish its proposal again ('keys root publish FILE') first"
        )
    if "targets" not in view.seen:
        click.echo(f"no device has seen more than targets version {view.versions['targets']}")
        return
    settle(propose_lift(held, view.seen["targets"], datetime.now(UTC)))
    if settle.file is None:
        click.echo("next: publish again what the list lacks, and roll it out")
