"""How each device stands in learning, and which are left out of it.

Rule 1: a round is counted once, together with the note that it was.
Rule 2: who is left out stays so until an operator forgives; then the past is forgotten.

What the counts mean is known to ``fleet.rounds.reputation``.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.errors import ConflictError
from fleet.registry.database import Database
from fleet.registry.events import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One device's row.

    Attributes:
        accepted, refused: Faded counts of its updates.
        refusal: Why the last one was refused; "" if none was.
        left_out_why: Why it is left out of learning; None if it is not.

    """

    accepted: float = 0.0
    refused: float = 0.0
    refusal: str = ""
    left_out_why: str | None = None


class Standings:
    """Rows of devices whose updates were judged."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database, self._events = database, events

    def find(self, device: str) -> Standing | None:
        """Return how a device stands; None before its first update."""
        row = self._database.row("SELECT * FROM learning_standings WHERE device = ?", device)
        return _standing(row) if row else None

    def left_out(self) -> dict[str, str]:
        """Return why, for each device that is left out."""
        rows = self._database.rows(
            "SELECT device, left_out_why FROM learning_standings "
            "WHERE left_out_why IS NOT NULL ORDER BY device"
        )
        return {row["device"]: row["left_out_why"] for row in rows}

    def counted(self, run: str) -> int:
        """Return how many sends of a run were counted."""
        row = self._database.row("SELECT sends FROM learning_counted WHERE run = ?", run)
        return row["sends"] if row else 0

    def count(self, run: str, sends: int, found: Mapping[str, Standing], *, at_ms: int) -> None:
        """Note how devices stand once so many sends of a run are counted."""
        with self._database.joined():
            self._database.write(
                "INSERT INTO learning_counted (run, sends) VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET sends = excluded.sends",
                run,
                sends,
            )
            for device, standing in sorted(found.items()):
                self._write(device, standing, run, at_ms)

    def forgive(self, device: str, *, at_ms: int) -> None:
        """Let a device learn again, without a past.

        Raises:
            ConflictError: It is not left out.

        """
        with self._database.joined():
            known = self.find(device)
            if known is None or known.left_out_why is None:
                raise ConflictError(f"device {device} is not left out of learning")
            self._database.write("DELETE FROM learning_standings WHERE device = ?", device)
            self._events.record("device.forgiven", device, {"why": known.left_out_why}, at_ms=at_ms)

    def _write(self, device: str, standing: Standing, run: str, at_ms: int) -> None:
        before = self.find(device)
        self._database.write(
            "INSERT INTO learning_standings "
            "(device, accepted, refused, refusal, left_out_why, at_ms) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET accepted = excluded.accepted, refused = excluded.refused, "
            "refusal = excluded.refusal, left_out_why = excluded.left_out_why, "
            "at_ms = excluded.at_ms",
            device,
            standing.accepted,
            standing.refused,
            standing.refusal,
            standing.left_out_why,
            at_ms,
        )
        if standing.left_out_why is not None and (before is None or before.left_out_why is None):
            body = {"run": run, "why": standing.left_out_why}
            self._events.record("device.left_out", device, body, at_ms=at_ms)


def _standing(row: sqlite3.Row) -> Standing:
    return Standing(
        accepted=row["accepted"],
        refused=row["refused"],
        refusal=row["refusal"],
        left_out_why=row["left_out_why"],
    )
