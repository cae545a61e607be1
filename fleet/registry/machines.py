"""How each machine was when it last said so.

Rule 1: the newest reading counts, by boot counter and then by the device's clock; what comes
        late changes nothing.
Rule 2: one row for each device, so that a fleet's health takes as much room as its list.
        What changed is in the alarms.
"""

from agent.contract.codec import decode, encode
from agent.contract.envelope import Boot
from agent.contract.telemetry import Health
from fleet.registry.database import Database


class Machines:
    """The newest health of every device."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, device: str, boot: Boot, health: Health | None, *, at_ms: int) -> None:
        """Keep a reading, where there is one and it is the newest of its device."""
        if health is None:
            return
        self._database.write(
            "INSERT INTO machine_health (device, boot, ts, at_ms, body) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET boot = excluded.boot, ts = excluded.ts, "
            "at_ms = excluded.at_ms, body = excluded.body "
            "WHERE (excluded.boot, excluded.ts) >= (boot, ts)",
            device,
            boot.counter,
            health.ts,
            at_ms,
            encode(health).decode(),
        )

    def of_device(self, device: str) -> Health | None:
        """Return the newest reading of one device."""
        row = self._database.row("SELECT body FROM machine_health WHERE device = ?", device)
        return decode(Health, row["body"].encode()) if row else None
