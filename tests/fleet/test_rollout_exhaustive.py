"""Every state that a small rollout can reach, explored; and faults planted to see it fail.

A world is the engine's state and what each device is wanted to run. From every world
every event is tried; effects are performed at once, as the journal does in its
transaction. Time is "now" or "long after": moments are set back to zero after each step,
because the engine only looks at differences.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from agent.contract.messages import Assigned
from fleet.monitor.health import FAILURES, Standing
from fleet.rollout import engine
from fleet.rollout.engine import State, initial, step
from fleet.rollout.events import (
    AbortAsked,
    Aborted,
    Asking,
    Assign,
    Completed,
    Conclude,
    Done,
    Event,
    Given,
    Halted,
    Left,
    PauseAsked,
    Paused,
    Phase,
    ResumeAsked,
    Returned,
    Returning,
    Revert,
    Seen,
    Silent,
    Soaking,
    Started,
    Tick,
)
from fleet.rollout.gate import Gate
from fleet.rollout.plan import Plan
from fleet.rollout.roster import Roster

OLD = Assigned(target="models/motion/01.json", digest="01" * 32, counter=1)
NEW = Assigned(target="models/motion/02.json", digest="02" * 32, counter=2)
LONG_AFTER = 10**9
OUTCOMES = (Standing.SUCCEEDED, Standing.FAILED_ROLLED_BACK)

Wanted = tuple[tuple[str, Assigned | None], ...]


@dataclass(frozen=True)
class World:
    state: State
    wanted: Wanted

    @property
    def key(self) -> object:
        members = tuple(
            (m.standing, m.previous and m.previous.digest, m.returned)
            for m in self.state.members.values()
        )
        phase = self.state.phase
        then = type(phase.then) if isinstance(phase, Paused) else None
        aborted = phase.aborted if isinstance(phase, Returning) else None
        return type(phase), then, aborted, self.state.wave, members, self.wanted


def a_plan(waves: tuple[tuple[str, ...], ...], **gate: float) -> Plan:
    return Plan(
        id="a-rollout",
        slot="motion",
        release=NEW,
        selector="all",
        waves=waves,
        gate=Gate(**({"min_completed": 1, "max_failed_percent": 34} | gate)),
        created_ms=0,
    )


def perform(
    state: State, effects: tuple[object, ...], wanted: dict[str, Assigned | None], at_ms: int
) -> tuple[State, tuple[Conclude, ...]]:
    """Do what the engine wants and tell it, until it wants nothing more."""
    concluded: list[Conclude] = []
    rounds = 0
    while effects:
        rounds += 1
        assert rounds < 10, "it wants the same for ever"
        asked = [e.device for e in effects if isinstance(e, Assign)]
        back = [e for e in effects if isinstance(e, Revert)]
        concluded += [e for e in effects if isinstance(e, Conclude)]
        heard: list[Event] = []
        if asked:
            heard.append(Given(previous={d: wanted[d] for d in asked}, at_ms=at_ms))
            wanted.update(dict.fromkeys(asked, NEW))
        for revert in back:
            assert wanted[revert.device] == NEW
            wanted[revert.device] = revert.previous
        if back:
            heard.append(Returned(devices=tuple(r.device for r in back), at_ms=at_ms))
        effects = ()
        for event in heard:
            state, effects = step(state, event)
    return state, tuple(concluded)


def timeless(state: State) -> State:
    members = Roster.of(
        replace(m, asked_ms=None if m.asked_ms is None else 0, seen_ms=None, why="")
        for m in state.members.values()
    )
    match state.phase:
        case Asking():
            phase: Phase = Asking(since_ms=0)
        case Soaking():
            phase = Soaking(until_ms=1)
        case Paused(then=Asking()):
            phase = Paused(then=Asking(since_ms=0), why="")
        case Paused():
            phase = Paused(then=Soaking(until_ms=1), why="")
        case other:
            phase = replace(other, why="") if hasattr(other, "why") else other
    return replace(state, phase=phase, members=members)


def alphabet(state: State) -> list[Event]:
    events: list[Event] = [
        Started(at_ms=0),
        Tick(at_ms=0),
        Tick(at_ms=LONG_AFTER),
        PauseAsked(why="", at_ms=0),
        ResumeAsked(at_ms=0),
        AbortAsked(why="", revert=True, at_ms=0),
        AbortAsked(why="", revert=False, at_ms=0),
    ]
    for device in state.members:
        events += [Completed(device=device, outcome=o, why="", at_ms=0) for o in OUTCOMES]
        events += [Silent(device=device, absent=absent, at_ms=0) for absent in (True, False)]
        failed = Standing.FAILED_NO_CHANGE
        events.append(Completed(device=device, outcome=failed, why="", at_ms=0, retryable=True))
        events.append(Left(device=device, why="", at_ms=0))
        events.append(Seen(devices=(device,), at_ms=0))
    return events


def check(before: World, event: Event, after: World, concluded: tuple[Conclude, ...]) -> None:
    state, wanted = after.state, dict(after.wanted)
    for member in state.members.values():
        has_it = wanted[member.device] == NEW
        assert not has_it or member.wave <= state.wave, "asked beyond the current wave"
        assert (member.standing is Standing.WAITING) <= (not has_it), "asked and forgot it"
    assert bool(concluded) == (before.state.active and not state.active), "concluded once"
    assert state.wave - before.state.wave in {0, 1}
    if state.wave > before.state.wave or isinstance(state.phase, Done):
        passed = state.wave if isinstance(state.phase, Done) else state.wave - 1
        if before.state.active:
            check_passed(state, passed)
    came_back = isinstance(state.phase, Halted) or (
        isinstance(event, AbortAsked) and event.revert and before.state.active
    )
    if came_back:
        assert all(release == OLD for release in wanted.values()), "touched, not taken back"
    assert not isinstance(state.phase, Returning), "still somebody to take back"
    if not before.state.active:
        assert after == before, "a terminal state moved"
    if isinstance(before.state.phase, Paused) and not isinstance(event, ResumeAsked):
        assert [d for d, r in after.wanted if r == NEW] <= [
            d for d, r in before.wanted if r == NEW
        ], "a paused rollout asked somebody"


def check_passed(state: State, wave: int) -> None:
    """The gate again, in other words than the engine's."""
    gate = state.plan.gate
    stayed = [m for m in state.members.values() if m.standing is not Standing.LEFT]
    of_wave = [m.standing for m in stayed if m.wave == wave]
    assert any(m.wave <= wave for m in stayed), "advanced on the word of nobody"
    bad = sum(s in FAILURES or s is Standing.SILENT for s in of_wave)
    good = sum(s is Standing.SUCCEEDED for s in of_wave)
    assert bad + good >= min(gate.min_completed, len(of_wave)), "advanced without a sample"
    assert 100 * bad <= gate.max_failed_percent * (bad + good), "advanced with a failed gate"
    assert Standing.ASKED not in of_wave, "advanced before everybody answered"


