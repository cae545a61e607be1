"""What two releases said about the same live windows, added up while they run.

Rule 1: a window counts as compared only when both answered it; a refusal or a failure
        counts on its own side.
Rule 2: the inference thread adds, any other thread reads a frozen snapshot.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from agent.contract.histogram import LogHistogram
from agent.contract.telemetry import Histogram

Seen = tuple[float, float, int]
"""One answer: latency in µs, confidence, and the place of the class (-1 without)."""


_EMPTY = Histogram()


class Missed(Enum):
    """Why a window has no answer."""

    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One release's share of a comparison.

    Attributes:
        release: Manifest digest.
        answered: Windows that it answered.
        refused: Windows that its input check refused.
        failed: Windows on which it failed, or answered with a NaN.
        confidence: Mean confidence over its answers; None without classes or answers.
        latency_p50_us, latency_p95_us: Of its answers; None before the first.
        latency_us: The whole log-histogram.

    """

    release: str
    answered: int = 0
    refused: int = 0
    failed: int = 0
    confidence: float | None = None
    latency_p50_us: float | None = None
    latency_p95_us: float | None = None
    latency_us: Histogram = _EMPTY


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A snapshot.

    Attributes:
        serving: The release that answers.
        beside: The one beside it, if any.
        windows: Windows that both answered, or ``serving`` where nothing is beside it.
        agreed: Of these, windows in which both named the same class.
        classified: Of these, windows in which both named a class at all.
        why_not: Why the two cannot be compared; "" when they can.

    """

    serving: Side
    beside: Side | None = None
    windows: int = 0
    agreed: int = 0
    classified: int = 0
    why_not: str = ""

    @property
    def agreement(self) -> float | None:
        """Share of the classified windows with the same class; None where there are none."""
        return self.agreed / self.classified if self.classified else None


class Comparing:
    """The running sums behind ``Comparison``."""

    def __init__(self, serving: str, beside: str | None, why_not: str = "") -> None:
        self.why_not = why_not
        self._lock = threading.Lock()
        self._serving = _Sums(serving)
        self._beside = None if beside is None else _Sums(beside)
        self._windows = 0
        self._agreed = 0
        self._classified = 0

    def add(self, served: Seen | Missed, beside: Seen | Missed | None) -> None:
        """Count one window; ``beside`` is None where nothing ran beside."""
        with self._lock:
            self._serving.add(served)
            if self._beside is not None and beside is not None:
                self._beside.add(beside)
            if isinstance(served, Missed) or isinstance(beside, Missed):
                return
            self._windows += 1
            if beside is not None and served[2] >= 0 and beside[2] >= 0:
                self._classified += 1
                self._agreed += served[2] == beside[2]

    def add_rows(
        self, served: Sequence[Seen | Missed], beside: Sequence[Seen | Missed] | None
    ) -> None:
        """Count each row of a batch as a window; a side that missed it has one entry only."""
        for row in range(max(len(served), len(beside or ()))):
            other = beside[min(row, len(beside) - 1)] if beside else None
            self.add(served[min(row, len(served) - 1)] if served else Missed.FAILED, other)

    def snapshot(self) -> Comparison:
        """Return the figures so far."""
        with self._lock:
            return Comparison(
                serving=self._serving.side(),
                beside=self._beside.side() if self._beside else None,
                windows=self._windows,
                agreed=self._agreed,
                classified=self._classified,
                why_not=self.why_not,
            )


class _Sums:
    """One side's running sums; latencies are folded in when they are looked at."""

    def __init__(self, release: str) -> None:
        self.release = release
        self._latency = LogHistogram()
        self._fresh: list[float] = []
        self._answered = 0
        self._confidence = 0.0
        self._classified = 0
        self._missed = {Missed.REFUSED: 0, Missed.FAILED: 0}

    def add(self, outcome: Seen | Missed) -> None:
        if isinstance(outcome, Missed):
            self._missed[outcome] += 1
            return
        latency_us, confidence, place = outcome
        self._answered += 1
        self._fresh.append(latency_us)
        if place >= 0:
            self._classified += 1
            self._confidence += confidence
        if len(self._fresh) >= 256:  # noqa: PLR2004 -- a block that is cheap to fold
            self._fold()

    def side(self) -> Side:
        self._fold()
        return Side(
            release=self.release,
            answered=self._answered,
            refused=self._missed[Missed.REFUSED],
            failed=self._missed[Missed.FAILED],
            confidence=self._confidence / self._classified if self._classified else None,
            latency_p50_us=self._latency.quantile(0.5),
            latency_p95_us=self._latency.quantile(0.95),
            latency_us=self._latency.written(),
        )

    def _fold(self) -> None:
        self._latency.add_many(self._fresh)
        self._fresh.clear()
