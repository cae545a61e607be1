"""What one release did between two moments: counts, histograms and sketches, never inputs.

Rule 1: the inference thread records, the daemon closes; neither waits for the other
        longer than the folding of one block.
Rule 2: figures are folded in blocks, so that an inference pays for two appends only.
Rule 3: window numbers count up within a boot and slot; a window without any event is
        closed like another, because silence is news.
Rule 4: latency, confidence and classes are counted for every answer; of the values of an
        output, those of ``SKETCHED`` answers in a block.
"""

import threading
from array import array
from collections.abc import Sequence
from itertools import count
from time import monotonic, perf_counter_ns
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.contract.histogram import LogHistogram
from agent.contract.limits import MAX_OUTPUTS_TOLD
from agent.contract.sketch import WIDTH, places, written
from agent.contract.telemetry import Feature, Window
from agent.observe.inputs import LOOK_SECONDS, NUMBERS, Given, Held, Looking

BLOCK: Final = 4096
"""Answers that are read together: what numpy costs between two runs of a model is mostly the
waking up, and some 0.3 ms whether there are few of them or many."""
BLOCK_BYTES: Final = 128 * 1024
SKETCHED: Final = 128
NARROW_BYTES: Final = 256
"""Of an answer that is kept until its block is folded."""
_FULL = 3 * 1024
_UNKNOWN: Final = -1
_ABOVE_ONE: Final = 1.001
"""What rounding may make of a probability of 1."""


