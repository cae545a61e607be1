"""``fieldfare run promote``: the candidate of a run becomes a release, and is rolled out.

Rule 1: the manager's own key for rounds signs by this command too, as does the manager with
        it: there is one way from a candidate to a release.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet.cli.client import ManagerClient, path_of
from fleet.cli.evaluating import run
from fleet.cli.keyring import ADDRESS_HELP, open_signers, passphrase_option, read_passphrase
from fleet.cli.output import client_of, home_option, output_option, show, tell
from fleet.cli.publishing import publish_described
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError
from fleet.service.views import CandidateView, ReleaseView, RolloutView
from fleet.service.wishes import RolloutWish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Signer

    from fleet.service.promotion import Reach

__all__ = ["run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of the command."""

    version: str | None
    canary: str
    soak_seconds: float
    no_rollout: bool
    selector: str | None
    despite_guard: bool
    key: tuple[str, ...]
    passphrase_file: Path | None
    rounds_key: bool

    def __post_init__(self) -> None:
        if self.rounds_key and self.key:
            raise ConfigError("say --key or --rounds-key, not both")

    def signers(self, config: FleetConfig, family: str) -> "Sequence[Signer]":
        """Return the keys that sign; none is the targets key of a development fleet."""
        if not self.rounds_key:
            return open_signers(self.key, self.passphrase_file, dev=config.dev)
        from fleet.signing.rounds_key import open_key

        secret = read_passphrase(self.passphrase_file) if self.passphrase_file else ""
        return [open_key(config.keys, family, secret, dev=config.dev)]


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
@click.option(
    "--key",
    multiple=True,
    help=f"Signs the release: {ADDRESS_HELP.rpartition(',')[0]}; repeatable. A development fleet "
    "takes its own targets key.",
)
@passphrase_option
@click.option(
    "--rounds-key",
    is_flag=True,
    help="Sign with the manager's own key, of 'keys rounds create'; it lies in --home.",
)
@home_option
@output_option
def promote(run_id: str, home: Path, output: str, **options: Any) -> None:
    """Sign the candidate of RUN_ID and roll it out to the devices where it is better.

    Only the devices in whose own decide windows the candidate beats what they run get it,
    and only where no cohort of theirs (participants, guard, groups) gets worse by more than
    chance explains; withheld windows decide nothing. A candidate that was published before
    is not signed again, only rolled out.
    """
    from fleet.service.promotion import reach_of, require_receivers

    asked, config = Asked(**options), FleetConfig.load(home)
    with client_of(config) as client:
        candidate = client.get(path_of("runs", run_id, "candidate"), CandidateView)
        among = None
        if asked.selector:
            among = client.get(path_of("selections", asked.selector), tuple[str, ...])
        reach = reach_of(candidate, among=among, despite_guard=asked.despite_guard)
        if not asked.no_rollout:
            require_receivers(candidate, reach)
        before = _published(client, run_id)
        if before and asked.version not in {None, before.version}:
            raise ConflictError(f"{run_id} was published as {before.name} already")
        release = before or _publish(config, client, candidate, asked, reach)
        rollout = None
        if not asked.no_rollout:
            wish = RolloutWish(
                release=release.digest,
                devices=reach.receivers,
                canary=asked.canary,
                soak_seconds=asked.soak_seconds,
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


def _publish(
    config: FleetConfig,
    client: ManagerClient,
    candidate: CandidateView,
    asked: Asked,
    reach: "Reach",
) -> ReleaseView:
    from fleet.service.publication import describe_candidate

    return publish_described(
        config,
        client,
        describe_candidate(candidate, reach.note),
        asked.version,
        asked.signers(config, candidate.family),
        rounds=asked.rounds_key,
    )


def _published(client: ManagerClient, run_id: str) -> ReleaseView | None:
    """Return the release that was made of a run: a promotion may be asked for again."""
    made = [
        v for v in client.get("/releases", list[ReleaseView]) if v.run == run_id and not v.withdrawn
    ]
    return made[-1] if made else None
