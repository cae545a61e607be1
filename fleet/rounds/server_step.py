"""What the server makes of a round's aggregate: the next model.

Rule 1: state and steps are float64; the model keeps its dtypes and shapes.
Rule 2: pure arithmetic: the same steps in the same order give the same bits.

Sources: Hsu et al. 2019, arXiv 1909.06335 (momentum); Reddi et al. 2021, arXiv
2003.00295, algorithm 2 (adaptive steps, without bias correction, as there).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fleet.errors import RefusedError
from fleet.rounds.aggregate import CHUNK, Arrays, Delta, spans_of
from fleet.rounds.strategies import Strategy

BETA_2: Final = 0.99
TAU: Final = 1e-3
"""Degree of adaptivity: how large a coordinate's usual step must be to be damped."""

Model = dict[str, NDArray[Any]]


class ServerStep:
    """Takes steps by one strategy; remembers momentum and variance between rounds."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._mean: Delta = {}
        self._variance: Delta = {}

    def take(self, model: Arrays, delta: Delta) -> Model:
        """Return the next model.

        Args:
            model: The one that the round started from.
            delta: The aggregate of its updates, flat and float64 by name.

        Raises:
            RefusedError: The next model would hold values that are not finite.

        """
        made: Model = {name: np.empty(a.shape, a.dtype) for name, a in model.items()}
        for name, start, stop in spans_of(model, CHUNK):
            before = model[name].reshape(-1)[start:stop].astype(np.float64)
            step = self._scaled(name, model[name].size, slice(start, stop), delta[name][start:stop])
            with np.errstate(over="ignore"):
                after = (before + self._strategy.rate * step).astype(model[name].dtype)
            if not np.isfinite(after).all():
                raise RefusedError(
                    f"the round would put values that are not finite into array {name!r}; "
                    "a smaller --server-learning-rate may help"
                )
            made[name].reshape(-1)[start:stop] = after
        return made

    def _scaled(
        self, name: str, size: int, at: slice, delta: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        rule, beta = self._strategy.name, self._strategy.beta
        if rule not in ("fedavgm", "fedadam", "fedyogi"):
            return delta
        mean = self._mean.setdefault(name, np.zeros(size))[at]
        if rule == "fedavgm":
            mean[:] = beta * mean + delta
            return mean
        variance = self._variance.setdefault(name, np.full(size, TAU**2))[at]
        mean[:] = beta * mean + (1 - beta) * delta
        square = delta * delta
        if rule == "fedadam":
            variance[:] = BETA_2 * variance + (1 - BETA_2) * square
        else:
            variance[:] -= (1 - BETA_2) * square * np.sign(variance - square)
        return np.asarray(mean / (np.sqrt(variance) + TAU))