def explore(plan: Plan) -> dict[object, World]:
    """Visit every world and check every step; then that each can come to a good end."""
    first = World(initial(plan), tuple((device, OLD) for device in plan.devices))
    seen: dict[object, World] = {first.key: first}
    into: dict[object, set[object]] = {}
    ahead = [first]
    while ahead:
        before = ahead.pop()
        for event in alphabet(before.state):
            wanted = dict(before.wanted)
            state, effects = step(before.state, event)
            state, concluded = perform(state, effects, wanted, event.at_ms)
            repeated, again = step(state, event)
            assert repeated == state, "repeated news changed something"
            assert not again, "repeated news did something"
            after = World(timeless(state), tuple(wanted.items()))
            check(before, event, after, concluded)
            if not isinstance(event, AbortAsked):
                into.setdefault(after.key, set()).add(before.key)
            if after.key not in seen:
                seen[after.key] = after
                ahead.append(after)
    assert can_reach(into, {k for k, w in seen.items() if not w.state.active}) == set(seen), (
        "somewhere it hangs for ever"
    )
    good = {key for key, world in seen.items() if world.state.active and may_pass(world)}
    done = {key for key, world in seen.items() if isinstance(world.state.phase, Done)}
    assert good <= can_reach(into, done), "a good release cannot get through"
    return seen


