"""Prediction drift of every release that answers: its newest classes against its first ones.

Rule 1: what a release answered first is remembered across restarts: ``drift.json`` is written
        when that is complete, and when the agent ends in order. A power cut before costs the
        answers since.
Rule 2: of each slot two releases are remembered, because one may be gone back to.
Rule 3: the figure says nothing of the inputs; see ``contract.drift``.
"""

from collections import deque
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec import field as member

from agent.contract.codec import Versioned, encode
from agent.contract.drift import prediction_drift
from agent.contract.manifest import Digest
from agent.contract.messages import Count
from agent.contract.telemetry import Window
from agent.daemon.host import event, log
from agent.disk import Disk, read_versioned
from agent.errors import AgentError, NewerStateError, StoreError

DRIFT = "drift.json"


class FirstAnswers(Struct, frozen=True, kw_only=True):
    """How often a release answered each class at first."""

    slot: str
    classes: tuple[Count, ...]


class DriftFile(Versioned, frozen=True, kw_only=True):
    """``drift.json``: the first answers of what runs, by manifest digest."""

    first: dict[Digest, FirstAnswers] = member(default_factory=dict)


@dataclass(slots=True)
class _Release:
    slot: str
    first: tuple[int, ...]
    newest: deque[tuple[int, ...]] = field(default_factory=deque)


class Drifting:
    """Keeps the histograms and gives every window its figure.

    Args:
        disk: Where they are remembered.
        first: So many first answers are held against.
        newest: So many newest answers, at least, are held against them.

    """

    def __init__(self, disk: Disk, *, first: int, newest: int) -> None:
        self._disk = disk
        self._first = first
        self._newest = newest
        self._releases: dict[str, _Release] = {}
        self._told = DriftFile()
        try:
            self._told = read_versioned(disk, DRIFT, DriftFile) or DriftFile()
        except NewerStateError:
            raise
        except AgentError as why:  # they are answered anew, which costs a while without a figure
            log.warning(event("drift-forgotten", code=why.code, why=why))
        for digest, held in self._told.first.items():
            self._releases[digest] = _Release(held.slot, held.classes)

    def add(self, window: Window) -> float | None:
        """Count the answers of a window and return the drift, once there are enough."""
        if not window.classes:
            return None
        release = self._releases.pop(window.release, None)
        if release is None or len(release.first) != len(window.classes):
            release = self._begin(window)
        self._releases[window.release] = release  # the last one used is the last
        if sum(release.first) < self._first:
            release.first = _added(release.first, window.classes)
            if sum(release.first) >= self._first:
                self.save()
            return None
        release.newest.append(window.classes)
        total = sum(map(sum, release.newest))
        while total - sum(release.newest[0]) >= self._newest:
            total -= sum(release.newest.popleft())
        if total < self._newest:
            return None
        lately = tuple(0 for _ in release.first)
        for classes in release.newest:
            lately = _added(lately, classes)
        return prediction_drift(release.first, lately)

    def save(self) -> None:
        """Remember the first answers; a disk that does not take them costs only those."""
        wanted = DriftFile(
            first={
                digest: FirstAnswers(slot=held.slot, classes=held.first)
                for digest, held in sorted(self._releases.items())
            }
        )
        if wanted == self._told:
            return
        try:
            self._disk.replace(DRIFT, encode(wanted))
        except StoreError as why:
            log.warning(event("drift-not-saved", code=why.code, why=why))
            return
        self._told = wanted

    def _begin(self, window: Window) -> _Release:
        """Begin with another release in a slot; all but the one before it are forgotten."""
        same = [digest for digest, held in self._releases.items() if held.slot == window.slot]
        for digest in same[:-1]:
            del self._releases[digest]
        return _Release(window.slot, tuple(0 for _ in window.classes))


def _added(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip(a, b, strict=True))
