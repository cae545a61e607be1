"""Rollouts in the registry: remembered first, then acted on, in one transaction.

Rule 1: an event, the state after it and the desired state of every device that it
        changes are written together; ``kill -9`` leaves all of it or nothing.
Rule 2: an event that changes nothing is not journalled, so that a clock that ticks
        every second costs nothing.
Rule 3: the decoded state is held beside the registry for its revision: one outcome reads
        and writes what it changes, not the whole fleet.
Rule 4: a device is taken back only while it is still wanted to run this release.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from agent.contract.codec import decode, encode
from agent.contract.messages import OUTCOMES
from agent.contract.messages import Event as DeviceSaid
from fleet.errors import ConflictError, NotFoundError
from fleet.monitor.health import Standing
from fleet.registry.sqlite import Registry
from fleet.rollout.engine import State, initial, sightings, silences, step
from fleet.rollout.events import (
    Assign,
    Completed,
    Conclude,
    Effect,
    Event,
    Given,
    Left,
    Phase,
    Returned,
    Revert,
    Started,
    Tick,
    concerns,
)
from fleet.rollout.plan import Plan
from fleet.rollout.roster import Member, Roster

_LIMIT: Final = 256 * 1024 * 1024
_MEMBER: Final = msgspec.json.Decoder(Member)


def begin(registry: Registry, plan: Plan, *, at_ms: int) -> State:
    """Create a rollout and ask its canary.

    Raises:
        ConflictError: The name is taken, or an active rollout of the slot shares a device.

    """
    with registry.joined():
        for row in registry.rollouts.listing(active=True):
            if row.slot != plan.slot:
                continue
            if shared := load(registry, row.id).members.keys() & set(plan.devices):
                raise ConflictError(
                    f"rollout {row.id} is active for slot {row.slot} of {len(shared)} of these "
                    f"devices, such as {min(shared)}: let it end or abort it"
                )
        state = initial(plan)
        registry.rollouts.create(
            plan.id,
            slot=plan.slot,
            release=plan.release.digest,
            plan=encode(plan),
            phase=msgspec.json.encode(state.phase),
            members={m.device: msgspec.json.encode(m) for m in state.members.values()},
            status=state.status,
            at_ms=at_ms,
        )
        return advance(registry, plan.id, (Started(at_ms=at_ms),), at_ms=at_ms)


def advance(registry: Registry, rollout: str, events: Iterable[Event], *, at_ms: int) -> State:
    """Let a rollout hear events, and do what follows from them.

    Raises:
        NotFoundError: There is no such rollout.

    """
    return _advance(registry, rollout, events, at_ms)[0]


def _advance(
    registry: Registry, rollout: str, events: Iterable[Event], at_ms: int
) -> tuple[State, bool]:
    """Return the state, and whether it is another one than before."""
    with registry.joined():
        first = state = load(registry, rollout)
        journalled: list[bytes] = []
        touched: set[str] = set()
        ahead = list(events)
        while ahead:
            effects: tuple[Effect, ...] = ()
            for event in ahead:
                before = state
                state, effects = step(before, event)
                if state != before:
                    journalled.append(msgspec.json.encode(event))
                    # A clock that was put back moves what lies after it, whoever it is.
                    put_back = before.members.latest_ms > event.at_ms
                    touched.update(state.members if put_back else concerns(event))
                if not state.active:
                    break
            ahead = list(_perform(registry, state, effects, at_ms))
        if journalled:
            changed = (state.members[device] for device in touched if device in state.members)
            revision = registry.rollouts.advance(
                rollout,
                events=journalled,
                phase=msgspec.json.encode(state.phase),
                wave=state.wave,
                members={
                    member.device: msgspec.json.encode(member)
                    for member in changed
                    if member != first.members[member.device]
                },
                status=state.status,
                active=state.active,
                at_ms=at_ms,
            )
            registry.rollouts.hold(rollout, revision, state if state.active else None)
        return state, bool(journalled)


def load(registry: Registry, rollout: str) -> State:
    """Return the state of a rollout.

    Raises:
        NotFoundError: There is no such rollout.

    """
    row = registry.rollouts.find(rollout)
    if row is None:
        raise NotFoundError(f"there is no rollout {rollout}")
    held = registry.rollouts.held(row)
    if isinstance(held, State):
        return held
    state = State(
        plan=_plan(registry, rollout),
        phase=msgspec.json.decode(row.phase, type=Phase),
        wave=row.wave,
        members=Roster.of(map(_MEMBER.decode, registry.rollouts.members(rollout))),
    )
    if row.active:
        registry.rollouts.hold(rollout, row.revision, state)
    return state


def replay(registry: Registry, rollout: str) -> State:
    """Return the state that the journalled events lead to; equal to ``load``.

    Raises:
        NotFoundError: There is no such rollout.
        RegistryError: Some of them were archived.

    """
    state = initial(_plan(registry, rollout))
    for text in registry.rollouts.journal(rollout):
        state, _ = step(state, msgspec.json.decode(text, type=Event))
    return state


def hear_update(
    registry: Registry, device: str, said: DeviceSaid, *, at_ms: int
) -> tuple[str, ...]:
    """Tell active rollouts of a device's ``update`` event; returns the rollouts it moved."""
    if said.outcome not in OUTCOMES:
        return ()
    heard = Completed(
        device=device,
        outcome=Standing(said.outcome),
        why=said.why,
        at_ms=at_ms,
        retryable=said.retryable,
    )
    with registry.joined():
        return tuple(
            row.id
            for row in registry.rollouts.listing(active=True)
            if row.release == said.release and _advance(registry, row.id, (heard,), at_ms)[1]
        )


