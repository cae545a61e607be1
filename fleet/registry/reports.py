"""What devices reported: each report counted once, its content kept by kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.contract.envelope import Boot
from agent.contract.messages import Event, Window


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
    """Reports of the durable outboxes."""

    def accept(self, device: str, boot: Boot, seq: int, kind: str, *, at_ms: int) -> bool:
        """Count one report; False for one that was counted before.

        Raises:
            RefusedError: ``seq`` is no outbox number, or the boot has too many holes.

        """
        raise NotImplementedError

    def skip(self, device: str, boot: Boot, first: int, last: int, *, at_ms: int) -> int:
        """Mark numbers as dropped by the device; returns how many did not arrive.

        Raises:
            RefusedError: No range of outbox numbers, or the boot has too many holes.

        """
        raise NotImplementedError

    def recorded_up_to(self, device: str, boot: Boot) -> int:
        """Return the highest n with all of 1 to n recorded or skipped; 0 for none."""
        raise NotImplementedError

    def boots(self, device: str) -> list[tuple[Boot, int]]:
        """Return every boot that reported, with its ``recorded_up_to``, oldest first."""
        raise NotImplementedError

    def windows_add(self, device: str, boot: Boot, windows: Sequence[Window], *, at_ms: int) -> int:
        """Keep windows, unique on (device, boot, slot, number); returns how many were new."""
        raise NotImplementedError

    def windows(
        self,
        device: str | None = None,
        slot: str | None = None,
        since_ms: int = 0,
        limit: int = 1000,
    ) -> list[DeviceWindow]:
        """Return the newest windows that closed at or after a moment, oldest first."""
        raise NotImplementedError

    def update_add(self, device: str, event: Event, *, at_ms: int) -> bool:
        """Keep the end of one update, unique on (device, id); False if it is known."""
        raise NotImplementedError

    def evaluation_add(self, device: str, event: Event, *, at_ms: int) -> bool:
        """Keep an evaluation, unique on (device, id); False if it is known."""
        raise NotImplementedError

    def alarm_add(self, device: str, event: Event, *, at_ms: int) -> bool:
        """Keep an alarm, unique on (device, id); False if it is known."""
        raise NotImplementedError

    def updates(
        self, device: str | None = None, release: str | None = None, limit: int = 1000
    ) -> list[DeviceEvent]:
        """Return the newest update events, oldest first."""
        raise NotImplementedError

    def evaluations(
        self, release: str | None = None, device: str | None = None, limit: int = 1000
    ) -> list[DeviceEvent]:
        """Return the newest evaluations, oldest first."""
        raise NotImplementedError

    def alarms(self, device: str | None = None, limit: int = 1000) -> list[DeviceEvent]:
        """Return the newest alarms, oldest first."""
        raise NotImplementedError

    def totals(self, device: str | None = None) -> ReportTotals:
        """Return the counts of one device, or of all."""
        raise NotImplementedError
