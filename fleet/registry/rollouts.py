"""Rollouts as rows: the plan, the journalled events, and the state that they lead to.

Rule 1: a state is one row, and one more for each device: an outcome writes the two that it
        changes, however many devices there are.
Rule 2: ``revision`` grows with every change, so that what was decoded of a state may be
        held until it is another one.

What the texts mean is known to ``fleet.rollout`` alone; use ``fleet.rollout.journal``.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec import Raw

from fleet.errors import ConflictError, NotFoundError, RegistryError
from fleet.registry.database import Database
from fleet.registry.events import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One rollout, without the texts that are long.

    Attributes:
        id: Its name.
        slot, release: What it changes, and the manifest digest it brings.
        phase: JSON text of ``rollout.events.Phase``.
        wave: The highest that was begun, from 0.
        status: The name of the phase, for listings.
        active: Whether it may still do something.
        revision: How often it changed.
        created_ms, changed_ms: Wall clock of the manager, ms since 1970.

    """

    id: str
    slot: str
    release: str
    phase: bytes
    wave: int
    status: str
    active: bool
    revision: int
    created_ms: int
    changed_ms: int


_COLUMNS = "id, slot, release, phase, wave, status, active, revision, created_ms, changed_ms"


class Rollouts:
    """Rollout rows and their journalled events."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events
        self._held: dict[str, tuple[int, object]] = {}

    def create(
        self,
        rollout: str,
        *,
        slot: str,
        release: str,
        plan: bytes,
        phase: bytes,
        members: Mapping[str, bytes],
        status: str,
        at_ms: int,
    ) -> None:
        """Add a rollout with its devices, in their order.

        Raises:
            ConflictError: The name is taken.

        """
        with self._database.joined():
            if self.find(rollout) is not None:
                raise ConflictError(f"rollout {rollout} exists already")
            self._held.pop(rollout, None)
            self._database.write(
                "INSERT INTO rollouts "
                "(id, slot, release, plan, phase, status, active, created_ms, changed_ms) "
                "VALUES (?1, ?6, ?7, ?2, ?3, ?4, 1, ?5, ?5)",
                rollout,
                plan,
                phase.decode(),
                status,
                at_ms,
                slot,
                release,
            )
            self._database.write_many(
                "INSERT INTO rollout_members (rollout, place, device, member) VALUES (?, ?, ?, ?)",
                [
                    (rollout, place, device, text.decode())
                    for place, (device, text) in enumerate(members.items())
                ],
            )
            self._events.record("rollout.created", rollout, {"plan": Raw(plan)}, at_ms=at_ms)

    def advance(
        self,
        rollout: str,
        *,
        events: Sequence[bytes],
        phase: bytes,
        wave: int,
        members: Mapping[str, bytes],
        status: str,
        active: bool,
        at_ms: int,
    ) -> int:
        """Journal events and the state after them, together; returns the new revision.

        Args:
            rollout: Its name.
            events: JSON texts of ``rollout.events.Event``.
            phase: See ``RolloutRow``, and for the next three.
            wave: The highest that was begun.
            status: The name of the phase.
            active: Whether it may still do something.
            members: Those of its devices that changed.
            at_ms: Wall clock of the manager, ms since 1970.

        Raises:
            NotFoundError: There is no such rollout.

        """
        with self._database.joined():
            for event in events:
                self._events.record("rollout.step", rollout, {"event": Raw(event)}, at_ms=at_ms)
            self._database.write_many(
                "UPDATE rollout_members SET member = ? WHERE rollout = ? AND device = ?",
                [(text.decode(), rollout, device) for device, text in members.items()],
            )
            changed = self._database.row(
                "UPDATE rollouts SET phase = ?, wave = ?, status = ?, active = ?, changed_ms = ?, "
                "revision = revision + 1 WHERE id = ? RETURNING revision",
                phase.decode(),
                wave,
                status,
                active,
                at_ms,
                rollout,
            )
            if changed is None:
                raise NotFoundError(f"there is no rollout {rollout}")
            return int(changed["revision"])

    def find(self, rollout: str) -> RolloutRow | None:
        """Return one rollout."""
        row = self._database.row(f"SELECT {_COLUMNS} FROM rollouts WHERE id = ?", rollout)  # noqa: S608 - fixed texts
        return _row(row) if row else None

    def listing(self, active: bool | None = None) -> list[RolloutRow]:  # noqa: FBT001 - a filter, read by name
        """Return rollouts, oldest first."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM rollouts WHERE ?1 IS NULL OR active = ?1 ORDER BY rowid",  # noqa: S608 - fixed texts
            active,
        )
        return [_row(row) for row in rows]

    def plan(self, rollout: str) -> bytes:
        """Return the JSON text of ``rollout.plan.Plan``.

        Raises:
            NotFoundError: There is no such rollout.

        """
        row = self._database.row("SELECT plan FROM rollouts WHERE id = ?", rollout)
        if row is None:
            raise NotFoundError(f"there is no rollout {rollout}")
        return bytes(row["plan"])

    def members(self, rollout: str) -> list[str]:
        """Return the JSON text of every device of a rollout, in the order of its plan."""
        rows = self._database.rows(
            "SELECT member FROM rollout_members WHERE rollout = ? ORDER BY place", rollout
        )
        return [row["member"] for row in rows]

    def hold(self, rollout: str, revision: int, state: object | None) -> None:
        """Hold what was decoded of a state, until there is another revision; None lets go."""
        if state is None:
            self._held.pop(rollout, None)
        else:
            self._held[rollout] = (revision, state)

    def held(self, row: RolloutRow) -> object | None:
        """Return what is held of this revision."""
        revision, state = self._held.get(row.id, (None, None))
        return state if revision == row.revision else None

    def journal(self, rollout: str) -> list[bytes]:
        """Return the journalled events as JSON, oldest first: replayed, they give the state.

        Raises:
            RegistryError: Some of them were archived.

        """
        if not self._events.read(kinds=("rollout.created",), subject=rollout, limit=1):
            raise RegistryError(f"the beginning of {rollout} lies in an archive of the event log")
        return self._events.steps("rollout.step", rollout)


def _row(row: sqlite3.Row) -> RolloutRow:
    return RolloutRow(
        id=row["id"],
        slot=row["slot"],
        release=row["release"],
        phase=row["phase"].encode(),
        wave=row["wave"],
        status=row["status"],
        active=bool(row["active"]),
        revision=row["revision"],
        created_ms=row["created_ms"],
        changed_ms=row["changed_ms"],
    )
