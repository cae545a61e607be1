"""Federated runs as rows, their steps, and the spool of their answers.

Rule 1: a step is written to the event log and, in the same transaction, beside its run:
        a run is told from its steps also when the log's beginning lies in an archive.
Rule 2: a spool may be forgotten once its run has ended; the log keeps the digests.

What the texts mean is known to ``fleet.rounds`` alone.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from msgspec import Raw

from fleet.errors import ConflictError, NotFoundError
from fleet.registry.database import Database
from fleet.registry.events import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One federated run; plan and state are JSON texts of ``fleet.rounds``."""

    id: str
    plan: bytes
    state: bytes
    status: str
    active: bool
    created_ms: int
    changed_ms: int


class Runs:
    """Run rows, their journalled events, and the answers of devices."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def create(self, run: str, *, plan: bytes, state: bytes, status: str, at_ms: int) -> None:
        """Add a run.

        Raises:
            ConflictError: The name is taken.

        """
        with self._database.joined():
            if self.find(run) is not None:
                raise ConflictError(f"run {run} exists already")
            self._database.write(
                "INSERT INTO runs (id, plan, state, status, active, created_ms, changed_ms) "
                "VALUES (?1, ?2, ?3, ?4, 1, ?5, ?5)",
                run,
                plan,
                state,
                status,
                at_ms,
            )
            self._events.record("run.created", run, {"plan": Raw(plan)}, at_ms=at_ms)

    def find(self, run: str) -> RunRow | None:
        """Return one run."""
        row = self._database.row("SELECT * FROM runs WHERE id = ?", run)
        return _row(row) if row else None

    def listing(self, active: bool | None = None) -> list[RunRow]:  # noqa: FBT001 - a filter, read by name
        """Return runs, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM runs WHERE ?1 IS NULL OR active = ?1 ORDER BY rowid", active
        )
        return [_row(row) for row in rows]

    def ended_since(self, at_ms: int) -> list[str]:
        """Return the ids of runs that ended at this moment or later, oldest first."""
        rows = self._database.rows(
            "SELECT id FROM runs WHERE active = 0 AND changed_ms >= ? ORDER BY rowid", at_ms
        )
        return [row["id"] for row in rows]

    def note(self, run: str, event: bytes) -> None:
        """Journal what came of a run that has ended; it ended when it did."""
        row = self.find(run)
        if row is None or row.active:
            raise ConflictError(f"run {run} has not ended")
        self.advance(
            run,
            events=[event],
            state=row.state,
            status=row.status,
            active=False,
            at_ms=row.changed_ms,
        )

    def advance(
        self,
        run: str,
        *,
        events: Sequence[bytes],
        state: bytes,
        status: str,
        active: bool,
        at_ms: int,
    ) -> None:
        """Journal events (JSON objects) and the state after them, together."""
        with self._database.joined():
            self._keep(run, state, status=status, active=active, at_ms=at_ms)
            for event in events:
                number = self._events.record("run.step", run, {"event": Raw(event)}, at_ms=at_ms)
                self._database.write(
                    "INSERT INTO run_steps (run, number, event) VALUES (?, ?, ?)",
                    run,
                    number,
                    event.decode(),
                )

    def save_state(self, run: str, state: bytes, *, status: str, active: bool, at_ms: int) -> None:
        """Keep a state without an event of its own."""
        with self._database.joined():
            self._keep(run, state, status=status, active=active, at_ms=at_ms)

    def journal(self, run: str) -> list[bytes]:
        """Return the journalled events as JSON, oldest first."""
        rows = self._database.rows("SELECT event FROM run_steps WHERE run = ? ORDER BY number", run)
        return [row["event"].encode() for row in rows]

    def blob_keep(self, run: str, name: str, payload: bytes, *, at_ms: int) -> bool:
        """Spool other bytes of a run (a pushed message, the final weights); first one stays."""
        with self._database.joined():
            new = self._database.write(
                "INSERT INTO run_blobs (run, name, payload, at_ms) "
                "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                run,
                name,
                payload,
                at_ms,
            )
            if new:
                body = {"name": name, "digest": sha256(payload).hexdigest()}
                self._events.record("run.kept", run, body, at_ms=at_ms)
            return bool(new)

    def blob(self, run: str, name: str) -> bytes | None:
        """Return spooled bytes by name."""
        row = self._database.row(
            "SELECT payload FROM run_blobs WHERE run = ? AND name = ?", run, name
        )
        return row["payload"] if row else None

    def spooled(self, run: str, *, but: str) -> tuple[int, int]:
        """Return how many spooled things a run has beside one name, and their bytes."""
        row = self._database.row(
            "SELECT count(*) AS things, coalesce(sum(length(payload)), 0) AS bytes "
            "FROM run_blobs WHERE run = ? AND name IS NOT ?",
            run,
            but,
        )
        return (row["things"], row["bytes"]) if row else (0, 0)

    def forget_spool(self, run: str, *, but: str) -> None:
        """Remove what a run that has ended spooled, beside one name; no name spares none."""
        self._database.write(
            "DELETE FROM run_blobs WHERE run = ?1 AND name IS NOT ?2 "
            "AND EXISTS (SELECT 1 FROM runs WHERE id = ?1 AND active = 0)",
            run,
            but,
        )

    def _keep(self, run: str, state: bytes, *, status: str, active: bool, at_ms: int) -> None:
        changed = self._database.write(
            "UPDATE runs SET state = ?, status = ?, active = ?, changed_ms = ? WHERE id = ?",
            state,
            status,
            active,
            at_ms,
            run,
        )
        if not changed:
            raise NotFoundError(f"there is no run {run}")


def _row(row: sqlite3.Row) -> RunRow:
    return RunRow(
        id=row["id"],
        plan=row["plan"],
        state=row["state"],
        status=row["status"],
        active=bool(row["active"]),
        created_ms=row["created_ms"],
        changed_ms=row["changed_ms"],
    )
