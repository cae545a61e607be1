"""The rollout as a state machine, and nothing else.

    planned ──▶ asking ──▶ soaking ──▶ asking (next wave) ──▶ … ──▶ done
                  │ ▲         │ ▲
                  │ └ paused ─┘ │         (operator, or no verdict in time)
                  └─────▶ returning ◀┘    (gate says HALT, or aborted with revert)
                              └──▶ halted | aborted

Rule 1: every transition is written in ``step``; no other module decides one.
Rule 2: ``step`` is pure. Replaying the journalled events gives the same state.
Rule 3: nobody beyond the current wave is ever asked.
Rule 4: whoever was asked remembers what it was wanted to run before, and on HALT goes
        back to that: also those that succeeded, also in a paused rollout.
Rule 5: late and repeated news changes nothing; a failure outweighs a success of the
        same device, in either order.
Rule 6: who left the fleet is neither asked nor waited for, and proves nothing.
Rule 7: an effect and the ``Given`` or ``Returned`` that answers it are one transaction;
        until that is durable, every event repeats the effect.
"""

from collections.abc import Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from fleet.monitor.health import Standing, Tally, tally
from fleet.rollout.events import (
    TERMINAL,
    AbortAsked,
    Aborted,
    Asking,
    Assign,
    Completed,
    Conclude,
    Done,
    Effect,
    Event,
    Given,
    Halted,
    Left,
    PauseAsked,
    Paused,
    Phase,
    Planned,
    ResumeAsked,
    Returned,
    Returning,
    Revert,
    Seen,
    Silent,
    Soaking,
    Started,
    Tick,
    concerns,
)
from fleet.rollout.gate import Verdict
from fleet.rollout.plan import Plan
from fleet.rollout.roster import Member, Roster


class State(Struct, frozen=True, kw_only=True):
    """A rollout at one moment. ``wave`` is the highest that was begun, from 0."""

    plan: Plan
    phase: Phase
    wave: int
    members: Roster

    @property
    def active(self) -> bool:
        """Whether it may still do something."""
        return not isinstance(self.phase, TERMINAL)

    @property
    def status(self) -> str:
        """The phase in one word, for listings."""
        return type(self.phase).__name__.lower()

    def of_wave(self) -> Tally:
        """Count the wave of the moment."""
        return tally(self.members.standings(first=self.wave, last=self.wave))

    def so_far(self) -> Tally:
        """Count every wave that was begun."""
        return tally(self.members.standings(last=self.wave))

    def verdict(self) -> tuple[Verdict, str]:
        """Return what the gate says now, with its sentence."""
        return self.plan.gate.judge(self.of_wave(), self.so_far())


