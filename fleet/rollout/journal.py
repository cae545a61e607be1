"""Rollouts in the registry: remembered first, then acted on, in one transaction.

Rule 1: an event, the state after it and the desired state of every device that it
        changes are written together; ``kill -9`` leaves all of it or nothing.
Rule 2: an event that changes nothing is not journalled, so that a clock that ticks
        every second costs nothing.
Rule 3: a device is taken back only while it is still wanted to run this release.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from agent.contract.codec import Versioned, decode, encode
from agent.contract.manifest import Name
from agent.contract.messages import Event as DeviceSaid
from fleet.errors import ConflictError, NotFoundError, RegistryError
from fleet.registry.devices import Device
from fleet.registry.rollouts import RolloutRow
from fleet.registry.sqlite import Registry
from fleet.rollout import engine
from fleet.rollout.engine import Event, State, initial, silences, step
from fleet.rollout.plan import Plan

_LIMIT: Final = 256 * 1024 * 1024


class _Kept(Versioned, frozen=True, kw_only=True):
    phase: engine.Phase
    wave: int
    members: dict[Name, engine.Member]


def begin(registry: Registry, plan: Plan, *, at_ms: int) -> State:
    """Create a rollout and ask its canary.

    Raises:
        ConflictError: The name is taken, or an active rollout of the slot shares a device.

    """
    raise NotImplementedError


def advance(registry: Registry, rollout: str, events: Iterable[Event], *, at_ms: int) -> State:
    """Let a rollout hear events, and do what follows from them.

    Raises:
        NotFoundError: There is no such rollout.

    """
    raise NotImplementedError


def load(registry: Registry, rollout: str) -> State:
    """Return the state of a rollout.

    Raises:
        NotFoundError: There is no such rollout.

    """
    raise NotImplementedError


def replay(registry: Registry, rollout: str) -> State:
    """Return the state that the journalled events lead to; equal to ``load``.

    Raises:
        NotFoundError: There is no such rollout.

    """
    raise NotImplementedError


def hear_update(
    registry: Registry, device: str, said: DeviceSaid, *, at_ms: int
) -> tuple[str, ...]:
    """Tell active rollouts of a device's ``update`` event; returns the rollouts it moved."""
    raise NotImplementedError


def tick(registry: Registry, *, at_ms: int) -> tuple[str, ...]:
    """Let time pass for every active rollout; returns the rollouts that it moved."""
    raise NotImplementedError
