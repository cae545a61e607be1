"""How it is going: counts that gates judge and people read.

Rule 1: nothing is a percentage of the whole group; what has not answered is counted
        apart, as pending, silent or absent.
Rule 2: *silent* heard from us, was seen since, and never answered; that speaks against
        a release. *Absent* was never seen since; that says nothing about it. Who *left*
        the fleet is not counted at all.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Standing(StrEnum):
    """Where one device stands with one release."""

    WAITING = "waiting"
    ASKED = "asked"
    SILENT = "silent"
    ABSENT = "absent"
    LEFT = "left"
    SUCCEEDED = "succeeded"
    FAILED_NO_CHANGE = "failed_no_change"
    FAILED_ROLLED_BACK = "failed_rolled_back"
    FAILED_NOT_ROLLED_BACK = "failed_not_rolled_back"
    REJECTED = "rejected"

    @property
    def failed(self) -> bool:
        """Whether the device itself said that the release did not hold up."""
        return self in FAILURES


FAILURES: Final = frozenset(
    {
        Standing.FAILED_NO_CHANGE,
        Standing.FAILED_ROLLED_BACK,
        Standing.FAILED_NOT_ROLLED_BACK,
        Standing.REJECTED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Devices of one wave, or of all waves so far, by standing.

    Attributes:
        asked: All of them but those who left the fleet before they answered.
        pending: Waiting or asked, no answer yet.
        failed: Devices that said so, by outcome.

    """

    asked: int = 0
    pending: int = 0
    succeeded: int = 0
    silent: int = 0
    absent: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        """What speaks against the release: said so, or fell silent."""
        return sum(self.failed.values()) + self.silent

    @property
    def completed(self) -> int:
        """The sample of a gate: successes and failures."""
        return self.succeeded + self.failures

    @property
    def reasons(self) -> str:
        """The failures in words: ``2 failed_rolled_back, 1 silent``."""
        parts = dict(self.failed) | ({"silent": self.silent} if self.silent else {})
        return ", ".join(f"{count} {word}" for word, count in sorted(parts.items()))


def tally(standings: Iterable[Standing] | Mapping[Standing, int]) -> Tally:
    """Count devices by standing; a mapping has counted them already."""
    counts = Counter(standings)
    return Tally(
        asked=counts.total() - counts[Standing.LEFT],
        pending=counts[Standing.WAITING] + counts[Standing.ASKED],
        succeeded=counts[Standing.SUCCEEDED],
        silent=counts[Standing.SILENT],
        absent=counts[Standing.ABSENT],
        failed={str(word): n for word, n in counts.items() if n and word.failed},
    )
