"""Rollouts as rows: the plan, the journalled events, and the state that they lead to.

What the texts mean is known to ``fleet.rollout`` alone; use ``fleet.rollout.journal``.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One rollout.

    Attributes:
        id: Its name.
        slot, release: What it changes, and the manifest digest it brings.
        plan, state: JSON texts of ``rollout.plan.Plan`` and ``rollout.engine.State``.
        status: The name of the state's phase, for listings.
        active: Whether it may still do something.
        created_ms, changed_ms: Wall clock of the manager, ms since 1970.

    """

    id: str
    slot: str
    release: str
    plan: bytes
    state: bytes
    status: str
    active: bool
    created_ms: int
    changed_ms: int


class Rollouts:
    """Rollout rows and their journalled events."""

    def create(
        self,
        rollout: str,
        *,
        slot: str,
        release: str,
        plan: bytes,
        state: bytes,
        status: str,
        at_ms: int,
    ) -> None:
        """Add a rollout.

        Raises:
            ConflictError: The name is taken.

        """
        raise NotImplementedError

    def advance(
        self,
        rollout: str,
        *,
        events: Sequence[bytes],
        state: bytes,
        status: str,
        active: bool,
        at_ms: int,
    ) -> None:
        """Journal events and the state after them, together."""
        raise NotImplementedError

    def find(self, rollout: str) -> RolloutRow | None:
        """Return one rollout."""
        raise NotImplementedError

    def listing(self, active: bool | None = None) -> list[RolloutRow]:  # noqa: FBT001
        """Return rollouts, oldest first."""
        raise NotImplementedError

    def journal(self, rollout: str) -> list[bytes]:
        """Return the journalled events as JSON, oldest first: replayed, they give the state."""
        raise NotImplementedError
