"""Rollouts as rows: the plan, the journalled events, and the state that they lead to.

What the texts mean is known to ``fleet.rollout`` alone; use ``fleet.rollout.journal``.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Raw

from fleet.errors import ConflictError, NotFoundError
from fleet.registry.database import Database
from fleet.registry.events import Events


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

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

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
        with self._database.joined():
            if self.find(rollout) is not None:
                raise ConflictError(f"rollout {rollout} exists already")
            self._database.write(
                "INSERT INTO rollouts "
                "(id, slot, release, plan, state, status, active, created_ms, changed_ms) "
                "VALUES (?1, ?6, ?7, ?2, ?3, ?4, 1, ?5, ?5)",
                rollout,
                plan,
                state,
                status,
                at_ms,
                slot,
                release,
            )
            self._events.record("rollout.created", rollout, {"plan": Raw(plan)}, at_ms=at_ms)

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
        with self._database.joined():
            for event in events:
                self._events.record("rollout.step", rollout, {"event": Raw(event)}, at_ms=at_ms)
            self._keep(rollout, state, status=status, active=active, at_ms=at_ms)

    def find(self, rollout: str) -> RolloutRow | None:
        """Return one rollout."""
        row = self._database.row("SELECT * FROM rollouts WHERE id = ?", rollout)
        return _row(row) if row else None

    def listing(self, active: bool | None = None) -> list[RolloutRow]:  # noqa: FBT001 - a filter, read by name
        """Return rollouts, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM rollouts WHERE ?1 IS NULL OR active = ?1 ORDER BY rowid", active
        )
        return [_row(row) for row in rows]

    def journal(self, rollout: str) -> list[bytes]:
        """Return the journalled events as JSON, oldest first: replayed, they give the state."""
        return self._events.steps("rollout.step", rollout)

    def _keep(self, rollout: str, state: bytes, *, status: str, active: bool, at_ms: int) -> None:
        changed = self._database.write(
            "UPDATE rollouts SET state = ?, status = ?, active = ?, changed_ms = ? WHERE id = ?",
            state,
            status,
            active,
            at_ms,
            rollout,
        )
        if not changed:
            raise NotFoundError(f"there is no rollout {rollout}")


def _row(row: sqlite3.Row) -> RolloutRow:
    return RolloutRow(
        id=row["id"],
        slot=row["slot"],
        release=row["release"],
        plan=row["plan"],
        state=row["state"],
        status=row["status"],
        active=bool(row["active"]),
        created_ms=row["created_ms"],
        changed_ms=row["changed_ms"],
    )
