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
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import assert_never

from fleet.rounds.events import (
    FINAL,
    Answered,
    ChildFinished,
    Evaluated,
    EvaluationClosed,
    Failed,
    NotEvaluated,
    Posted,
    Pushed,
    RunEvent,
    RunPlan,
    Stopped,
    TimedOut,
    Training,
)

__all__ = ["FINAL", "RunPlan", "RunState", "Training", "awaited", "replay", "resume", "step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One send of the Flower program: its tasks, and the answers so far by task."""

    ordinal: int
    tasks: tuple[Posted, ...]
    deadline_ms: int
    answers: Mapping[str, Answered] = field(default_factory=dict)
    closed: bool = False

    @property
    def open_tasks(self) -> tuple[Posted, ...]:
        """Tasks that may still be answered."""
        return () if self.closed else tuple(t for t in self.tasks if t.task not in self.answers)

    @property
    def good(self) -> int:
        """How many answers carry a result."""
        return sum(a.outcome == "done" for a in self.answers.values())

    @property
    def trains(self) -> bool:
        """Whether this send is a round of training."""
        return any(t.kind == "train" for t in self.tasks)


@dataclass(frozen=True, slots=True)
class Driving:
    """The Flower program drives the devices."""


@dataclass(frozen=True, slots=True)
class Evaluating:
    """Devices judge the candidate until the deadline."""

    deadline_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over: ``finished``, ``stopped`` or ``failed``."""

    status: str


Phase = Driving | Evaluating | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run is.

    Attributes:
        sends: Every send so far, in order.
        figures: What devices measured of the candidate, by device.
        silent: Evaluators without figures, with the reason.
        why: The sentence about its end.

    """

    phase: Phase = field(default_factory=Driving)
    sends: tuple[Send, ...] = ()
    figures: Mapping[str, Evaluated] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    why: str = ""

    @property
    def status(self) -> str:
        """``training``, ``evaluating``, ``finished``, ``stopped`` or ``failed``."""
        match self.phase:
            case Driving():
                return "training"
            case Evaluating():
                return "evaluating"
            case Ended(status):
                return status

    @property
    def active(self) -> bool:
        """Whether anything can still happen."""
        return not isinstance(self.phase, Ended)

    @property
    def rounds_completed(self) -> int:
        """Rounds of training that are closed."""
        return sum(s.closed and s.trains for s in self.sends)

    @property
    def replies(self) -> int:
        """Good answers counted."""
        return sum(s.good for s in self.sends)

    @property
    def refused(self) -> int:
        """Answers without a usable result."""
        return sum(len(s.answers) - s.good for s in self.sends)


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


def task_name(run: str, ordinal: int, device: str) -> str:
    """Return the name of a task: the same for the same send and device. 0 is evaluation."""
    return "t-" + blake2b(f"{run}/{ordinal}/{device}".encode(), digest_size=10).hexdigest()


def node_of(device: str) -> int:
    """Return the Flower node id of a device: 63 bits of BLAKE2b, never 0 or 1."""
    raw = blake2b(device.encode(), digest_size=8, person=b"fieldfare-node").digest()
    return (int.from_bytes(raw, "big") >> 1) | 2


def step(plan: RunPlan, state: RunState, event: RunEvent) -> Step:
    """Return the state after an event, and what is to be done.

    News that is late, repeated or about nothing known returns the state itself.
    """
    match state.phase, event:
        case Ended(), _:
            return state, ()
        case _, Stopped(why=why):
            return _end(state, "stopped", why)
        case _, Failed(why=why):
            return _end(state, "failed", why)
        case Driving(), Pushed() | Answered() | TimedOut() | ChildFinished():
            return _drive(plan, state, event)
        case Evaluating(), Evaluated() | NotEvaluated() | EvaluationClosed():
            return _evaluate(plan, state, event)
        case _:
            return state, ()


def resume(plan: RunPlan, state: RunState) -> tuple[Effect, ...]:
    """Return the effects that a crash may have swallowed."""
    match state.phase:
        case Driving():
            return (StartChild(),)
        case Evaluating():
            return (AskEvaluation(awaited(plan, state)),)
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
    waiting = awaited(plan, state)
    match event:
        case Evaluated(device=device) if device in waiting:
            state = replace(state, figures={**state.figures, device: event})
        case NotEvaluated(device=device, why=why) if device in waiting:
            state = replace(state, silent={**state.silent, device: why})
        case EvaluationClosed():
            late = dict.fromkeys(waiting, "it did not answer in time")
            state = replace(state, silent={**state.silent, **late})
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
        return state, (Deliver(send.ordinal),) if send.closed else (Offer(send.open_tasks),)
    if event.ordinal != known + 1 or (known and not state.sends[-1].closed):
        why = f"the Flower program made send {event.ordinal} after send {known}"
        return _end(state, "failed", why)
    send = Send(
        ordinal=event.ordinal,
        tasks=event.tasks,
        deadline_ms=event.at_ms + plan.deadline_seconds * 1000,
    )
    return replace(state, sends=(*state.sends, send)), (Offer(send.tasks),)


def _answered(plan: RunPlan, state: RunState, event: Answered) -> Step:
    if not state.sends or event.task not in {t.task for t in state.sends[-1].open_tasks}:
        return state, ()
    send = state.sends[-1]
    send = replace(send, answers={**send.answers, event.task: event})
    state = replace(state, sends=(*state.sends[:-1], send))
    return (state, ()) if send.open_tasks else _close(plan, state)


def _timed_out(plan: RunPlan, state: RunState, event: TimedOut) -> Step:
    if not state.sends or state.sends[-1].ordinal != event.ordinal or state.sends[-1].closed:
        return state, ()
    return _close(plan, state)


def _close(plan: RunPlan, state: RunState) -> Step:
    send = replace(state.sends[-1], closed=True)
    state = replace(state, sends=(*state.sends[:-1], send))
    if send.good < plan.minimum_replies:
        reasons = sorted({a.why for a in send.answers.values() if a.why})
        told = f" ({'; '.join(reasons)[:200]})" if reasons else ""
        why = (
            f"{send.good} of {len(send.tasks)} devices answered send {send.ordinal}; "
            f"at least {plan.minimum_replies} must{told}"
        )
        return _end(state, "failed", why)
    return state, (Deliver(send.ordinal),)


def _finished(plan: RunPlan, state: RunState, event: ChildFinished) -> Step:
    if state.rounds_completed < 1:
        return _end(state, "failed", "the Flower program ended without a round of training")
    state = replace(state, phase=Evaluating(event.at_ms + plan.deadline_seconds * 1000))
    judged, effects = _judged(plan, state)
    return judged, effects or (Conclude(), AskEvaluation(plan.evaluators))


def _judged(plan: RunPlan, state: RunState) -> Step:
    if awaited(plan, state):
        return state, ()
    counted = f"{len(state.figures)} of {len(plan.evaluators)} devices judged the candidate"
    return _end(state, "finished", f"{state.rounds_completed} rounds; {counted}")


def awaited(plan: RunPlan, state: RunState) -> tuple[str, ...]:
    """Return the evaluators whose figures are wanted now."""
    if not isinstance(state.phase, Evaluating):
        return ()
    return tuple(d for d in plan.evaluators if d not in state.figures and d not in state.silent)


def _end(state: RunState, status: str, why: str) -> Step:
    return replace(state, phase=Ended(status), why=why), (Conclude(),)
