"""How often releases were right in the field, where people said so.

Rule 1: a window counts once, however often it is reported; that is decided by who adds.
Rule 2: only releases that this fleet published are counted, so that no device can fill the
        table; what one device says is bounded like every count of the contract.
Rule 3: sums stay when their windows are forgotten.
"""

from collections.abc import Iterable
from typing import Final

from agent.contract.messages import Quality
from agent.contract.telemetry import Window
from fleet.registry.database import Database

MAX_COUNT: Final = 10**9
"""Of one device and release: sums over a fleet stay within what SQLite adds."""


class Labels:
    """Labelled answers and right ones, by device and release."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, device: str, windows: Iterable[Window], *, at_ms: int) -> None:
        """Count the labels of windows that were not counted before."""
        for window in windows:
            self._database.write(
                "INSERT INTO field_labels (device, release, labelled, right_answers, at_ms) "
                "SELECT ?1, digest, ?3, ?4, ?5 FROM models WHERE digest = ?2 "
                "ON CONFLICT DO UPDATE SET labelled = min(labelled + excluded.labelled, ?6), "
                "right_answers = min(right_answers + excluded.right_answers, ?6), "
                "at_ms = excluded.at_ms",
                device,
                window.release,
                min(window.labelled, MAX_COUNT),
                min(window.right, window.labelled, MAX_COUNT),
                at_ms,
                MAX_COUNT,
            )

    def of_device(self, device: str) -> dict[str, Quality]:
        """Return how right each release was on one device, by digest, oldest release first."""
        rows = self._database.rows(
            "SELECT release, labelled, right_answers FROM field_labels "
            "JOIN models ON models.digest = release WHERE device = ? ORDER BY slot, counter",
            device,
        )
        return {
            r["release"]: Quality(right=r["right_answers"], windows=r["labelled"]) for r in rows
        }

    def of_release(self, release: str) -> dict[str, Quality]:
        """Return how right one release was, by device."""
        rows = self._database.rows(
            "SELECT device, labelled, right_answers FROM field_labels "
            "WHERE release = ? ORDER BY device",
            release,
        )
        return {r["device"]: Quality(right=r["right_answers"], windows=r["labelled"]) for r in rows}
