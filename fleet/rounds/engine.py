"""A federated run as a pure step over journalled events.

    training ──ChildFinished──▶ evaluating ──all Evaluated or deadline──▶ finished
        └──────── Stopped, Failed ─────┴──────────────────────────────▶ stopped, failed

Rule 1: every transition is written in ``step``; it does no I/O and reads no clock.
Rule 2: an event is journalled before its effects are performed; effects are safe to
        repeat, and ``resume`` names those that a crash may have swallowed.
Rule 3: Flower's program keeps its state in memory, so it is started again from the
        beginning; each of its sends is known by its ordinal and answered from the
        journal. Other bytes under a known ordinal end the run: it has diverged.
Rule 4: a device that is silent, late or refused costs its own reply and nothing else.
Rule 5: a round closes when it has the good answers that it wants, or all of those that
        it asked for, or at its deadline; what comes later is counted and left out.
Rule 6: while a run is paused nothing is offered and deadlines stand still; what devices
        answer counts all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import assert_never

from fleet.rounds.buffered import end_all, fold, is_full, let_in, open_tasks
from fleet.rounds.events import (
    FINAL,
    Answered,
    ChildFinished,
    Evaluated,
    EvaluationClosed,
    Failed,
    NotEvaluated,
    Paused,
    Posted,
    Pushed,
    Resumed,
    RunEvent,
    RunPlan,
    Stopped,
    Surplus,
    TimedOut,
    Training,
)
from fleet.rounds.sends import Send, lasts_ms, node_of, task_name, wanted_of
from fleet.rounds.state import Driving, Ended, Evaluating, RunState

__all__ = [
    "FINAL",
    "Driving",
    "Evaluating",
    "RunPlan",
    "RunState",
    "Training",
    "awaited",
    "node_of",
    "replay",
    "resume",
    "step",
    "task_name",
]


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start the Flower program from the beginning."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Offer these tasks to their devices."""

    tasks: tuple[Posted, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the replies of a closed send to the Flower program."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class AskEvaluation:
    """Offer the candidate to these devices for judgement."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conclude:
    """End the Flower program."""


Effect = StartChild | Offer | Deliver | AskEvaluation | Conclude
Step = tuple[RunState, tuple[Effect, ...]]


def step(plan: RunPlan, state: RunState, event: RunEvent) -> Step:
    """Return the state after an event, and what is to be done.

    News that is late, repeated or about nothing known returns the state itself.
    """
    state, effects = _step(plan, state, event)
    return state, _unheld(state, effects)


def resume(plan: RunPlan, state: RunState) -> tuple[Effect, ...]:
    """Return the effects that a crash may have swallowed."""
    match state.phase:
        case Driving():
            return (StartChild(),)
        case Evaluating():
            return _unheld(state, (AskEvaluation(awaited(plan, state)),))
        case Ended():
            return (Conclude(),)
        case _ as never:
            assert_never(never)


def replay(plan: RunPlan, events: Iterable[RunEvent]) -> RunState:
    """Return the state after journalled events."""
    state = RunState()
    for event in events:
        state, _ = step(plan, state, event)
    return state


def awaited(plan: RunPlan, state: RunState) -> tuple[str, ...]:
    """Return the evaluators whose figures are wanted now."""
    return tuple(d for d in plan.evaluators if state.awaits(d))


def _step(plan: RunPlan, state: RunState, event: RunEvent) -> Step:
    match state.phase, event:
        case Ended(), _:
            return state, ()
        case _, Stopped(why=why):
            return _end(state, "stopped", why)
        case _, Failed(why=why):
            return _end(state, "failed", why)
        case _, Surplus():
            return _surplus(state, event)
        case _, Paused(at_ms=at_ms):
            return (state, ()) if _is_held(state) else (replace(state, paused_ms=at_ms), ())
        case _, Resumed(at_ms=at_ms):
            return _resumed(plan, state, at_ms)
        case Driving(), Pushed() | Answered() | TimedOut() | ChildFinished():
            return _drive(plan, state, event)
        case Evaluating(), Evaluated() | NotEvaluated() | EvaluationClosed():
            return _evaluate(plan, state, event)
        case _:
            return state, ()


def _drive(
    plan: RunPlan, state: RunState, event: Pushed | Answered | TimedOut | ChildFinished
) -> Step:
    match event:
        case Pushed():
            return _pushed(plan, state, event)
        case Answered():
            return _answered(plan, state, event)
        case TimedOut():
            return _timed_out(plan, state, event)
        case ChildFinished():
            return _finished(plan, state, event)
        case _ as never:
            assert_never(never)


def _evaluate(
    plan: RunPlan, state: RunState, event: Evaluated | NotEvaluated | EvaluationClosed
) -> Step:
    match event:
        case Evaluated(device=device) if state.awaits(device):
            state = replace(state, figures=state.figures.plus(device, event))
        case NotEvaluated(device=device, why=why) if state.awaits(device):
            state = replace(state, silent=state.silent.plus(device, why))
        case EvaluationClosed() if not _is_held(state):
            silent = state.silent
            for device in awaited(plan, state):
                silent = silent.plus(device, "it did not answer in time")
            state = replace(state, silent=silent)
        case _:
            return state, ()
    return _judged(plan, state)


def _pushed(plan: RunPlan, state: RunState, event: Pushed) -> Step:
    known = len(state.sends)
    if event.ordinal <= known:
        send = state.sends[event.ordinal - 1]
        if send.tasks != event.tasks:
            why = f"the Flower program diverged from its journal at send {event.ordinal}"
            return _end(state, "failed", why)
        offer = (Offer(send.open_tasks),) if send.open_count or not send.closed else ()
        return state, (*offer, Deliver(send.ordinal)) if send.closed else offer
    if event.ordinal != known + 1 or (known and not state.sends[-1].closed):
        why = f"the Flower program made send {event.ordinal} after send {known}"
        return _end(state, "failed", why)
    send = Send(
        ordinal=event.ordinal,
        tasks=event.tasks,
        by_name={t.task: t for t in event.tasks},
        named=max(event.named, len(event.tasks)),
        wanted=wanted_of(plan, event.tasks),
        deadline_ms=_clock(state, event.at_ms) + lasts_ms(plan, len(event.tasks)),
        lingers=plan.buffer > 0,
    )
    state, offer = let_in(plan, state, send), (Offer(send.tasks),)
    if not plan.buffer or not is_full(plan, state):
        return state, offer
    state, effects = _close(plan, state)
    return state, (*offer, *effects)


def _answered(plan: RunPlan, state: RunState, event: Answered) -> Step:
    send = state.find(event.task)
    if send is None or not send.is_open(event.task):
        return state, ()
    state = _with(state, send.answered(event))
    if plan.buffer and event.outcome == "done":
        state = replace(state, buffer=(*state.buffer, event.task))
    done = state.underway is not None and is_full(plan, state)
    return _close(plan, state) if done else (state, ())


def _surplus(state: RunState, event: Surplus) -> Step:
    send = state.find(event.task)
    if send is None or event.task in send.surplus or send.is_open(event.task):
        return state, ()
    return _with(state, replace(send, surplus=send.surplus.plus(event.task, event.how))), ()


def _timed_out(plan: RunPlan, state: RunState, event: TimedOut) -> Step:
    if not state.sends or state.sends[-1].ordinal != event.ordinal or state.sends[-1].closed:
        return state, ()
    return (state, ()) if _is_held(state) else _close(plan, state)


def _close(plan: RunPlan, state: RunState) -> Step:
    state = fold(plan, state)
    send = state.sends[-1]
    good = len(send.folded) - len(send.outliers) if plan.buffer else send.good
    if good < plan.minimum_replies:
        told = (*(a.why for a in send.answers.values()), *send.outliers.values())
        reasons = sorted({why for why in told if why})
        because = f" ({'; '.join(reasons)[:200]})" if reasons else ""
        why = (
            f"{good} of {len(send.tasks)} devices answered send {send.ordinal}; "
            f"at least {plan.minimum_replies} must{because}"
        )
        return _end(state, "failed", why)
    return state, (Deliver(send.ordinal),)


def _finished(plan: RunPlan, state: RunState, event: ChildFinished) -> Step:
    if state.rounds_completed < 1:
        return _end(state, "failed", "the Flower program ended without a round of training")
    if not event.judged:
        why = f"{state.rounds_completed} rounds; its arrays are no head that devices could judge"
        return _end(end_all(state), "finished", why)
    until_ms = _clock(state, event.at_ms) + lasts_ms(plan, len(plan.evaluators))
    state = replace(end_all(state), phase=Evaluating(until_ms, frozenset(plan.evaluators)))
    judged, effects = _judged(plan, state)
    return judged, effects or (Conclude(), AskEvaluation(plan.evaluators))


def _judged(plan: RunPlan, state: RunState) -> Step:
    asked = state.phase.asked if isinstance(state.phase, Evaluating) else frozenset()
    if len(state.figures) + len(state.silent) < len(asked):
        return state, ()
    counted = f"{len(state.figures)} of {len(plan.evaluators)} devices judged the candidate"
    return _end(state, "finished", f"{state.rounds_completed} rounds; {counted}")


def _resumed(plan: RunPlan, state: RunState, at_ms: int) -> Step:
    if state.paused_ms is None:
        return state, ()
    stood_ms = max(at_ms - state.paused_ms, 0)
    state = replace(state, paused_ms=None)
    match state.phase:
        case Evaluating(deadline_ms, asked):
            state = replace(state, phase=Evaluating(deadline_ms + stood_ms, asked))
            return state, (AskEvaluation(awaited(plan, state)),)
        case Driving() if state.sends and not state.sends[-1].closed:
            send = replace(state.sends[-1], deadline_ms=state.sends[-1].deadline_ms + stood_ms)
            state = _with(state, send)
            return state, (Offer(tuple(open_tasks(state))),)
        case _:
            return state, ()


def _with(state: RunState, send: Send) -> RunState:
    place = send.ordinal - 1
    return replace(state, sends=(*state.sends[:place], send, *state.sends[place + 1 :]))


def _is_held(state: RunState) -> bool:
    return state.paused_ms is not None


def _clock(state: RunState, at_ms: int) -> int:
    """Return the moment from which a deadline counts: it stands still while paused."""
    return at_ms if state.paused_ms is None else state.paused_ms


def _unheld(state: RunState, effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    if not _is_held(state):
        return effects
    return tuple(e for e in effects if not isinstance(e, Offer | AskEvaluation))


def _end(state: RunState, status: str, why: str) -> Step:
    return replace(state, phase=Ended(status), paused_ms=None, why=why), (Conclude(),)
