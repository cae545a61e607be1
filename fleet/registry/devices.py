"""Which devices there are, and what they say of themselves.

Rule 1: of state messages the newest counts, by boot counter and then by epoch or rev;
        old news, in whatever order it arrives, changes nothing.
Rule 2: a revoked device never comes back under the same key.
"""

import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from agent.contract.codec import decode, encode
from agent.contract.envelope import Boot
from agent.contract.messages import Inventory, Reported
from fleet.errors import ConflictError, NotFoundError
from fleet.registry.desired import DesiredState, Signed

__all__ = ["BootSeen", "Device", "DeviceState", "Devices", "Signed"]


class DeviceState(StrEnum):
    """Where a device stands with the fleet."""

    PENDING = "pending"
    ENROLLED = "enrolled"
    REVOKED = "revoked"


class BootSeen(StrEnum):
    """Whether a boot counter fits what was seen of this device before."""

    OK = "ok"
    REGRESSED = "regressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device.

    Attributes:
        id: ``d-`` and the hash of its public key.
        key: Ed25519 public key, 64 hex digits.
        presence: online, offline or sleeping; None before the first word of it.
        presence_boot, presence_epoch: The pair that ``presence`` belongs to.
        enrolled_ms, last_seen_ms: Wall clock of the manager, ms since 1970.
        quarantined_why: Why rollouts and rounds pass it over; None if they do not.

    """

    id: str
    key: str
    state: DeviceState
    group: str
    hardware: str
    created_ms: int
    enrolled_ms: int | None = None
    last_seen_ms: int | None = None
    presence: str | None = None
    presence_boot: Boot | None = None
    presence_epoch: int = 0
    inventory: Inventory | None = None
    reported: Reported | None = None
    quarantined_why: str | None = None


class Devices(DesiredState):
    """Devices with their reported and, inherited, their desired state."""

    def add(
        self, device: str, *, key: str, group: str, hardware: str, state: DeviceState, at_ms: int
    ) -> Device:
        """Add a device; the same device and key again changes nothing.

        Raises:
            ConflictError: The id is known with another key.

        """
        enrolled_ms = at_ms if state is DeviceState.ENROLLED else None
        with self._database.joined():
            known = self.find(device)
            if known is not None and known.key != key:
                raise ConflictError(f"device {device} is known with another key")
            if known is not None:
                return known
            self._database.write(
                "INSERT INTO devices "
                "(id, key, state, group_name, hardware, created_ms, enrolled_ms) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                device,
                key,
                state.value,
                group,
                hardware,
                at_ms,
                enrolled_ms,
            )
            body = {"key": key, "group": group, "hardware": hardware, "state": state}
            self._events.record("device.added", device, body, at_ms=at_ms)
            return self.require(device)

    def find(self, device: str) -> Device | None:
        """Return one device."""
        row = self._database.row("SELECT * FROM devices WHERE id = ?", device)
        return _device(row) if row else None

    def require(self, device: str) -> Device:
        """Return one device.

        Raises:
            NotFoundError: There is none with this id.

        """
        found = self.find(device)
        if found is None:
            raise NotFoundError(f"there is no device {device}")
        return found

    def listing(self, state: DeviceState | None = None) -> list[Device]:
        """Return devices, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM devices WHERE ?1 IS NULL OR state = ?1 ORDER BY created_ms, rowid",
            state and state.value,
        )
        return [_device(row) for row in rows]

    def groups(self) -> dict[str, str]:
        """Return the group of every device."""
        rows = self._database.rows("SELECT id, group_name FROM devices")
        return {row["id"]: row["group_name"] for row in rows}

    def approve(self, device: str, *, at_ms: int) -> Device:
        """Enrol a pending device; an enrolled one stays so.

        Raises:
            NotFoundError, ConflictError: Unknown, or revoked.

        """
        with self._database.joined():
            known = self.require(device)
            if known.state is DeviceState.REVOKED:
                raise ConflictError(f"device {device} is revoked for good: enrol it with a new key")
            if known.state is DeviceState.PENDING:
                self._database.write(
                    "UPDATE devices SET state = 'enrolled', enrolled_ms = ? WHERE id = ?",
                    at_ms,
                    device,
                )
                self._events.record("device.approved", device, {}, at_ms=at_ms)
            return self.require(device)

    def revoke(self, device: str, *, at_ms: int) -> Device:
        """Revoke a device for good; a revoked one stays so.

        Raises:
            NotFoundError: There is none with this id.

        """
        with self._database.joined():
            if self.require(device).state is not DeviceState.REVOKED:
                self._database.write("UPDATE devices SET state = 'revoked' WHERE id = ?", device)
                self._events.record("device.revoked", device, {}, at_ms=at_ms)
            return self.require(device)

    def quarantine(self, device: str, why: str | None, *, at_ms: int) -> None:
        """Let rollouts and rounds pass the device over, or with None no more."""
        with self._database.joined():
            if self.require(device).quarantined_why == why:
                return
            self._database.write("UPDATE devices SET quarantined_why = ? WHERE id = ?", why, device)
            self._events.record("device.quarantined", device, {"why": why}, at_ms=at_ms)

    def readmit(self, device: str, *, at_ms: int) -> Device:
        """End a quarantine: the life that reports next is the device, whatever its counter.

        Raises:
            NotFoundError: There is none with this id.
            ConflictError: It is not in quarantine.

        """
        with self._database.joined():
            if self.require(device).quarantined_why is None:
                raise ConflictError(f"{device} is not in quarantine")
            self._database.write("DELETE FROM boots WHERE device = ?", device)
            self._database.write(
                "UPDATE devices SET presence_boot = NULL, presence_epoch = 0, "
                "inventory_counter = NULL, inventory_rev = NULL, "
                "reported_counter = NULL, reported_rev = NULL WHERE id = ?",
                device,
            )
            self.quarantine(device, None, at_ms=at_ms)
            return self.require(device)

    def saw(self, device: str, at_ms: int) -> None:
        """Remember when the device was last heard; not an event of the log.

        Also when the clock was put back: the last word is the last, whatever its time.
        """
        self._database.write(
            "UPDATE devices SET last_seen_ms = ?1 WHERE id = ?2 AND last_seen_ms IS NOT ?1",
            at_ms,
            device,
        )

    def presence(self, device: str, boot: Boot, epoch: int, s: str, *, at_ms: int) -> bool:
        """Take presence of the newest (boot counter, epoch); False for old news."""
        with self._database.joined():
            known = self.require(device)
            if not _is_news(known, boot, epoch, s):
                return False
            self._database.write(
                "UPDATE devices SET presence = ?, presence_boot = ?, presence_epoch = ? "
                "WHERE id = ?",
                s,
                str(boot),
                epoch,
                device,
            )
            body = {"s": s, "boot": str(boot), "epoch": epoch}
            self._events.record("device.presence", device, body, at_ms=at_ms)
            return True

    def inventory(self, device: str, boot: Boot, value: Inventory, *, at_ms: int) -> bool:
        """Take the inventory of the newest (boot counter, rev); False for old news."""
        body = {"boot": str(boot), "inventory": value}
        with self._database.joined():
            changed = self._database.write(
                "UPDATE devices SET inventory = ?1, inventory_counter = ?2, inventory_rev = ?3 "
                "WHERE id = ?4 AND (inventory_counter IS NULL "
                "OR (inventory_counter, inventory_rev) < (?2, ?3))",
                encode(value).decode(),
                boot.counter,
                value.rev,
                device,
            )
            if changed:
                self._events.record("device.inventory", device, body, at_ms=at_ms)
            return bool(changed)

    def reported(self, device: str, boot: Boot, value: Reported, *, at_ms: int) -> bool:
        """Take the reported state of the newest (boot counter, rev); False for old news."""
        body = {"boot": str(boot), "reported": value}
        with self._database.joined():
            changed = self._database.write(
                "UPDATE devices SET reported = ?1, reported_counter = ?2, reported_rev = ?3 "
                "WHERE id = ?4 AND (reported_counter IS NULL "
                "OR (reported_counter, reported_rev) < (?2, ?3))",
                encode(value).decode(),
                boot.counter,
                value.rev,
                device,
            )
            if changed:
                self._events.record("device.reported", device, body, at_ms=at_ms)
            return bool(changed)

    def sign_again(self, device: str) -> None:
        """Have a device's assignment signed anew, as if its desired state had changed."""
        self._database.write("UPDATE devices SET unsigned = 1 WHERE id = ?", device)

    def boot_seen(self, device: str, boot: Boot, *, at_ms: int) -> BootSeen:
        """Remember a boot; one that is unknown and not newer than another looks like a clone."""
        with self._database.joined():
            row = self._database.row(
                "SELECT regressed FROM boots WHERE device = ? AND boot = ?", device, str(boot)
            )
            if row is not None:
                return BootSeen.REGRESSED if row["regressed"] else BootSeen.OK
            top = self._database.row(
                "SELECT max(counter) AS top FROM boots WHERE device = ?", device
            )
            newest = top["top"] if top else None
            regressed = newest is not None and boot.counter <= newest
            self._database.write(
                "INSERT INTO boots (device, boot, counter, regressed, at_ms) "
                "VALUES (?, ?, ?, ?, ?)",
                device,
                str(boot),
                boot.counter,
                regressed,
                at_ms,
            )
            kind = "device.boot_regressed" if regressed else "device.booted"
            self._events.record(kind, device, {"boot": str(boot)}, at_ms=at_ms)
            return BootSeen.REGRESSED if regressed else BootSeen.OK

    def last_seen(self) -> dict[str, int]:
        """Return when each device was last heard, ms since 1970."""
        rows = self._database.rows(
            "SELECT id, last_seen_ms FROM devices WHERE last_seen_ms IS NOT NULL"
        )
        return {row["id"]: row["last_seen_ms"] for row in rows}