def hear_left(registry: Registry, device: str, why: str, *, at_ms: int) -> tuple[str, ...]:
    """Tell active rollouts that a device is of the fleet no more; returns those it moved."""
    gone = Left(device=device, why=why, at_ms=at_ms)
    with registry.joined():
        return tuple(
            row.id
            for row in registry.rollouts.listing(active=True)
            if _advance(registry, row.id, (gone,), at_ms)[1]
        )


def tick(registry: Registry, *, at_ms: int) -> tuple[str, ...]:
    """Let time pass for every active rollout; returns the rollouts that it moved."""
    with registry.joined():
        rows = registry.rollouts.listing(active=True)
        last_seen_ms = registry.devices.last_seen() if rows else {}
        return tuple(
            row.id
            for row in rows
            if _advance(
                registry,
                row.id,
                _time_passes(load(registry, row.id), last_seen_ms, at_ms),
                at_ms,
            )[1]
        )


def _time_passes(state: State, last_seen_ms: Mapping[str, int], at_ms: int) -> tuple[Event, ...]:
    # Who is seen now is not silent now.
    seen = sightings(state, last_seen_ms, at_ms)
    here = {device for event in seen for device in event.devices}
    mute = (event for event in silences(state, at_ms) if event.device not in here)
    return (*seen, *mute, Tick(at_ms=at_ms))


def _perform(
    registry: Registry, state: State, effects: tuple[Effect, ...], at_ms: int
) -> Iterator[Event]:
    """Write what the effects want, and yield what the engine is to hear of it."""
    plan, devices = state.plan, registry.devices
    asked = [effect.device for effect in effects if isinstance(effect, Assign)]
    back = [effect for effect in effects if isinstance(effect, Revert)]
    if asked:
        before = {device: devices.desired(device).get(plan.slot) for device in asked}
        for device in asked:
            devices.want(device, plan.slot, plan.release, at_ms=at_ms)
        yield Given(previous=before, at_ms=at_ms)
        for device in asked:
            if _runs(registry, device, plan):
                yield Completed(
                    device=device,
                    outcome=Standing.SUCCEEDED,
                    why="it ran this release already",
                    at_ms=at_ms,
                )
    for revert in back:
        if devices.desired(revert.device).get(plan.slot) == plan.release:
            devices.want(revert.device, plan.slot, revert.previous, at_ms=at_ms)
    if back:
        yield Returned(devices=tuple(revert.device for revert in back), at_ms=at_ms)
    for effect in effects:
        if isinstance(effect, Conclude):
            body = {"status": effect.status, "why": effect.why}
            registry.events.record("rollout.concluded", plan.id, body, at_ms=at_ms)


def _runs(registry: Registry, device: str, plan: Plan) -> bool:
    told = registry.devices.require(device).reported
    slot = told.slots.get(plan.slot) if told else None
    return slot is not None and slot.phase == "idle" and slot.current == plan.release.digest


def _plan(registry: Registry, rollout: str) -> Plan:
    return decode(Plan, registry.rollouts.plan(rollout), limit=_LIMIT)
