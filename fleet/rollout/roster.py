"""The devices of a rollout, counted as they change.

Rule 1: a roster is a value: a change gives another one, and none of the old is touched.
Rule 2: counts by wave are kept beside the members, so that one outcome among ten thousand
        devices is counted without counting the others again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, ValuesView
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from agent.contract.manifest import Name
from agent.contract.messages import Assigned
from fleet.monitor.health import Standing


class Member(Struct, frozen=True, kw_only=True):
    """One device of the plan.

    Attributes:
        previous: What it was wanted to run before it was asked.
        asked_ms: When that was; None before.
        seen_ms: When it was first known to have been heard after that; None before.
        why: The device's last sentence.
        returned: Whether it is wanted back to ``previous``.

    """

    device: Name
    wave: int
    standing: Standing = Standing.WAITING
    previous: Assigned | None = None
    asked_ms: int | None = None
    seen_ms: int | None = None
    why: str = ""
    returned: bool = False

    @property
    def latest_ms(self) -> int:
        """The latest moment that is known of it."""
        return max(self.asked_ms or 0, self.seen_ms or 0)

    def put_back(self, at_ms: int) -> "Member":
        """Return the member with no moment after ``at_ms``."""
        if self.latest_ms <= at_ms:
            return self
        return replace(
            self,
            asked_ms=None if self.asked_ms is None else min(self.asked_ms, at_ms),
            seen_ms=None if self.seen_ms is None else min(self.seen_ms, at_ms),
        )


class Roster(Mapping[str, Member]):
    """Members by device, in the order of the plan."""

    __slots__ = ("_by_device", "_by_wave", "latest_ms")

    def __init__(
        self, by_device: dict[str, Member], by_wave: dict[int, Counter[Standing]], latest_ms: int
    ) -> None:
        self._by_device, self._by_wave, self.latest_ms = by_device, by_wave, latest_ms

    @classmethod
    def of(cls, members: Iterable[Member]) -> Self:
        """Return a roster of these."""
        by_device = {member.device: member for member in members}
        by_wave: dict[int, Counter[Standing]] = {}
        for member in by_device.values():
            by_wave.setdefault(member.wave, Counter())[member.standing] += 1
        latest_ms = max((m.latest_ms for m in by_device.values()), default=0)
        return cls(by_device, by_wave, latest_ms)

    def with_changes(self, members: Iterable[Member]) -> "Roster":
        """Return the roster after these members changed; itself if none did."""
        changed = [m for m in members if self._by_device[m.device] != m]
        if not changed:
            return self
        by_wave, latest_ms = dict(self._by_wave), self.latest_ms
        for wave in {member.wave for member in changed}:
            by_wave[wave] = Counter(by_wave[wave])
        for member in changed:
            by_wave[member.wave][self._by_device[member.device].standing] -= 1
            by_wave[member.wave][member.standing] += 1
            latest_ms = max(latest_ms, member.latest_ms)
        by_device = self._by_device | {member.device: member for member in changed}
        return Roster(by_device, by_wave, latest_ms)

    def put_back(self, at_ms: int) -> "Roster":
        """Return the roster with no moment after ``at_ms``."""
        if self.latest_ms <= at_ms:
            return self
        return Roster.of(member.put_back(at_ms) for member in self._by_device.values())

    def standings(self, *, first: int = 0, last: int | None = None) -> Counter[Standing]:
        """Count standings of the waves from ``first`` to ``last``; None is the last of all."""
        counted: Counter[Standing] = Counter()
        for wave, found in self._by_wave.items():
            if first <= wave and (last is None or wave <= last):
                counted.update(found)
        return counted

    def values(self) -> ValuesView[Member]:
        """Return the members."""
        return self._by_device.values()

    def __getitem__(self, device: str) -> Member:
        return self._by_device[device]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_device)

    def __len__(self) -> int:
        return len(self._by_device)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Roster) and self._by_device == other._by_device

    def __hash__(self) -> int:
        return hash(len(self._by_device))