def _is_news(known: Device, boot: Boot, epoch: int, s: str) -> bool:
    """Decide whether a presence is newer than the known one.

    Of one (boot, epoch) the offline is last. Two boots with one counter have no order;
    then a birth is believed, and a death is not: it may be another life's.
    """
    if known.presence_boot is None:
        return True
    if boot.counter != known.presence_boot.counter:
        return boot.counter > known.presence_boot.counter
    if boot != known.presence_boot:
        return s == "online"
    if epoch != known.presence_epoch:
        return epoch > known.presence_epoch
    return known.presence not in {s, "offline"}


def _device(row: sqlite3.Row) -> Device:
    boot, inventory, reported = row["presence_boot"], row["inventory"], row["reported"]
    return Device(
        id=row["id"],
        key=row["key"],
        state=DeviceState(row["state"]),
        group=row["group_name"],
        hardware=row["hardware"],
        created_ms=row["created_ms"],
        enrolled_ms=row["enrolled_ms"],
        last_seen_ms=row["last_seen_ms"],
        presence=row["presence"],
        presence_boot=Boot.parse(boot) if boot else None,
        presence_epoch=row["presence_epoch"],
        inventory=decode(Inventory, inventory.encode()) if inventory else None,
        reported=decode(Reported, reported.encode()) if reported else None,
        quarantined_why=row["quarantined_why"],
    )
