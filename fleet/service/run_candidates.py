"""The model that a finished run offers for signing.

Rule 1: whether a device receives it is decided by the device's *decide* windows alone.
"""

from fleet.errors import ConflictError, RefusedError
from fleet.registry.runs import RunRow
from fleet.release.candidate import with_head
from fleet.rounds.conduct import Conductor
from fleet.rounds.engine import FINAL
from fleet.rounds.events import HeldOut, encode_event
from fleet.rounds.intervals import is_sound
from fleet.service import contents
from fleet.service.desk import Desk
from fleet.service.run_doors import conductor_of, head_of, row_of
from fleet.service.run_views import plan_of
from fleet.service.runs import show
from fleet.service.views import CandidateView, RunView
from fleet.service.wishes import HeldOutWish


def candidate(desk: Desk, run: str) -> CandidateView:
    """Return the model that a finished run offers.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: The run has no candidate.

    """
    row = row_of(desk, run)
    plan, shown = plan_of(row), show(desk, run)
    if shown.status != "finished":
        raise ConflictError(f"{run} has no candidate: it is {shown.status}")
    if desk.registry.runs.blob(run, FINAL) is None:
        raise ConflictError(
            f"{run} has no candidate any more: its weights were removed "
            f"{desk.config.retention.runs_days} days after its end (retention.runs_days)"
        )
    head = _find_conductor(desk, row).candidate()
    if head is None:
        raise ConflictError(f"{run} has no candidate")
    parent = desk.registry.models.require(plan.backbone)
    release, place = parent.release, head_of(parent)
    running = contents.read(desk, release.variants[0].model)
    return CandidateView(
        run=run,
        slot=plan.slot,
        family=release.family,
        parent=parent.digest,
        parent_manifest=parent.manifest,
        parent_golden=contents.read(desk, release.golden),
        model=with_head(running, place, head.weight, head.bias),
        rounds=shown.rounds_completed,
        cohort=plan.participants,
        receivers=tuple(j.device for j in shown.judged if j.receives),
        judged=shown.judged,
        cohorts=shown.cohorts,
        strategy=plan.strategy.name if plan.strategy else plan.app or "fedavg",
        seed=plan.seed,
    )


def held_out(desk: Desk, run: str, wish: HeldOutWish) -> RunView:
    """Note what running release and candidate made of an operator's labelled windows.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: The run has no candidate.
        RefusedError: The figures cannot be.

    """
    if show(desk, run).status != "finished":
        raise ConflictError(f"{run} has no candidate to be measured")
    if not is_sound((wish.running, wish.candidate)):
        raise RefusedError("these figures are not of the same windows, or right more often")
    event = HeldOut(
        digest=wish.digest, running=wish.running, candidate=wish.candidate, at_ms=desk.now_ms()
    )
    desk.registry.runs.note(run, encode_event(event))
    return show(desk, run)


def _find_conductor(desk: Desk, row: RunRow) -> Conductor:
    running = desk.conductors.get(row.id)
    return running or conductor_of(desk, plan_of(row), history=desk.registry.runs.journal(row.id))
