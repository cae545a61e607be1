"""Federated runs as people see them: read from the journal, never from what trained."""

from collections.abc import Mapping, Sequence

from agent.contract.codec import decode
from agent.contract.messages import Quality
from fleet.registry.runs import RunRow
from fleet.rounds.cohort import better, cohorts_of, hold_back, judge_cohort
from fleet.rounds.conduct import Conductor
from fleet.rounds.engine import RunPlan, RunState, replay
from fleet.rounds.events import HeldOut, Promoted, RunEvent, decode_event
from fleet.rounds.intervals import Pair, change_of, is_sound, mean_accuracy, worst_decile
from fleet.service.desk import Desk
from fleet.service.judged_views import (
    ChangeView,
    CohortView,
    FiguresView,
    HeldOutView,
    JudgedView,
    MeasuredView,
    PromotionView,
)
from fleet.service.overview import name_of
from fleet.service.round_views import rounds_of
from fleet.service.views import RunView

_MAX_PLAN_BYTES = 4 * 1024 * 1024


def plan_of(row: RunRow) -> RunPlan:
    """Return what was asked for."""
    return decode(RunPlan, row.plan, limit=_MAX_PLAN_BYTES)


def view(desk: Desk, row: RunRow, conductor: Conductor | None) -> RunView:
    """Return what people see of a run.

    An ended one is told from its journal alone: what it was made of may be gone.
    """
    plan = plan_of(row)
    steps: list[RunEvent] = []
    if conductor is not None:
        state = conductor.state
    else:
        steps = [decode_event(step) for step in desk.registry.runs.journal(row.id)]
        state = replay(plan, steps)
    groups = desk.registry.devices.groups() if state.figures else {}
    judged, cohorts = judge(plan, state, groups)
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
        judged=judged,
        cohorts=cohorts,
        promotion=_promotion(desk, steps),
        held_out=_held_out(steps),
        latest=rounds_of(state, conductor.put_off if conductor else {}),
        elsewhere=plan.elsewhere,
        started_ms=plan.started_ms,
        ended_ms=None if state.active else row.changed_ms,
    )


def _promotion(desk: Desk, steps: Sequence[RunEvent]) -> PromotionView | None:
    told = next((step for step in reversed(steps) if isinstance(step, Promoted)), None)
    if told is None:
        return None
    release = None if told.release is None else name_of(desk, told.release)
    return PromotionView(release=release, why=told.why, at_ms=told.at_ms)


def _held_out(steps: Sequence[RunEvent]) -> HeldOutView | None:
    told = next((step for step in reversed(steps) if isinstance(step, HeldOut)), None)
    if told is None:
        return None
    figures = None
    if told.running is not None and told.candidate is not None:
        figures = _figures([(told.running, told.candidate)])
    return HeldOutView(digest=told.digest, figures=figures, why=told.why, at_ms=told.at_ms)


def judge(
    plan: RunPlan, state: RunState, groups: Mapping[str, str]
) -> tuple[tuple[JudgedView, ...], tuple[CohortView, ...]]:
    """Return what devices and cohorts make of the candidate; decide figures alone decide."""
    decide = {d: (told.decide_running, told.decide) for d, told in state.figures.items()}
    withheld = {d: (told.withheld_running, told.withheld) for d, told in state.figures.items()}
    sound = [d for d, pair in decide.items() if is_sound(pair)]
    verdicts = [judge_cohort(c, decide) for c in cohorts_of(sound, plan.participants, groups)]
    judged = [
        JudgedView(
            device=verdict.device,
            trained=verdict.device in plan.participants,
            receives=verdict.receives,
            why=verdict.why,
            decide_before=decide[verdict.device][0],
            decide_after=decide[verdict.device][1],
            withheld_before=withheld[verdict.device][0],
            withheld_after=withheld[verdict.device][1],
            held_back=verdict.held_back,
            decide=_figures([decide[verdict.device]]),
            withheld=_figures([withheld[verdict.device]]),
        )
        for verdict in hold_back(better(decide), verdicts)
    ]
    judged += [
        JudgedView(device=d, trained=d in plan.participants, receives=False, why=why)
        for d, why in sorted(state.silent.items())
    ]
    cohorts = [
        CohortView(
            name=v.cohort.name,
            devices=v.cohort.devices,
            receives=v.receives,
            why=v.why,
            decide=_figures([decide[d] for d in v.cohort.devices]),
            withheld=_figures([withheld[d] for d in v.cohort.devices]),
        )
        for v in verdicts
    ]
    return tuple(judged), tuple(cohorts)


def _figures(pairs: Sequence[Pair]) -> FiguresView | None:
    """Return what can be said of figures; None where none of them can be."""
    sound = [pair for pair in pairs if is_sound(pair)]
    if not sound:
        return None
    change = change_of(sound)
    return FiguresView(
        before=_measured([before for before, _ in sound]),
        after=_measured([after for _, after in sound]),
        change=ChangeView(mean=change.mean, low=change.low, high=change.high),
        worst_decile=worst_decile(sound),
    )


def _measured(measured: Sequence[Quality]) -> MeasuredView:
    accuracy, interval = mean_accuracy(measured)
    return MeasuredView(
        windows=sum(q.windows for q in measured),
        accuracy=accuracy,
        low=interval.low,
        high=interval.high,
    )
