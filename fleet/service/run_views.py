"""Federated runs as people see them: read from the journal, never from what trained."""

from agent.contract.codec import decode
from fleet.registry.runs import RunRow
from fleet.rounds.cohort import better
from fleet.rounds.conduct import Conductor
from fleet.rounds.engine import RunPlan, RunState, replay
from fleet.rounds.events import decode_event
from fleet.service.desk import Desk
from fleet.service.overview import name_of
from fleet.service.views import JudgedView, RunView

_MAX_PLAN_BYTES = 4 * 1024 * 1024


def plan_of(row: RunRow) -> RunPlan:
    """Return what was asked for."""
    return decode(RunPlan, row.plan, limit=_MAX_PLAN_BYTES)


def view(desk: Desk, row: RunRow, conductor: Conductor | None) -> RunView:
    """Return what people see of a run.

    An ended one is told from its journal alone: what it was made of may be gone.
    """
    plan = plan_of(row)
    if conductor is not None:
        state = conductor.state
    else:
        state = replay(plan, map(decode_event, desk.registry.runs.journal(row.id)))
    return RunView(
        id=row.id,
        slot=plan.slot,
        backbone=name_of(desk, plan.backbone),
        backbone_digest=plan.backbone,
        status=state.status,
        why=state.why,
        rounds=plan.rounds,
        rounds_completed=state.rounds_completed,
        participants=plan.participants,
        replies=state.replies,
        refused=state.refused,
        judged=_judge(plan, state),
        started_ms=plan.started_ms,
        ended_ms=None if state.active else row.changed_ms,
    )


def _judge(plan: RunPlan, state: RunState) -> tuple[JudgedView, ...]:
    decide = {d: (told.decide_running, told.decide) for d, told in state.figures.items()}
    views = []
    for verdict in better(decide):
        told = state.figures[verdict.device]
        views.append(
            JudgedView(
                device=verdict.device,
                trained=verdict.device in plan.participants,
                receives=verdict.receives,
                why=verdict.why,
                decide_before=told.decide_running,
                decide_after=told.decide,
                withheld_before=told.withheld_running,
                withheld_after=told.withheld,
            )
        )
    silent = (
        JudgedView(device=d, trained=d in plan.participants, receives=False, why=why)
        for d, why in sorted(state.silent.items())
    )
    return (*views, *silent)
