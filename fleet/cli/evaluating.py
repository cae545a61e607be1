"""``fieldfare run evaluate``: running release and candidate on a labelled set of your own."""

from pathlib import Path

import click

from agent.contract.manifest import decode_release
from fleet.cli.client import ManagerClient, path_of
from fleet.cli.judged import print_held_out
from fleet.cli.output import show, with_manager
from fleet.cli.publishing import artifact_bytes
from fleet.cli.runs import run
from fleet.errors import ConflictError
from fleet.service.views import CandidateView, RunView
from fleet.service.wishes import HeldOutWish

__all__ = ["run"]


@run.command()
@click.argument("run_id")
@click.argument("file", type=click.Path(path_type=Path))
@with_manager
def evaluate(client: ManagerClient, output: str, run_id: str, file: Path) -> None:
    """Measure running release and candidate of RUN_ID on the labelled windows in FILE.

    FILE is an .npz of x (n, channels, samples) float32, in raw units, and y (n,) int64. The
    figures stand beside those of the devices in 'run show'; they decide nothing. 'run start
    --held-out FILE' does it at the end of the run.
    """
    from fleet.release.held_out import read_held_out, right_answers

    held_out = read_held_out(file)
    candidate = client.get(path_of("runs", run_id, "candidate"), CandidateView)
    parent = decode_release(candidate.parent_manifest)
    if parent.probabilities is None:
        raise ConflictError(f"{parent.family} {parent.version} has no output of probabilities")
    running = artifact_bytes(client, parent.variants[0].model)
    wish = HeldOutWish(
        digest=held_out.digest,
        running=right_answers(running, parent.probabilities, held_out),
        candidate=right_answers(candidate.model, parent.probabilities, held_out),
    )
    view = client.post(path_of("runs", run_id, "held-out"), wish, RunView)
    show(view, output, lambda: print_held_out(view))
