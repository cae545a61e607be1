"""What devices reported: each report counted once, its content kept by kind.

Rule 1: a report is unique on (device, boot, sequence); resends, in any order and any
        number, are welcome and counted as duplicates only.
Rule 2: an event is unique on (device, id), so that it counts once even when a device
        reports it again under another number.
Rule 3: numbers that a device dropped count as recorded, so that the acknowledgement
        can pass them; one that arrives after all is accepted and no longer dropped.
Rule 4: windows and alarms may be forgotten by age; counts, updates and evaluations stay.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.contract.codec import decode, encode
from agent.contract.envelope import Boot
from agent.contract.messages import Event
from agent.contract.telemetry import Window
from fleet.errors import RefusedError
from fleet.registry.database import Database
from fleet.registry.events import Events
from fleet.registry.labels import Labels
from fleet.registry.numbers import Numbers

STATE_SEQUENCES: Final = 2**40
"""From here on, stamps are of state messages, which the outbox never holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTotals:
    """How many outbox reports arrived.

    Attributes:
        accepted: Counted once each.
        duplicates_ignored: Arrived again and changed nothing.
        skipped: Numbers that devices said they dropped for lack of room.
        missing: Numbers below a device's highest that neither arrived nor were skipped.
        by_kind: Accepted, by kind.

    """

    accepted: int
    duplicates_ignored: int
    skipped: int
    missing: int
    by_kind: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """An event as a device sent it, and when the manager took it (ms since 1970)."""

    device: str
    at_ms: int
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWindow:
    """A telemetry window as a device sent it."""

    device: str
    boot: Boot
    window: Window


