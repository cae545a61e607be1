"""What one release did between two moments: counts and histograms, never inputs.

Rule 1: the inference thread records, the daemon closes; neither waits for the other
        longer than the folding of one block.
Rule 2: figures are folded in blocks, so that an inference pays for an append only.
Rule 3: window numbers count up within a boot and slot; a window without any event is
        closed like another, because silence is news.
"""

import threading
from array import array
from itertools import count
from typing import Final

import numpy as np

from agent.contract.histogram import LogHistogram
from agent.contract.telemetry import Window

BLOCK: Final = 256
_FULL = 3 * BLOCK


class WindowRecorder:
    """Records one release in one slot; a new release gets a new recorder.

    Args:
        slot: The slot.
        release: Manifest digest.
        classes: Number of classes; 0 for a model without.
        now_ms: When the first window opens, ms since 1970.
        numbers: Shared by the recorders of one slot, so that numbers never repeat.

    """

    def __init__(
        self,
        slot: str,
        release: str,
        classes: int,
        *,
        now_ms: int,
        numbers: "count[int] | None" = None,
    ) -> None:
        self.slot = slot
        self.release = release
        self._numbers = count() if numbers is None else numbers
        self._classes = classes
        self._opened_ms = now_ms
        self._fresh = array("d")
        self._lock = threading.Lock()
        self._start()

    def record(self, latency_us: float, confidence: float, place: int) -> None:
        """Count one answer; ``place`` is below 0 for a model without classes."""
        fresh = self._fresh
        fresh.extend((latency_us, confidence, place))
        if len(fresh) >= _FULL:
            with self._lock:
                self._fold()

    def refuse(self) -> None:
        """Count one window that the input check refused."""
        with self._lock:
            self._refused += 1

    def fail(self) -> None:
        """Count one window on which the model failed."""
        with self._lock:
            self._failed += 1

    def close(self, now_ms: int) -> Window:
        """Return what was recorded since the last close, and open the next window."""
        with self._lock:
            self._fold()
            window = Window(
                slot=self.slot,
                release=self.release,
                number=next(self._numbers),
                opened_ms=self._opened_ms,
                closed_ms=now_ms,
                inferences=self._inferences,
                refused=self._refused,
                failed=self._failed,
                latency_us=self._latency.written(),
                confidence=self._confidence.written(),
                classes=tuple(self._answers.tolist()),
            )
            self._opened_ms = now_ms
            self._start()
        return window

    def _start(self) -> None:
        self._latency = LogHistogram()
        self._confidence = LogHistogram()
        self._answers = np.zeros(self._classes, np.int64)
        self._inferences = 0
        self._refused = 0
        self._failed = 0

    def _fold(self) -> None:
        # the other thread may append meanwhile: what is counted here is what is removed here
        block = self._fresh[:]
        del self._fresh[: len(block)]
        if not block:
            return
        latencies, confidences, places = np.frombuffer(block).reshape(-1, 3).T
        self._inferences += len(places)
        self._latency.add_many(latencies)
        if self._classes:
            self._confidence.add_many(confidences)
            known = places[(places >= 0) & (places < self._classes)].astype(np.int64)
            self._answers += np.bincount(known, minlength=self._classes)