class WindowRecorder:
    """Records one release in one slot; a new release gets a new recorder.

    Args:
        slot: The slot.
        release: Manifest digest.
        classes: Number of classes; 0 for a model without.
        now_ms: When the first window opens, ms since 1970.
        numbers: Shared by the recorders of one slot, so that numbers never repeat.
        outputs: What the first values of the output are called.
        looking: What looks at inputs, where somebody is to.
        sketch_seconds: Sketches are told so often; in between they add up.

    """

    def __init__(
        self,
        slot: str,
        release: str,
        classes: int,
        *,
        now_ms: int,
        numbers: "count[int] | None" = None,
        outputs: Sequence[str] = (),
        looking: Looking | None = None,
        sketch_seconds: float = 0.0,
    ) -> None:
        self.slot = slot
        self.release = release
        self._numbers = count() if numbers is None else numbers
        self._classes = classes
        self._outputs = tuple(outputs)[:MAX_OUTPUTS_TOLD]
        self._looking = looking or Looking((), share=0.0)
        self._opened_ms = now_ms
        self._sketch_seconds = sketch_seconds
        self._values = np.zeros((len(self._outputs), WIDTH), np.int64)
        self._told = self._turned = monotonic()
        self._at_turn = 0
        self._decided = array("d")
        self._latencies = array("q")
        self._rows = bytearray()
        self._row_bytes = _UNKNOWN
        self._dtype = np.dtype(np.float32)
        self._block = BLOCK
        self._until = 1
        self._lock = threading.Lock()
        self._start()

    def note(self, latency_ns: int, row: NDArray[Any], given: Given) -> None:
        """Count one answer; what it says is read from ``row`` by blocks.

        Args:
            latency_ns: Of the inference.
            row: The output with the probabilities, or of a model without the one to watch.
            given: The input, looked at only before this returns.

        """
        told = row.tobytes()
        if len(told) != self._row_bytes:
            self._note_other(latency_ns, row, given)
            return
        latencies = self._latencies
        latencies.append(latency_ns)
        self._rows.extend(told)
        if len(latencies) >= self._until:
            self._turn(given)

    def record(self, latency_us: float, confidence: float, place: int) -> None:
        """Count one answer that was read; ``place`` is below 0 for a model without classes."""
        decided = self._decided
        decided.extend((latency_us, confidence, place))
        if len(decided) >= _FULL:
            with self._lock:
                self._fold()

    def look(self, given: Given) -> None:
        """Look at an input that was not given to ``note``, where one is due."""
        with self._lock:
            self._look(given, monotonic())

    def refuse(self, given: Given | None = None) -> None:
        """Count one window that the input check refused."""
        with self._lock:
            self._refused += 1
            if given is not None:
                self._looking.refuse(given)

    def fail(self) -> None:
        """Count one window on which the model failed."""
        with self._lock:
            self._failed += 1

    def skip(self) -> None:
        """Count one window that was left out to keep the device cool."""
        with self._lock:
            self._skipped += 1

    def take(self, samples: int) -> None:
        """Count samples that came from the source."""
        with self._lock:
            self._samples += samples

    def gap(self) -> None:
        """Count a break in the stream."""
        with self._lock:
            self._gaps += 1

    def held(self) -> tuple[Held, ...]:
        """Return how long each channel of the input has held one value."""
        with self._lock:
            return self._looking.held(monotonic())

    def close(self, now_ms: int, *, last: bool = False) -> Window:
        """Return what was recorded since the last close, and open the next window.

        The ``last`` one tells the sketches even where it is not time yet.
        """
        with self._lock:
            self._fold()
            now = monotonic()
            whole = last or now - self._told >= self._sketch_seconds
            looked, channels = self._looking.close(whole=whole)
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
                samples=self._samples,
                gaps=self._gaps,
                skipped=self._skipped,
                looked=looked,
                inputs=channels,
                outputs=self._features() if whole else (),
            )
            if whole:
                self._told = now
                self._values[:] = 0
            self._opened_ms = now_ms
            self._start()
            self._at_turn, self._until = 0, 1
        return window

    def _start(self) -> None:
        self._latency = LogHistogram()
        self._confidence = LogHistogram()
        self._answers = np.zeros(self._classes, np.int64)
        self._inferences = 0
        self._refused = 0
        self._failed = 0
        self._skipped = 0
        self._samples = 0
        self._gaps = 0

    def _note_other(self, latency_ns: int, row: NDArray[Any], given: Given) -> None:
        """Count the first answer, or one that is not as long as those that are kept."""
        if not self._classes and row.nbytes > NARROW_BYTES:
            row = row.reshape(-1)[:MAX_OUTPUTS_TOLD]
        expected = row.size == self._classes or not self._classes
        if self._row_bytes == _UNKNOWN and expected and 0 < row.nbytes <= NARROW_BYTES:
            self._dtype, self._row_bytes = row.dtype, row.nbytes
            self._block = min(BLOCK, BLOCK_BYTES // row.nbytes)
        if row.nbytes == self._row_bytes:
            self.note(latency_ns, row, given)
        elif self._classes and expected:
            self._note_wide(latency_ns, row, given)
        else:
            self.record(latency_ns / 1000, 0.0, -1)

    def _note_wide(self, latency_ns: int, row: NDArray[Any], given: Given) -> None:
        """Count at once an answer of so many classes that a block would take much memory."""
        best = int(row.argmax())
        confidence = row.item(best)
        if not 0 <= confidence <= _ABOVE_ONE:
            self.fail()
            return
        self.record(latency_ns / 1000, confidence, best)
        with self._lock:
            self._looking.earn(latency_ns)
            if self._look(given, monotonic()):
                self._sketch(row.reshape(1, -1)[:, : len(self._outputs)])

    def _turn(self, given: Given) -> None:
        """Fold what is full, look at what is due, and say when to turn next."""
        with self._lock:
            now, held = monotonic(), len(self._latencies)
            per_second = (held - self._at_turn) / max(now - self._turned, 1e-6)
            if held >= self._block:
                self._fold()
            self._look(given, now)
            left = len(self._latencies)
            self._turned, self._at_turn = now, left
            self._until = left + max(1, min(int(per_second * LOOK_SECONDS), self._block - left))

    def _look(self, given: Given, now: float) -> bool:
        looking = self._looking
        if not looking.is_due(now):
            return False
        started = perf_counter_ns()
        looking.look(given, now)
        looking.paid(perf_counter_ns() - started)
        return True

    def _fold(self) -> None:
        # the other thread may append meanwhile: what is counted here is what is removed here
        block = self._decided[:]
        del self._decided[: len(block)]
        if block:
            latencies, confidences, places_ = np.frombuffer(block).reshape(-1, 3).T
            self._count(latencies, confidences, places_.astype(np.int64))
        number = min(len(self._latencies), len(self._rows) // self._row_bytes)
        if number:
            size = number * self._row_bytes
            fresh, rows = self._latencies[:number], bytes(self._rows[:size])
            del self._latencies[:number], self._rows[:size]
            self._fold_rows(np.frombuffer(fresh, np.int64), rows)

    def _fold_rows(self, fresh: NDArray[np.int64], rows: bytes) -> None:
        self._looking.earn(float(fresh.sum()))
        latencies = fresh / 1000
        if self._dtype.kind in NUMBERS:
            self._read(latencies, np.frombuffer(rows, self._dtype).reshape(len(fresh), -1))
        else:
            self._inferences += len(fresh)
            self._latency.add_many(latencies)

    def _read(self, latencies: NDArray[np.float64], answers: NDArray[Any]) -> None:
        if self._classes:
            best = answers.argmax(axis=1)  # numpy lets a NaN win
            confidences = answers[np.arange(len(best)), best].astype(np.float64)
            good = (confidences >= 0) & (confidences <= _ABOVE_ONE)
        else:
            best = np.full(len(answers), -1)
            confidences = np.zeros(len(answers))
            good = np.isfinite(answers).all(axis=1)
        if not good.all():
            self._failed += len(good) - int(good.sum())
            latencies, confidences = latencies[good], confidences[good]
            best, answers = best[good], answers[good]
        self._count(latencies, confidences, best)
        step = -(-len(answers) // SKETCHED) or 1
        self._sketch(answers[::step, : len(self._outputs)])

    def _sketch(self, values: NDArray[Any]) -> None:
        told = values.shape[1]
        if told and len(values):
            starts = np.arange(told) * WIDTH
            spots = places(values.astype(np.float64)) + starts
            np.add.at(self._values.reshape(-1), spots.reshape(-1), 1)

    def _count(
        self,
        latencies: NDArray[np.float64],
        confidences: NDArray[np.float64],
        best: NDArray[np.int64],
    ) -> None:
        self._inferences += len(best)
        self._latency.add_many(latencies)
        if self._classes:
            known = (best >= 0) & (best < self._classes)
            self._confidence.add_many(confidences[known])
            self._answers += np.bincount(best[known], minlength=self._classes)

    def _features(self) -> tuple[Feature, ...]:
        return tuple(
            Feature(name=name[:80], values=written(self._values[n]))
            for n, name in enumerate(self._outputs)
            if self._values[n].any()
        )
