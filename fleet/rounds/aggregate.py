"""One model of many updates, in the memory of a few: each is folded in and let go.

Rule 1: sums are float64, in the order of folding, which is that of the nodes: the same
        updates give the same bits, on however many threads.
Rule 2: an update is looked at whole (``norm_of``) before any of it is folded.
Rule 3: work goes in chunks that stay in a core's cache; nothing as large as the model is
        made beside the sum.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import sqrt
from os import cpu_count
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.errors import MalformedError
from fleet.errors import RefusedError

CHUNK: Final = 128 * 1024
"""Elements: of float64 1 MiB, which stays in a core's cache."""
WORTH_THREADS: Final = 1_000_000
MAX_THREADS: Final = 4

Arrays = Mapping[str, NDArray[Any]]
Delta = dict[str, NDArray[np.float64]]
Span = tuple[str, int, int]


def spans_of(arrays: Arrays, chunk: int = CHUNK) -> list[Span]:
    """Return the chunks of some arrays, each as a name and its flat elements from and to."""
    return [
        (name, start, min(start + chunk, array.size))
        for name, array in arrays.items()
        for start in range(0, array.size, chunk)
    ]


def require_floats(arrays: Arrays) -> None:
    """Return if every array can be averaged.

    Raises:
        RefusedError: One holds whole numbers or truths.

    """
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise RefusedError(
                f"array {name!r} is {array.dtype}; the built-in strategies take floats, "
                "others need a Flower app of their own (--app)"
            )


def norm_of(update: Arrays, model: Arrays, threads: int | None = None) -> float:
    """Return the length of ``update - model`` over all arrays of floats, looked at once.

    Args:
        update: Arrays with the names, shapes and dtypes of ``model``.
        model: What the update started from.
        threads: How many work on it; by default the processor's, up to 4.

    Raises:
        MalformedError: A value is not finite, or so large that the length is not.

    """
    floats = {name: array for name, array in update.items() if array.dtype.kind == "f"}
    spans, count = spans_of(floats), _threads_for(floats, threads)

    def measure(part: list[Span]) -> list[float]:
        work = {t: np.empty(CHUNK, t) for t in (np.float32, np.float64)}
        return [
            _square(
                floats[name].reshape(-1)[start:stop],
                model[name].reshape(-1)[start:stop],
                work[np.float32 if floats[name].dtype == np.float32 else np.float64],
                name,
            )
            for name, start, stop in part
        ]

    if count == 1:
        squares = measure(spans)
    else:
        step = -(-len(spans) // count)
        with ThreadPoolExecutor(count) as pool:
            parts = pool.map(measure, (spans[n * step : (n + 1) * step] for n in range(count)))
            squares = [square for part in parts for square in part]
    total = sum(squares)
    if not np.isfinite(total):
        raise MalformedError("the update is longer than a number can tell")
    return sqrt(total)


def _threads_for(arrays: Arrays, threads: int | None) -> int:
    large = sum(a.size for a in arrays.values()) >= WORTH_THREADS
    return (threads or min(cpu_count() or 1, MAX_THREADS)) if large else 1


def _square(piece: NDArray[Any], start: NDArray[Any], work: NDArray[Any], name: str) -> float:
    """Return the square of the length of one chunk's step."""
    moved = work[: piece.size]
    with np.errstate(all="ignore"):  # what is not finite shows in the sum
        np.subtract(piece, start, out=moved, dtype=moved.dtype)
        square = float(np.dot(moved, moved))
    return square if np.isfinite(square) else _wide_square(piece, start, name)


def _wide_square(piece: NDArray[Any], start: NDArray[Any], name: str) -> float:
    """Return the square of a chunk's length where float32 did not hold it."""
    if not np.isfinite(piece).all():
        raise MalformedError(f"array {name!r} holds values that are not finite")
    moved = piece.astype(np.float64) - start
    return float(np.dot(moved, moved))


class Mean:
    """The weighted mean of updates as a step away from ``model``; three models of memory.

    Args:
        model: What all updates started from.
        threads: How many work on one update; by default the processor's, up to 4.

    """

    def __init__(self, model: Arrays, threads: int | None = None) -> None:
        require_floats(model)
        self._model = model
        self._sum: Delta = {n: np.zeros(a.size, np.float64) for n, a in model.items()}
        spans, count = spans_of(model), _threads_for(model, threads)
        self._parts = [spans[i::count] for i in range(count)]
        self._work = [np.empty(CHUNK) for _ in range(count)]
        self._pool = ThreadPoolExecutor(count) if count > 1 else None
        self.weight = 0.0
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def fold(self, update: Arrays, weight: float) -> None:
        """Add one update, whose names, shapes and dtypes are the model's."""
        flat = {name: array.reshape(-1) for name, array in update.items()}

        def add(spans: list[Span], work: NDArray[np.float64]) -> None:
            for name, start, stop in spans:
                piece = work[: stop - start]
                np.copyto(piece, flat[name][start:stop])
                np.multiply(piece, weight, out=piece)
                np.add(self._sum[name][start:stop], piece, out=self._sum[name][start:stop])

        self._everywhere(add)
        self.weight += weight
        self.count += 1

    def step(self) -> Delta:
        """Return the mean minus the model, flat and float64; the sum is used up by it.

        Raises:
            RefusedError: Nothing was folded.

        """
        if not self.weight > 0:
            raise RefusedError("there is no mean of no updates")
        model = {name: array.reshape(-1) for name, array in self._model.items()}

        def subtract(spans: list[Span], work: NDArray[np.float64]) -> None:
            for name, start, stop in spans:
                piece = self._sum[name][start:stop]
                np.divide(piece, self.weight, out=piece)
                np.copyto(work[: stop - start], model[name][start:stop])
                np.subtract(piece, work[: stop - start], out=piece)

        self._everywhere(subtract)
        made, self._sum = self._sum, {}
        return made

    def _everywhere(self, act: Callable[[list[Span], NDArray[np.float64]], None]) -> None:
        if self._pool is None:
            act(self._parts[0], self._work[0])
        else:
            list(self._pool.map(act, self._parts, self._work))
