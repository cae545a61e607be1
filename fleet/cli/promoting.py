"""``fieldfare run promote``: the candidate of a run becomes a release, and is rolled out."""

from pathlib import Path

import click

from fleet.cli.client import ManagerClient, path_of
from fleet.cli.output import client_of, home_option, output_option, show, tell
from fleet.cli.publishing import publish_described
from fleet.cli.runs import run
from fleet.config import FleetConfig
from fleet.errors import ConflictError
from fleet.service.views import CandidateView, ReleaseView, RolloutView
from fleet.service.wishes import RolloutWish

__all__ = ["run"]


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
@click.option("--to", "selector", help="Only devices that match, as in 'rollout create'.")
@click.option(
    "--despite-guard",
    is_flag=True,
    help="Also devices for which it is better although their cohort gets worse; the release's "
    "lineage says so.",
)
@home_option
@output_option
def promote(
    run_id: str,
    version: str | None,
    canary: str,
    soak_seconds: float,
    no_rollout: bool,
    selector: str | None,
    despite_guard: bool,
    home: Path,
    output: str,
) -> None:
    """Sign the candidate of RUN_ID and roll it out to the devices where it is better.

    Only the devices in whose own decide windows the candidate beats what they run get it,
    and only where no cohort of theirs (participants, guard, groups) gets worse by more than
    chance explains; withheld windows decide nothing. A candidate that was published before
    is not signed again, only rolled out.
    """
    from fleet.service.promotion import reach_of, require_receivers
    from fleet.service.publication import describe_candidate

    config = FleetConfig.load(home)
    with client_of(config) as client:
        candidate = client.get(path_of("runs", run_id, "candidate"), CandidateView)
        among = client.get(path_of("selections", selector), tuple[str, ...]) if selector else None
        reach = reach_of(candidate, among=among, despite_guard=despite_guard)
        if not no_rollout:
            require_receivers(candidate, reach)
        before = _published(client, run_id)
        if before and version not in {None, before.version}:
            raise ConflictError(f"{run_id} was published as {before.name} already")
        release = before or publish_described(
            config, client, describe_candidate(candidate, reach.note), version
        )
        rollout = None
        if not no_rollout:
            wish = RolloutWish(
                release=release.digest,
                devices=reach.receivers,
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
                f"{rollout.id}: to {len(reach.receivers)} of {len(candidate.judged)} devices"
            )
        for line in reach.told:
            tell(f"  {line}")

    made = {"release": release, "rollout": rollout, "receivers": reach.receivers}
    show({**made, "told": reach.told}, output, text)


def _published(client: ManagerClient, run_id: str) -> ReleaseView | None:
    """Return the release that was made of a run: a promotion may be asked for again."""
    made = [v for v in client.get("/releases", list[ReleaseView]) if v.run == run_id]
    return made[-1] if made else None
