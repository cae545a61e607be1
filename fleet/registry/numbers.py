"""Which numbers arrived, as few ranges.

Rule 1: ranges are closed, sorted, disjoint and never adjacent: equal sets are equal.
Rule 2: a set with more than ``MAX_RANGES`` ranges is refused; a device whose outbox is
        in order never comes near it.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from fleet.errors import RefusedError

MAX_RANGES: Final = 4096


@dataclass(frozen=True, slots=True)
class Numbers:
    """A set of natural numbers.

    >>> Numbers().add(1, 3).add(7, 7).add(4, 5)
    Numbers(ranges=((1, 5), (7, 7)))
    """

    ranges: tuple[tuple[int, int], ...] = ()

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.ranges, number, key=lambda pair: pair[0]) - 1
        return at >= 0 and number <= self.ranges[at][1]

    @property
    def count(self) -> int:
        """How many numbers."""
        return sum(last - first + 1 for first, last in self.ranges)

    @property
    def up_to(self) -> int:
        """The highest n with all of 1 to n; 0 for none."""
        return self.ranges[0][1] if self.ranges and self.ranges[0][0] == 1 else 0

    @property
    def highest(self) -> int:
        """The highest number; 0 for none."""
        return self.ranges[-1][1] if self.ranges else 0

    def add(self, first: int, last: int) -> "Numbers":
        """Return this set with ``first`` to ``last``.

        Raises:
            RefusedError: It would have too many ranges.

        """
        before = [pair for pair in self.ranges if pair[1] < first - 1]
        after = [pair for pair in self.ranges if pair[0] > last + 1]
        touched = self.ranges[len(before) : len(self.ranges) - len(after)]
        made = (
            min([first, *(pair[0] for pair in touched)]),
            max([last, *(pair[1] for pair in touched)]),
        )
        return Numbers(tuple(_bounded([*before, made, *after])))

    def union(self, other: "Numbers") -> "Numbers":
        """Return the numbers of either set.

        Raises:
            RefusedError: It would have too many ranges.

        """
        made: list[tuple[int, int]] = []
        for first, last in sorted(self.ranges + other.ranges):
            if made and first <= made[-1][1] + 1:
                made[-1] = (made[-1][0], max(made[-1][1], last))
            else:
                made.append((first, last))
        return Numbers(tuple(_bounded(made)))

    def write(self) -> str:
        """Return the JSON text."""
        return msgspec.json.encode(self.ranges).decode()

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the JSON text back; the inverse of ``write``."""
        return cls(msgspec.json.decode(text, type=tuple[tuple[int, int], ...]))


def _bounded(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(ranges) > MAX_RANGES:
        raise RefusedError(f"more than {MAX_RANGES} holes in the numbers of one boot")
    return ranges