def initial(plan: Plan) -> State:
    """Return the state of a plan that nobody began."""
    members = Roster.of(
        Member(device=device, wave=number)
        for number, wave in enumerate(plan.waves)
        for device in wave
    )
    return State(plan=plan, phase=Planned(), wave=0, members=members)


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after an event, and what is to be done."""
    if not state.active:
        return state, ()
    return _settle(_hear(_put_back(state, event.at_ms), event), event.at_ms)


def sightings(state: State, last_seen_ms: Mapping[str, int], at_ms: int) -> tuple[Seen, ...]:
    """Return the asked devices that were heard since, for the first time.

    ``last_seen_ms`` says when each device was last heard; a device may be missing, and a
    moment after ``at_ms`` is of a clock that was put back.
    """
    if not state.members.standings()[Standing.ASKED]:
        return ()
    seen = tuple(
        m.device
        for m in state.members.values()
        if m.standing is Standing.ASKED
        and m.asked_ms is not None
        and m.seen_ms is None
        and m.asked_ms < last_seen_ms.get(m.device, 0) <= at_ms
    )
    return (Seen(devices=seen, at_ms=at_ms),) if seen else ()


def silences(state: State, at_ms: int) -> tuple[Silent, ...]:
    """Return the asked devices whose time is up.

    The time of a device that was away begins when it is there: an update that a device
    could only just begin does not speak against the release.
    """
    if not state.members.standings()[Standing.ASKED]:
        return ()
    deadline_ms = at_ms - round(state.plan.gate.silence_seconds * 1000)
    return tuple(
        Silent(device=m.device, absent=m.seen_ms is None, at_ms=at_ms)
        for m in state.members.values()
        if m.standing is Standing.ASKED
        and m.asked_ms is not None
        and (m.asked_ms if m.seen_ms is None else m.seen_ms) <= deadline_ms
    )


def _put_back(state: State, at_ms: int) -> State:
    """Return the state with no moment that a clock, now put back, lays out of reach."""
    until_ms = at_ms + round(state.plan.gate.soak_seconds * 1000)

    def sooner(phase: Phase) -> Phase:
        match phase:
            case Asking(since_ms=since_ms) if since_ms > at_ms:
                return Asking(since_ms=at_ms)
            case Soaking(until_ms=end_ms) if end_ms > until_ms:
                return Soaking(until_ms=until_ms)
            case Paused(then=then):
                sooner_then = sooner(then)
                if isinstance(sooner_then, Asking | Soaking) and sooner_then != then:
                    return replace(phase, then=sooner_then)
        return phase

    return replace(state, phase=sooner(state.phase), members=state.members.put_back(at_ms))


def _hear(state: State, event: Event) -> State:
    match event:
        case Given() | Completed() | Silent() | Seen() | Left() | Returned():
            return _hear_device(state, event)
        case Started() | PauseAsked() | ResumeAsked() | AbortAsked():
            return replace(state, phase=_hear_operator(state.phase, event))
        case Tick():
            return state
        case _:
            assert_never(event)


def _hear_operator(phase: Phase, event: Started | PauseAsked | ResumeAsked | AbortAsked) -> Phase:
    match phase, event:
        case Planned(), Started(at_ms=at_ms):
            return Asking(since_ms=at_ms)
        case ((Asking() | Soaking() as then), PauseAsked(why=why)):
            return Paused(then=then, why=why)
        case Paused(then=then), ResumeAsked(at_ms=at_ms):
            return Asking(since_ms=at_ms) if isinstance(then, Asking) else then
        case ((Planned() | Asking() | Soaking() | Paused()), AbortAsked(why=why, revert=revert)):
            return Returning(aborted=True, why=why) if revert else Aborted(why=why)
        case _:
            return phase


def _hear_device(state: State, event: Given | Completed | Silent | Seen | Left | Returned) -> State:
    if isinstance(state.phase, Planned):
        return state
    heard = (
        _member(member, event)
        for device in concerns(event)
        if (member := state.members.get(device)) is not None
        and (member.wave <= state.wave or isinstance(event, Left))
    )
    return replace(state, members=state.members.with_changes(heard))


def _member(member: Member, event: Given | Completed | Silent | Seen | Left | Returned) -> Member:
    standing = member.standing
    match event:
        case Given(previous=previous, at_ms=at_ms) if standing is Standing.WAITING:
            before = previous[member.device]
            return replace(member, standing=Standing.ASKED, previous=before, asked_ms=at_ms)
        case Silent(absent=absent) if standing is Standing.ASKED:
            return replace(member, standing=Standing.ABSENT if absent else Standing.SILENT)
        case Seen(at_ms=at_ms) if standing is Standing.ASKED and member.seen_ms is None:
            return replace(member, seen_ms=at_ms)
        case Left(why=why) if _weight(standing) < _weight(Standing.SUCCEEDED):
            return replace(member, standing=Standing.LEFT, why=why)
        case Returned() if standing is not Standing.WAITING:
            return replace(member, returned=True)
        case Completed(outcome=outcome, why=why, retryable=retryable) if (
            standing is not Standing.WAITING and _weight(outcome) > _weight(standing)
        ):
            passing = retryable and outcome.failed
            return replace(member, standing=standing if passing else outcome, why=why)
        case _:
            return member


def _weight(standing: Standing) -> int:
    match standing:
        case Standing.WAITING:
            return 0
        case Standing.ASKED | Standing.SILENT | Standing.ABSENT:
            return 1
        case Standing.SUCCEEDED:
            return 2
        case Standing.LEFT:
            return 4
        case _:
            return 3


def _settle(state: State, at_ms: int) -> tuple[State, tuple[Effect, ...]]:
    """Follow what the counts now say, through as many phases as they carry."""
    while (after := _follow(state, at_ms)) != state:
        state = after
    match state.phase:
        case Asking() | Soaking():
            return state, tuple(Assign(device=m.device) for m in _to_ask(state))
        case Returning():
            return state, tuple(
                Revert(device=m.device, previous=m.previous) for m in _to_return(state)
            )
        case Done(why=why) | Halted(why=why) | Aborted(why=why):
            return state, (Conclude(status=state.status, why=why),)
        case Planned() | Paused():
            return state, ()
        case _:
            assert_never(state.phase)


def _follow(state: State, at_ms: int) -> State:
    match state.phase:
        case Asking() | Soaking() | Paused():
            if not state.so_far().asked:
                why = "every device asked so far has left the fleet: nothing is proven"
                return replace(state, phase=Returning(aborted=True, why=why))
            verdict, why = state.verdict()
            if verdict is Verdict.HALT:
                return replace(state, phase=Returning(aborted=False, why=why))
            return _go_on(state, verdict, why, at_ms)
        case Returning(aborted=aborted, why=why) if not _to_return(state):
            return replace(state, phase=Aborted(why=why) if aborted else Halted(why=why))
        case _:
            return state


def _go_on(state: State, verdict: Verdict, why: str, at_ms: int) -> State:
    gate = state.plan.gate
    match state.phase:
        case Asking() if verdict is Verdict.ADVANCE:
            if state.wave + 1 == len(state.plan.waves):
                return replace(state, phase=Done(why=f"every wave passed: {why}"))
            return replace(state, phase=Soaking(until_ms=at_ms + round(gate.soak_seconds * 1000)))
        case Asking(since_ms=since_ms) as then if at_ms - since_ms >= gate.patience_seconds * 1000:
            return replace(state, phase=Paused(then=then, why=f"no verdict in time: {why}"))
        case Soaking(until_ms=until_ms) if at_ms >= until_ms:
            return replace(state, phase=Asking(since_ms=at_ms), wave=state.wave + 1)
        case _:
            return state


def _to_ask(state: State) -> list[Member]:
    if not state.members.standings(last=state.wave)[Standing.WAITING]:
        return []
    return [
        m for m in state.members.values() if m.wave <= state.wave and m.standing is Standing.WAITING
    ]


def _to_return(state: State) -> list[Member]:
    return [m for m in state.members.values() if m.asked_ms is not None and not m.returned]