class Reports:
    """Reports of the durable outboxes.

    Attributes:
        labels: What people said of the predictions in these windows.

    """

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events
        self.labels = Labels(database)

    def accept(self, device: str, boot: Boot, seq: int, kind: str, *, at_ms: int) -> bool:
        """Count one report; False for one that was counted before.

        Raises:
            RefusedError: ``seq`` is no outbox number, or the boot has too many holes.

        """
        _require_range(seq, seq)
        with self._database.joined():
            received, skipped = self._numbers(device, boot)
            new = seq not in received
            if new:
                received = received.add(seq, seq)
                self._database.write(
                    "INSERT INTO report_kinds (device, kind, accepted) VALUES (?, ?, 1) "
                    "ON CONFLICT DO UPDATE SET accepted = accepted + 1",
                    device,
                    kind,
                )
            self._count(device, boot, received, skipped, at_ms, again=not new)
            return new

    def skip(self, device: str, boot: Boot, first: int, last: int, *, at_ms: int) -> int:
        """Mark numbers as dropped by the device; returns how many did not arrive.

        Raises:
            RefusedError: No range of outbox numbers, or the boot has too many holes.

        """
        _require_range(first, last)
        with self._database.joined():
            received, skipped = self._numbers(device, boot)
            before = received.union(skipped).count
            skipped = skipped.add(first, last)
            dropped = received.union(skipped).count - before
            self._count(device, boot, received, skipped, at_ms)
            if dropped:
                body = {"boot": str(boot), "first": first, "last": last, "dropped": dropped}
                self._events.record("reports.dropped", device, body, at_ms=at_ms)
            return dropped

    def recorded_up_to(self, device: str, boot: Boot) -> int:
        """Return the highest n with all of 1 to n recorded or skipped; 0 for none."""
        row = self._database.row(
            "SELECT up_to FROM report_numbers WHERE device = ? AND boot = ?", device, str(boot)
        )
        return row["up_to"] if row else 0

    def windows_add(self, device: str, boot: Boot, windows: Sequence[Window], *, at_ms: int) -> int:
        """Keep windows, unique on (device, boot, slot, number); returns how many were new."""
        with self._database.joined():
            labelled = [w for w in windows if w.labelled and not self._knows(device, boot, w)]
            self.labels.add(device, labelled, at_ms=at_ms)
            return self._database.write_many(
                "INSERT INTO windows "
                "(device, boot, slot, number, release, closed_ms, at_ms, body) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (
                        device,
                        str(boot),
                        window.slot,
                        window.number,
                        window.release,
                        window.closed_ms,
                        at_ms,
                        encode(window).decode(),
                    )
                    for window in windows
                ],
            )

    def _knows(self, device: str, boot: Boot, window: Window) -> bool:
        same = "SELECT 1 FROM windows WHERE device = ? AND boot = ? AND slot = ? AND number = ?"
        key = (device, str(boot), window.slot, window.number)
        return self._database.row(same, *key) is not None

    def windows(
        self,
        device: str | None = None,
        slot: str | None = None,
        since_ms: int = 0,
        limit: int = 1000,
    ) -> list[DeviceWindow]:
        """Return the newest windows that closed at or after a moment, oldest first."""
        rows = self._database.rows(
            "SELECT device, boot, body FROM windows WHERE closed_ms >= ?3 "
            "AND (?1 IS NULL OR device = ?1) AND (?2 IS NULL OR slot = ?2) "
            "ORDER BY closed_ms DESC, rowid DESC LIMIT ?4",
            device,
            slot,
            since_ms,
            limit,
        )
        return [
            DeviceWindow(
                device=row["device"],
                boot=Boot.parse(row["boot"]),
                window=decode(Window, row["body"].encode()),
            )
            for row in reversed(rows)
        ]

    def newest_window(self, device: str, slot: str) -> Window | None:
        """Return the window of a slot that closed last, found by its index."""
        newest = "SELECT body FROM windows WHERE device = ? AND slot = ? ORDER BY closed_ms DESC"
        row = self._database.row(newest, device, slot)
        return decode(Window, row["body"].encode()) if row else None

    def forget(self, before_ms: int, *, limit: int = 1000) -> int:
        """Remove windows and alarms that the manager took before a moment; returns how many.

        The counts in ``totals`` stay. Call it again until it returns less than ``limit``.
        """
        if not self._database.row(
            "SELECT 1 FROM windows WHERE at_ms < ?1 UNION ALL "
            "SELECT 1 FROM device_events WHERE type = 'alarm' AND at_ms < ?1 LIMIT 1",
            before_ms,
        ):
            return 0
        with self._database.joined():
            windows = self._database.write(
                "DELETE FROM windows WHERE rowid IN "
                "(SELECT rowid FROM windows WHERE at_ms < ? LIMIT ?)",
                before_ms,
                limit,
            )
            return windows + self._database.write(
                "DELETE FROM device_events WHERE rowid IN (SELECT rowid FROM device_events "
                "WHERE type = 'alarm' AND at_ms < ? LIMIT ?)",
                before_ms,
                limit - windows,
            )

    def update_add(self, device: str, event: Event, *, at_ms: int) -> bool:
        """Keep the end of one update, unique on (device, id); False if it is known."""
        return self._keep(device, event, "update", at_ms)

    def evaluation_add(self, device: str, event: Event, *, at_ms: int) -> bool:
        """Keep an evaluation, unique on (device, id); False if it is known."""
        return self._keep(device, event, "evaluation", at_ms)

    def alarm_add(self, device: str, event: Event, *, at_ms: int) -> bool:
        """Keep an alarm, unique on (device, id); False if it is known."""
        return self._keep(device, event, "alarm", at_ms)

    def updates(
        self, device: str | None = None, release: str | None = None, limit: int = 1000
    ) -> list[DeviceEvent]:
        """Return the newest update events, oldest first."""
        return self._kept("update", device, release, limit)

    def evaluations(
        self, release: str | None = None, device: str | None = None, limit: int = 1000
    ) -> list[DeviceEvent]:
        """Return the newest evaluations, oldest first."""
        return self._kept("evaluation", device, release, limit)

    def alarms(self, device: str | None = None, limit: int = 1000) -> list[DeviceEvent]:
        """Return the newest alarms, oldest first."""
        return self._kept("alarm", device, None, limit)

    def totals(self, device: str | None = None) -> ReportTotals:
        """Return the counts of one device, or of all."""
        row = self._database.row(
            "SELECT sum(accepted) AS accepted, sum(duplicates) AS duplicates, "
            "sum(dropped) AS dropped, sum(missing) AS missing "
            "FROM report_numbers WHERE ?1 IS NULL OR device = ?1",
            device,
        )
        kinds = self._database.rows(
            "SELECT kind, sum(accepted) AS accepted FROM report_kinds "
            "WHERE ?1 IS NULL OR device = ?1 GROUP BY kind ORDER BY kind",
            device,
        )
        return ReportTotals(
            accepted=(row and row["accepted"]) or 0,
            duplicates_ignored=(row and row["duplicates"]) or 0,
            skipped=(row and row["dropped"]) or 0,
            missing=(row and row["missing"]) or 0,
            by_kind={kind["kind"]: kind["accepted"] for kind in kinds},
        )

    def _numbers(self, device: str, boot: Boot) -> tuple[Numbers, Numbers]:
        row = self._database.row(
            "SELECT received, skipped FROM report_numbers WHERE device = ? AND boot = ?",
            device,
            str(boot),
        )
        if row is None:
            return Numbers(), Numbers()
        return Numbers.read(row["received"]), Numbers.read(row["skipped"])

    def _count(
        self,
        device: str,
        boot: Boot,
        received: Numbers,
        skipped: Numbers,
        at_ms: int,
        *,
        again: bool = False,
    ) -> None:
        known = received.union(skipped)
        self._database.write(
            "INSERT INTO report_numbers (device, boot, counter, received, skipped, up_to, "
            "accepted, duplicates, dropped, missing, at_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET received = excluded.received, skipped = excluded.skipped, "
            "up_to = excluded.up_to, accepted = excluded.accepted, dropped = excluded.dropped, "
            "missing = excluded.missing, at_ms = excluded.at_ms, "
            "duplicates = duplicates + excluded.duplicates",
            device,
            str(boot),
            boot.counter,
            received.write(),
            skipped.write(),
            known.up_to,
            received.count,
            again,
            known.count - received.count,
            known.highest - known.count,
            at_ms,
        )

    def _keep(self, device: str, event: Event, kind: str, at_ms: int) -> bool:
        if event.type != kind:
            raise RefusedError(f"a device event of type {event.type!r} is no {kind}")
        with self._database.joined():
            new = self._database.write(
                "INSERT INTO device_events (device, id, type, release, at_ms, body) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                device,
                event.id,
                kind,
                event.release,
                at_ms,
                encode(event).decode(),
            )
            if new:
                self._events.record(f"device.{kind}", device, {"event": event}, at_ms=at_ms)
            return bool(new)

    def _kept(
        self, kind: str, device: str | None, release: str | None, limit: int
    ) -> list[DeviceEvent]:
        rows = self._database.rows(
            "SELECT device, at_ms, body FROM device_events WHERE type = ?1 "
            "AND (?2 IS NULL OR device = ?2) AND (?3 IS NULL OR release = ?3) "
            "ORDER BY rowid DESC LIMIT ?4",
            kind,
            device,
            release,
            limit,
        )
        return [_device_event(row) for row in reversed(rows)]


def _require_range(first: int, last: int) -> None:
    if not 1 <= first <= last < STATE_SEQUENCES:
        raise RefusedError(f"{first} to {last} are no numbers of an outbox")


def _device_event(row: sqlite3.Row) -> DeviceEvent:
    return DeviceEvent(
        device=row["device"], at_ms=row["at_ms"], event=decode(Event, row["body"].encode())
    )
