"""``fieldfare run``: federated rounds, and the release that comes of them."""

from pathlib import Path

import click

from agent.contract.messages import Quality
from fleet.cli.client import ManagerClient, path_of
from fleet.cli.output import (
    ago,
    client_of,
    home_option,
    output_option,
    show,
    table,
    tell,
    with_manager,
)
from fleet.cli.publishing import publish_described
from fleet.cli.watching import show_or_watch, watch_option
from fleet.config import FleetConfig
from fleet.errors import ConflictError
from fleet.service.views import CandidateView, ReleaseView, RolloutView, RunView
from fleet.service.wishes import RolloutWish, RunWish


@click.group()
def run() -> None:
    """Federated runs: start, list, show, stop, promote."""


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
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="Fixes every random choice.",
)
@click.option("--learning-rate", type=float, help="Of the built-in head trainer.")
@click.option("--epochs", type=int, help="Passes over a device's windows in each round.")
@click.option("--anchor", type=float, help="How strongly a head is held near the one it got.")
@click.option(
    "--app", help="module:attribute of a Flower ServerApp instead of the built-in FedAvg."
)
@click.option(
    "--app-folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where that module lies.",
)
@with_manager
def start(client: ManagerClient, output: str, app_folder: Path | None, **wish: object) -> None:
    """Start a run for SLOT on the release that its devices run now."""
    folder = str(app_folder.resolve()) if app_folder else None
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
def stop(client: ManagerClient, output: str, run_id: str) -> None:
    """End a run without a candidate."""
    view = client.post(path_of("runs", run_id, "stop"), None, RunView)
    show(view, output, lambda: _print(view))


@run.command()
@click.argument("run_id")
@click.option("--version", help="Name of the release; default: v and the counter.")
@click.option("--canary", default="1", show_default=True, help="Size of the first wave.")
@click.option(
    "--soak",
    "soak_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds between waves.",
)
@click.option("--no-rollout", is_flag=True, help="Publish only.")
@home_option
@output_option
def promote(
    run_id: str,
    version: str | None,
    canary: str,
    soak_seconds: float,
    no_rollout: bool,
    home: Path,
    output: str,
) -> None:
    """Sign the candidate of RUN_ID and roll it out to the devices where it is better.

    Only the devices in whose own decide windows the candidate beats what they run get it;
    withheld windows decide nothing. A candidate that was published before is not signed
    again, only rolled out.
    """
    from fleet.service.publication import describe_candidate

    config = FleetConfig.load(home)
    with client_of(config) as client:
        candidate = client.get(path_of("runs", run_id, "candidate"), CandidateView)
        if not candidate.receivers and not no_rollout:
            raise ConflictError(
                f"the candidate of {run_id} is better on no device's decide windows, so nobody "
                "would receive it; --no-rollout publishes it all the same"
            )
        before = _published(client, run_id)
        if before and version not in {None, before.version}:
            raise ConflictError(f"{run_id} was published as {before.name} already")
        release = before or publish_described(
            config, client, describe_candidate(candidate), version
        )
        rollout = None
        if not no_rollout:
            wish = RolloutWish(
                release=release.digest,
                devices=candidate.receivers,
                canary=canary,
                soak_seconds=soak_seconds,
            )
            rollout = client.post("/rollouts", wish, RolloutView)

    def text() -> None:
        if before:
            click.echo(f"{release.name} was published from {run_id} before")
        else:
            click.echo(f"published {release.name} from {run_id}, {candidate.rounds} rounds")
        if rollout:
            click.echo(
                f"{rollout.id}: to {len(candidate.receivers)} of {len(candidate.judged)} devices"
            )

    show({"release": release, "rollout": rollout, "receivers": candidate.receivers}, output, text)


def _published(client: ManagerClient, run_id: str) -> ReleaseView | None:
    """Return the release that was made of a run: a promotion may be asked for again."""
    made = [v for v in client.get("/releases", list[ReleaseView]) if v.run == run_id]
    return made[-1] if made else None


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
    rows = [
        (
            j.device,
            "trained" if j.trained else "stranger",
            _change(j.decide_before, j.decide_after),
            _change(j.withheld_before, j.withheld_after),
            "receives" if j.receives else "keeps",
            j.why,
        )
        for j in view.judged
    ]
    if rows:
        table(("DEVICE", "PART", "DECIDE", "WITHHELD", "VERDICT", "WHY"), rows, "")


def _change(before: Quality | None, after: Quality | None) -> str:
    if before is None or after is None:
        return "-"
    return f"{before.accuracy:.3f} → {after.accuracy:.3f} (n={after.windows})"
