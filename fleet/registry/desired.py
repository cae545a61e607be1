"""What devices are wanted to run, and what was signed of it.

Rule 1: the desired state is what the fleet wants now; an assignment is what the director
        signed of it. ``unsigned`` names the devices for which the two differ.
Rule 2: signed assignments only grow in (director_epoch, sequence).
"""

import sqlite3
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from agent.contract.messages import Assigned
from fleet.errors import ConflictError, NotFoundError
from fleet.registry.database import Database
from fleet.registry.events import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The newest assignment document of a device, as it was published.

    Attributes:
        payload: The signed document, byte for byte.
        slots: What its body assigns.

    """

    director_epoch: int
    sequence: int
    payload: bytes
    slots: dict[str, Assigned]
    expires_ms: int


class DesiredState:
    """The desired state of every device."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def want(self, device: str, slot: str, assigned: Assigned | None, *, at_ms: int) -> bool:
        """Set the desired release of a slot; None empties it. False if it was so already.

        Raises:
            NotFoundError: There is no such device.

        """
        with self._database.joined():
            if not self._database.row("SELECT 1 FROM devices WHERE id = ?", device):
                raise NotFoundError(f"there is no device {device}")
            if self.desired(device).get(slot) == assigned:
                return False
            if assigned is None:
                self._database.write(
                    "DELETE FROM desired WHERE device = ? AND slot = ?", device, slot
                )
            else:
                self._database.write(
                    "INSERT INTO desired (device, slot, target, digest, counter) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "target = excluded.target, digest = excluded.digest, "
                    "counter = excluded.counter",
                    device,
                    slot,
                    assigned.target,
                    assigned.digest,
                    assigned.counter,
                )
            self._mark(device)
            body = {"slot": slot, "assigned": assigned}
            self._events.record("device.wanted", device, body, at_ms=at_ms)
            return True

    def desired(self, device: str) -> dict[str, Assigned]:
        """Return the desired release of every slot."""
        rows = self._database.rows("SELECT * FROM desired WHERE device = ? ORDER BY slot", device)
        return {row["slot"]: _assigned(row) for row in rows}

    def desired_by_device(self) -> dict[str, dict[str, Assigned]]:
        """Return the desired state of every device that has one."""
        found: dict[str, dict[str, Assigned]] = {}
        for row in self._database.rows("SELECT * FROM desired ORDER BY device, slot"):
            found.setdefault(row["device"], {})[row["slot"]] = _assigned(row)
        return found

    def wanted(self) -> set[str]:
        """Return the digests of every release that a device is wanted, or was signed, to run."""
        found = {row["digest"] for row in self._database.rows("SELECT digest FROM desired")}
        for row in self._database.rows("SELECT DISTINCT slots FROM assignments"):
            slots = msgspec.json.decode(row["slots"], type=dict[str, Assigned])
            found |= {assigned.digest for assigned in slots.values()}
        return found

    def assignment(self, device: str) -> Signed | None:
        """Return the newest signed assignment."""
        row = self._database.row("SELECT * FROM assignments WHERE device = ?", device)
        if row is None:
            return None
        return Signed(
            director_epoch=row["director_epoch"],
            sequence=row["sequence"],
            payload=row["payload"],
            slots=msgspec.json.decode(row["slots"], type=dict[str, Assigned]),
            expires_ms=row["expires_ms"],
        )

    def keep_assignment(self, device: str, signed: Signed, *, at_ms: int) -> None:
        """Keep a new signed assignment.

        Raises:
            ConflictError: Its (director_epoch, sequence) is not above the kept one's.

        """
        order = (signed.director_epoch, signed.sequence)
        with self._database.joined():
            kept = self.assignment(device)
            if kept is not None and order <= (kept.director_epoch, kept.sequence):
                raise ConflictError(
                    f"assignment {order} of {device} is not above the kept "
                    f"{(kept.director_epoch, kept.sequence)}"
                )
            self._database.write(
                "INSERT OR REPLACE INTO assignments "
                "(device, director_epoch, sequence, payload, slots, expires_ms) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                device,
                *order,
                signed.payload,
                msgspec.json.encode(signed.slots, order="sorted").decode(),
                signed.expires_ms,
            )
            self._mark(device)
            body = {
                "director_epoch": signed.director_epoch,
                "sequence": signed.sequence,
                "digest": sha256(signed.payload).hexdigest(),
                "slots": signed.slots,
            }
            self._events.record("assignment.signed", device, body, at_ms=at_ms)

    def unsigned(self) -> list[str]:
        """Return enrolled devices whose desired state differs from the last signed one."""
        rows = self._database.rows(
            "SELECT id FROM devices WHERE unsigned = 1 AND state = 'enrolled' ORDER BY rowid"
        )
        return [row["id"] for row in rows]

    def expiring(self, before_ms: int) -> list[str]:
        """Return enrolled devices whose signed assignment expires before a moment."""
        rows = self._database.rows(
            "SELECT id FROM devices JOIN assignments ON device = id "
            "WHERE expires_ms < ? AND state = 'enrolled' ORDER BY expires_ms",
            before_ms,
        )
        return [row["id"] for row in rows]

    def of_another_epoch(self, epoch: int) -> list[str]:
        """Return enrolled devices whose signed assignment is of another director epoch."""
        rows = self._database.rows(
            "SELECT id FROM devices JOIN assignments ON device = id "
            "WHERE director_epoch != ? AND state = 'enrolled' ORDER BY devices.rowid",
            epoch,
        )
        return [row["id"] for row in rows]

    def _mark(self, device: str) -> None:
        kept = self.assignment(device)
        unsigned = self.desired(device) != (kept.slots if kept else {})
        self._database.write("UPDATE devices SET unsigned = ? WHERE id = ?", unsigned, device)


def _assigned(row: sqlite3.Row) -> Assigned:
    return Assigned(target=row["target"], digest=row["digest"], counter=row["counter"])
