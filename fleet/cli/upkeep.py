"""``fieldfare prune``, ``backup`` and ``restore``: what a manager needs in its second year."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.client import ManagerClient
from fleet.cli.output import home_option, output_option, show, tell, with_manager
from fleet.config import FleetConfig

if TYPE_CHECKING:
    from fleet.service.views import PruneView

_MEGABYTE = 1_000_000


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@with_manager
def prune(client: ManagerClient, dry_run: bool, output: str) -> None:
    """Remove what nobody needs, and move old events to files.

    The manager does it by itself every hour, as [retention] of fleet.toml says. What goes:

    \b
    artifacts  of withdrawn releases that no device runs, tries, keeps or is wanted to
               run, and uploads that never became a release
    spools     replies of federated runs that have ended, and in the end their weights
    events     to archive/ in the manager's home; the chain of the log goes on there, and
               'fieldfare doctor' checks it. These files may be moved elsewhere.
    """  # noqa: D301 - click wants the control character, not a backslash
    from fleet.service.views import PruneView
    from fleet.service.wishes import PruneWish

    view = total = client.post("/prune", PruneWish(dry_run=dry_run), PruneView)
    while view.more and not dry_run:
        view = client.post("/prune", PruneWish(), PruneView)
        total = _sum(total, view)
    show(total, output, lambda: _tell(total))


def _sum(so_far: "PruneView", view: "PruneView") -> "PruneView":
    from msgspec.structs import replace

    return replace(
        view,
        artifacts=so_far.artifacts + view.artifacts,
        artifact_bytes=so_far.artifact_bytes + view.artifact_bytes,
        events=so_far.events + view.events,
        runs=so_far.runs + view.runs,
        candidates=so_far.candidates + view.candidates,
        run_bytes=so_far.run_bytes + view.run_bytes,
    )


def _tell(view: "PruneView") -> None:
    lines = list(_lines(view))
    for line in lines or ["nothing may go"]:
        tell(line)
    click.echo(f"{view.free_bytes // _MEGABYTE} MB are free")


def _lines(view: "PruneView") -> Iterator[str]:
    done = "would be" if view.dry_run else "were"
    if view.artifacts:
        size = view.artifact_bytes / _MEGABYTE
        yield f"{len(view.artifacts)} artifacts of {size:.1f} MB {done} removed"
    if view.runs:
        size = view.run_bytes / _MEGABYTE
        yield f"{size:.1f} MB of {len(view.runs)} ended runs {done} removed"
    if view.candidates:
        yield f"the weights of {', '.join(view.candidates)} are among them: no candidate any more"
    if view.events:
        more = " or more" if view.more else ""
        yield f"{view.events}{more} events {done} moved to archive/"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@home_option
@output_option
def backup(home: Path, output: str, file: Path) -> None:
    """Write the manager's home to FILE, a tar archive; the manager may run meanwhile.

    FILE holds the manager's keys (in a development fleet the offline keys as well), broker
    accounts and content keys: keep it as secret as the home. It is read back before it has
    its name.
    """
    from fleet.service.backup import back_up

    view = back_up(FleetConfig.load(home), file)
    size = view.size_bytes / _MEGABYTE
    show(view, output, lambda: tell(f"{view.files} files, {size:.1f} MB, are in {view.file}"))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@home_option
@output_option
def restore(home: Path, output: str, file: Path) -> None:
    """Make --home from FILE, which 'fieldfare backup' wrote; it must not exist or be empty.

    Never let two managers of one fleet run: stop the other one first. Devices may have
    accepted more than the backup knows; the manager goes on above what they report.
    """
    from fleet.service.backup import restore as restore_home

    view = restore_home(file, home)

    def text() -> None:
        tell(f"{view.files} files of fleet {view.fleet} are in {view.home}")
        tell(f"next: fieldfare doctor --home {view.home}")

    show(view, output, text)
