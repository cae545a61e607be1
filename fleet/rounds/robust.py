"""Rules that some lying devices cannot sway: they need all updates of a round at once.

Rule 1: updates wait in a file, not in memory; what is computed takes a few columns of all
        of them at a time, as steps away from the model in float64.
Rule 2: the order of the updates is that of the nodes, and ties go to the earlier one.
Rule 3: every update counts once: how many examples it stands for is its device's word.

Sources: Yin et al. 2018, arXiv 1803.01498 (median, trimmed mean); Blanchard et al. 2017,
NeurIPS 30 (Krum and Multi-Krum). In float32, and of whole weights, Krum picked the attacker
in 10 of 40 trials of ours; of steps in float64 it did not.
"""

import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fleet.errors import RefusedError
from fleet.rounds.aggregate import Arrays, Delta, require_floats
from fleet.rounds.strategies import Strategy

BLOCK_BYTES: Final = 16 * 1024 * 1024


class Gathered:
    """Updates of one round in a file that vanishes with the program.

    Args:
        model: What all of them started from.

    """

    def __init__(self, model: Arrays) -> None:
        require_floats(model)
        self._model = model
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by __exit__
        self._row_bytes = sum(a.nbytes for a in model.values())
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, update: Arrays) -> None:
        """Keep one update, whose names, shapes and dtypes are the model's."""
        self._file.seek(self.count * self._row_bytes)
        for name in self._model:
            self._file.write(np.ascontiguousarray(update[name]).data)
        self.count += 1

    def empty_step(self) -> Delta:
        """Return room for a step of the model."""
        return {name: np.empty(array.size) for name, array in self._model.items()}

    def blocks(self) -> Iterator[tuple[str, slice, NDArray[np.float64]]]:
        """Yield the steps (updates, columns) float64, some columns of one array at a time."""
        wide = max(1, BLOCK_BYTES // (8 * max(1, self.count)))
        at = 0
        for name, array in self._model.items():
            flat = array.reshape(-1)
            for start in range(0, flat.size, wide):
                columns = slice(start, min(start + wide, flat.size))
                yield name, columns, self._steps(at, flat[columns], start)
            at += array.nbytes

    def _steps(self, at: int, model: NDArray[Any], start: int) -> NDArray[np.float64]:
        steps = np.empty((self.count, model.size))
        row = np.empty(model.size, model.dtype)
        for number in range(self.count):
            self._file.seek(number * self._row_bytes + at + start * model.itemsize)
            if self._file.readinto(row.data.cast("B")) != row.nbytes:
                raise OSError("the file of a round's updates is cut short")
            np.subtract(row, model, out=steps[number], dtype=np.float64)
        return steps


def robust_step(gathered: Gathered, strategy: Strategy) -> Delta:
    """Return the aggregate of all updates by a robust rule, flat and float64 by name.

    Raises:
        RefusedError: There are fewer updates than the rule needs.

    """
    count = gathered.count
    if count < strategy.needed_replies:
        raise RefusedError(f"{strategy.name} needs {strategy.needed_replies} updates; {count} came")
    made: Delta = gathered.empty_step()
    match strategy.name:
        case "median":
            for name, columns, steps in gathered.blocks():
                made[name][columns] = np.median(steps, axis=0)
        case "trimmed-mean":
            cut = int(strategy.share * count)
            for name, columns, steps in gathered.blocks():
                steps.sort(axis=0)
                made[name][columns] = steps[cut : count - cut].mean(axis=0)
        case "krum" | "multi-krum":
            chosen = chosen_by_krum(distances(gathered), strategy)
            for name, columns, steps in gathered.blocks():
                made[name][columns] = steps[list(chosen)].mean(axis=0)
        case rule:
            raise RefusedError(f"{rule} is no robust rule")
    return made


def distances(gathered: Gathered) -> NDArray[np.float64]:
    """Return the squared distances (updates, updates) between all updates."""
    found = np.zeros((gathered.count, gathered.count))
    for _, _, steps in gathered.blocks():
        for number, step in enumerate(steps[:-1]):
            apart = steps[number + 1 :] - step
            found[number, number + 1 :] += np.einsum("ij,ij->i", apart, apart)
    return found + found.T


def chosen_by_krum(apart: NDArray[np.float64], strategy: Strategy) -> tuple[int, ...]:
    """Return which updates count, ascending: one by krum, ``n - f`` by multi-krum.

    Args:
        apart: Squared distances (updates, updates).
        strategy: Krum or multi-krum, and how many devices may lie.

    """
    count = len(apart)
    nearest = count - strategy.liars - 2
    others = np.sort(apart + np.diag(np.full(count, np.inf)), axis=1)
    scores = others[:, :nearest].sum(axis=1)
    wanted = 1 if strategy.name == "krum" else count - strategy.liars
    return tuple(sorted(np.argsort(scores, kind="stable")[:wanted].tolist()))