def can_reach(into: dict[object, set[object]], goal: set[object]) -> set[object]:
    reached, ahead = set(goal), list(goal)
    while ahead:
        for key in into.get(ahead.pop(), set()) - reached:
            reached.add(key)
            ahead.append(key)
    return reached


def may_pass(world: World) -> bool:
    """Nothing speaks against the release, and somebody may yet speak for it."""
    state = world.state
    against = FAILURES | {Standing.SILENT}
    so_far = [m.standing for m in state.members.values() if m.wave <= state.wave]
    return not against & set(so_far) and any(s is not Standing.LEFT for s in so_far)


PLANS = [
    pytest.param(a_plan((("d-a",),)), id="one device"),
    pytest.param(a_plan((("d-a",), ("d-b",), ("d-c",))), id="three waves of one"),
    pytest.param(a_plan((("d-a",), ("d-b", "d-c")), min_completed=2), id="one, then two"),
    pytest.param(
        a_plan((("d-a",), ("d-b", "d-c", "d-e")), soak_seconds=0), id="one, then three, no soak"
    ),
    pytest.param(
        a_plan((("d-a", "d-b"), ("d-c", "d-e")), max_failed_percent=50), id="two, then two"
    ),
]


@pytest.mark.parametrize("plan", PLANS)
def test_no_reachable_state_breaks_a_promise_of_the_rollout(plan):
    seen = explore(plan)

    reached = {type(world.state.phase) for world in seen.values()}
    print(f"{len(seen)} worlds of {len(plan.devices)} devices in {len(plan.waves)} waves")
    assert {Asking, Paused, Done, Halted, Aborted} <= reached
    assert len(plan.waves) == 1 or plan.gate.soak_seconds == 0 or Soaking in reached


def forgets_who_succeeded(monkeypatch):
    honest = engine._to_return
    monkeypatch.setattr(
        engine,
        "_to_return",
        lambda s: [m for m in honest(s) if m.standing is not Standing.SUCCEEDED],
    )


def takes_silence_for_success(monkeypatch):
    honest = engine.tally

    def hopeful(standings):
        counted = honest(standings)
        return dataclasses.replace(counted, succeeded=counted.succeeded + counted.silent, silent=0)

    monkeypatch.setattr(engine, "tally", hopeful)


def asks_the_next_wave_too(monkeypatch):
    monkeypatch.setattr(
        engine,
        "_to_ask",
        lambda s: [m for m in s.members.values() if m.standing is Standing.WAITING],
    )


def advances_while_somebody_works(monkeypatch):
    honest = engine.tally
    monkeypatch.setattr(
        engine, "tally", lambda standings: dataclasses.replace(honest(standings), pending=0)
    )


def forgets_what_was_before(monkeypatch):
    honest = engine._member

    def forgetful(member, event):
        return replace(honest(member, event), previous=None)

    monkeypatch.setattr(engine, "_member", forgetful)


def wakes_up_after_its_end(monkeypatch):
    monkeypatch.setattr(State, "active", property(lambda s: not isinstance(s.phase, Done)))


def never_ends_a_pause(monkeypatch):
    honest = engine._hear_operator

    def deaf(phase, event):
        return phase if isinstance(event, ResumeAsked) else honest(phase, event)

    monkeypatch.setattr(engine, "_hear_operator", deaf)


@pytest.mark.parametrize(
    "fault",
    [
        forgets_who_succeeded,
        asks_the_next_wave_too,
        takes_silence_for_success,
        advances_while_somebody_works,
        forgets_what_was_before,
        wakes_up_after_its_end,
        never_ends_a_pause,
    ],
)
def test_the_exploration_notices_a_planted_fault(fault: Callable[..., None], monkeypatch):
    fault(monkeypatch)

    with pytest.raises((AssertionError, KeyError)):
        explore(a_plan((("d-a",), ("d-b", "d-c")), max_failed_percent=50))
