"""What a slot predicted lately, so that a label can still be attached to it.

Rule 1: it is filled only where ``[feedback]`` says so, and holds a bounded number of
        predictions and of bytes; the oldest go first.
Rule 2: a label belongs to the release that predicted, whatever runs by now.
Rule 3: the first label of an answer stays. The same one again changes nothing; another one
        is refused, because what it taught is not unlearned.
Rule 4: an input is remembered only while it can still be kept as a labelled window.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Release, Windowing
from agent.infer.loaded import Answer
from agent.infer.runtime import Array
from agent.refusals import LabelConflictError, LabelRefusedError, UnknownPredictionError

UNSHAPED = "the release does not say what a window of it is"
OTHER_SHAPE = "its input is not shaped like a window of the release"
TOO_LARGE = "its input was too large to be remembered"
_ENTRY_BYTES = 512  # about what a prediction takes beside its input
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A label, and the answer that it was attached to.

    Attributes:
        id: Of the prediction.
        row: Of the batch; 0 where it was none.
        at_ms: When it was predicted, ms since 1970.
        span_ms: How long the samples of its window took; 0 where it has none.
        release: Manifest digest of the release that predicted.
        label, predicted: Class names: what is right, and what was said.
        again: The answer bore this label already.
        window: (channels, samples) float32 as the model got it, to be kept; or None.
        why_not: Why there is no window, in a few words.

    """

    id: str
    row: int
    at_ms: int
    span_ms: int
    release: str
    label: str
    predicted: str
    again: bool
    window: NDArray[np.float32] | None
    why_not: str

    @property
    def right(self) -> bool:
        """Whether the model was right."""
        return self.label == self.predicted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What a release can say, kept for its predictions when it is gone."""

    release: str
    classes: tuple[str, ...]
    windowing: Windowing | None


@dataclass(slots=True, kw_only=True)
class _Remembered:
    at_ms: int
    said: _Said
    places: tuple[int, ...]
    windows: NDArray[np.float32] | None
    why_not: str
    labels: dict[int, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return _ENTRY_BYTES + (0 if self.windows is None else self.windows.nbytes)

    def release_windows(self) -> int:
        """Forget the input once every row is labelled; returns how many bytes that gives back."""
        before = self.size_bytes
        if len(self.labels) == len(self.places):
            self.windows = None
        return before - self.size_bytes


class Recall:
    """The newest predictions of one slot; any thread may ask.

    Args:
        most: How many.
        most_bytes: Of their inputs, and what they take beside.
        with_windows: Whether inputs are remembered at all.
        wall_ms: Wall clock, ms since 1970.

    """

    def __init__(
        self, *, most: int, most_bytes: int, with_windows: bool, wall_ms: Callable[[], int]
    ) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._with_windows = with_windows
        self._wall_ms = wall_ms
        self._said: dict[str, _Said] = {}
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """What is remembered takes about so much memory."""
        return self._size_bytes

    def introduce(self, digest: str, release: Release) -> None:
        """Learn what a release can say, before its first answer."""
        self._said[digest] = _Said(
            release=digest, classes=release.classes, windowing=release.windowing
        )

    def remember(self, answer: Answer) -> None:
        """Remember one answer; called by the thread that inferred."""
        said = self._said[answer.release]
        places = _places(answer.probabilities, len(said.classes))
        windows, why_not = self._windows(answer, said, len(places))
        new = _Remembered(
            at_ms=self._wall_ms(),
            said=said,
            places=places,
            windows=windows,
            why_not=why_not,
        )
        with self._lock:
            self._remembered[answer.id] = new
            self._size_bytes += new.size_bytes
            while len(self._remembered) > self._most or self._size_bytes > self._most_bytes:
                _, oldest = self._remembered.popitem(last=False)
                self._size_bytes -= oldest.size_bytes

    def attach(
        self, prediction: str, *, label: str | None = None, place: int | None = None, row: int = 0
    ) -> Attached:
        """Attach a label, by its name or by the number of its class, to one answer.

        Raises:
            UnknownPredictionError: No such prediction is remembered.
            LabelRefusedError: The release knows no such class, or the answer no such row.
            LabelConflictError: The answer bears another label.

        """
        with self._lock:
            found = self._remembered.get(prediction)
            if found is None:
                raise UnknownPredictionError(
                    f"prediction {prediction[:80]!r} is not remembered in this slot: it is too"
                    " old, or of an earlier run of the agent, or was never made"
                )
            wanted = _place_of(found.said, label, place)
            if not 0 <= row < len(found.places):
                raise LabelRefusedError(
                    f"prediction {prediction} has {len(found.places)} rows; there is no row {row}"
                )
            before = found.labels.get(row)
            if before is not None and before != wanted:
                raise LabelConflictError(
                    f"prediction {prediction} is labelled {found.said.classes[before]!r} already,"
                    " which stays"
                )
            found.labels[row] = wanted
            attached = _attached(prediction, found, row, again=before is not None)
            self._size_bytes -= found.release_windows()
            return attached

    def _windows(
        self, answer: Answer, said: _Said, rows: int
    ) -> tuple[NDArray[np.float32] | None, str]:
        """Return a copy of the input (rows, channels, samples), or why there is none."""
        if not self._with_windows or not rows:
            return None, ""
        if said.windowing is None:
            return None, UNSHAPED
        given = _only(answer.given)
        wanted = (len(said.windowing.channels), said.windowing.samples)
        if given is None or given.dtype != np.float32 or given.shape[-2:] != wanted:
            return None, OTHER_SHAPE
        if given.size != rows * wanted[0] * wanted[1]:
            return None, OTHER_SHAPE
        if given.nbytes + _ENTRY_BYTES > self._most_bytes:
            return None, TOO_LARGE
        return np.array(given, np.float32).reshape(rows, *wanted), ""


def _attached(prediction: str, found: _Remembered, row: int, *, again: bool) -> Attached:
    said = found.said
    fresh = found.windows is not None and not again
    return Attached(
        id=prediction,
        row=row,
        at_ms=found.at_ms,
        span_ms=_span_ms(said.windowing),
        release=said.release,
        label=said.classes[found.labels[row]],
        predicted=said.classes[found.places[row]],
        again=again,
        window=found.windows[row] if found.windows is not None and fresh else None,
        why_not=found.why_not,
    )


def _only(given: Array | Mapping[str, Array]) -> Array | None:
    """Return the one input there is; None where there are several."""
    if not isinstance(given, Mapping):
        return given
    return next(iter(given.values())) if len(given) == 1 else None


def _places(probabilities: NDArray[np.float32], classes: int) -> tuple[int, ...]:
    """Return the class of each row; none where the answer does not have one for each class."""
    if not classes or not probabilities.size or probabilities.size % classes:
        return ()
    if probabilities.size == classes:
        return (int(probabilities.argmax()),)
    return tuple(probabilities.reshape(-1, classes).argmax(axis=1).tolist())


def _place_of(said: _Said, label: str | None, place: int | None) -> int:
    classes = said.classes
    if not classes:
        raise LabelRefusedError(
            f"release {said.release[:16]} has no classes: only the answers of a classifier are"
            " labelled"
        )
    if label is not None:
        if label not in classes:
            shown = ", ".join(classes[:_SHOWN]) + (", …" if len(classes) > _SHOWN else "")
            raise LabelRefusedError(
                f"{label[:80]!r} is no class of release {said.release[:16]}; it has {shown}"
            )
        return classes.index(label)
    if place is None or not 0 <= place < len(classes):
        raise LabelRefusedError(
            f"release {said.release[:16]} has no class {place}; its classes are 0 to"
            f" {len(classes) - 1}"
        )
    return place


def _span_ms(windowing: Windowing | None) -> int:
    return 0 if windowing is None else round(1000 * windowing.samples / windowing.rate_hz)
