"""``fieldfare run``: federated rounds, and the release that comes of them."""

from pathlib import Path

import click

from fleet.cli.client import ManagerClient, path_of
from fleet.cli.judged import print_figures
from fleet.cli.output import ago, show, table, tell, with_manager
from fleet.cli.round_options import round_options
from fleet.cli.rounds_shown import print_rounds
from fleet.cli.strategy_options import strategy_options
from fleet.cli.updates_option import updates_option
from fleet.cli.watching import show_or_watch, watch_option
from fleet.service.views import RunView
from fleet.service.wishes import RunWish


@click.group()
def run() -> None:
    """Federated runs: start, list, show, pause, resume, stop, promote."""


@run.command()
@click.argument("slot")
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000),
    default=3,
    show_default=True,
    help="Rounds of training.",
)
@click.option(
    "--select", default="all", show_default=True, help="Which devices, as in 'rollout create'."
)
@click.option(
    "--guard",
    default="",
    help="Devices that judge the candidate and do not train, as in --select, and beside it: they "
    "stand for everybody who was not asked. Every selected device that only judges guards too.",
)
@click.option(
    "--held-out",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="Labelled windows of your own (.npz with x and y), measured at the end; see 'evaluate'.",
)
@click.option(
    "--promote",
    type=click.Choice(["auto"]),
    callback=lambda _context, _option, value: value or "",
    help="auto: the manager signs the candidate with its own key and rolls it out in waves, "
    "by [promotion] in fleet.toml; it needs 'keys rounds create'. Default: 'run promote'.",
)
@round_options
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="Fixes every random choice.",
)
@click.option("--learning-rate", type=float, help="Of the built-in head trainer.")
@click.option("--epochs", type=int, help="Passes over a device's windows in each round.")
@click.option(
    "--anchor",
    type=float,
    help="How strongly a head is held near the anchor; default: 0.005, at the head received 0.05.",
)
@click.option(
    "--anchor-to",
    type=click.Choice(["running", "received"]),
    help="The running release's head, which is usual, or the one that the round began with: "
    "usual under fedprox and with an app.",
)
@strategy_options
@updates_option
@click.option(
    "--app", help="module:attribute of a Flower ServerApp instead of the built-in strategies."
)
@click.option(
    "--app-folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of a Flower app: where that module lies; without --app, the serverapp that its "
    "pyproject.toml names.",
)
@click.option(
    "--client-app",
    help="NAME or NAME/NUMBER of a signed app ('run app publish') that devices train with; its "
    "server side is taken too, unless --app names another. Default: the built-in trainer.",
)
@with_manager
def start(client: ManagerClient, output: str, app_folder: Path | None, **wish: object) -> None:
    """Start a run for SLOT on the release that its devices run now.

    Devices that take part in another run are left out. A round of training closes as soon
    as it has the good answers that it wants, or at its deadline.
    """
    folder = str(app_folder.resolve()) if app_folder else None
    wish["clients"] = wish["clients"] or 0
    view = client.post("/runs", RunWish(app_folder=folder, **wish), RunView)  # type: ignore[arg-type]  # click has checked them
    show(view, output, lambda: _print(view))


@run.command("list")
@with_manager
def list_runs(client: ManagerClient, output: str) -> None:
    """Show every run."""
    views = client.get("/runs", list[RunView])
    rows = [
        (
            v.id,
            v.backbone,
            v.status,
            f"{v.rounds_completed}/{v.rounds}",
            len(v.participants),
            ago(v.started_ms),
            v.why,
        )
        for v in views
    ]
    headings = ("RUN", "FROM", "STATUS", "ROUNDS", "DEVICES", "STARTED", "WHY")
    show(views, output, lambda: table(headings, rows, "no runs: 'fieldfare run start'"))


@run.command("show")
@click.argument("run_id")
@watch_option
@with_manager
def show_run(client: ManagerClient, output: str, run_id: str, watch: bool) -> None:
    """Show one run: rounds, replies, and the candidate on every device's own windows."""
    path = path_of("runs", run_id)
    show_or_watch(
        lambda: client.get(path, RunView),
        watched=watch,
        output=output,
        ended=lambda view: view.ended_ms is not None,
        draw=_print,
    )


@run.command()
@click.argument("run_id")
@with_manager
def pause(client: ManagerClient, output: str, run_id: str) -> None:
    """Hold a run: nothing is offered, deadlines stand still; what devices answer counts."""
    view = client.post(path_of("runs", run_id, "pause"), None, RunView)
    show(view, output, lambda: _print(view))


@run.command()
@click.argument("run_id")
@with_manager
def resume(client: ManagerClient, output: str, run_id: str) -> None:
    """Let a paused run go on."""
    view = client.post(path_of("runs", run_id, "resume"), None, RunView)
    show(view, output, lambda: _print(view))


@run.command()
@click.argument("run_id")
@with_manager
def stop(client: ManagerClient, output: str, run_id: str) -> None:
    """End a run without a candidate."""
    view = client.post(path_of("runs", run_id, "stop"), None, RunView)
    show(view, output, lambda: _print(view))


def _print(view: RunView) -> None:
    tell(
        f"{view.id}: {view.status}, round {view.rounds_completed} of {view.rounds}, "
        f"from {view.backbone}"
    )
    if view.why:
        tell(f"  {view.why}")
    tell(
        f"  {len(view.participants)} devices train; {view.replies} replies counted, "
        f"{view.refused} refused"
    )
    print_rounds(view)
    print_figures(view)
