"""The step of a buffered run: late updates count, the less the older what they started from.

FedBuff (Nguyen et al. 2022, arXiv 2106.06639, algorithm 1): each update is the difference
to the version that its device got; an update ``s`` versions behind counts ``1 / sqrt(1 + s)``
(their section 5); the sum is divided by how many there are, and is the server's step.

Rule 1: devices count alike, however many examples they have: what a buffer holds is who
        came first, and who has little comes first.
Rule 2: sums are float64, in the order in which the updates are given.
"""

from collections.abc import Iterable
from math import sqrt
from typing import Final

import numpy as np

from fleet.errors import RefusedError
from fleet.rounds.aggregate import Arrays, Delta, spans_of
from fleet.rounds.buffered import MAX_STALENESS

KEPT_VERSIONS: Final = MAX_STALENESS + 1


class Versions:
    """The versions that devices may still train on."""

    def __init__(self) -> None:
        self._kept: dict[int, Arrays] = {}

    def keep(self, version: int, model: Arrays) -> None:
        """Keep a version, and let go of what is too old."""
        self._kept[version] = model
        self._kept.pop(version - KEPT_VERSIONS, None)

    def step(self, version: int, updates: Iterable[tuple[int, Arrays]]) -> Delta:
        """Return the mean of updates as a step away from the newest version.

        Args:
            version: The newest, from which the step leads.
            updates: The version that each started from, and its arrays, with the names,
                shapes and dtypes of the model.

        Raises:
            RefusedError: There are none, or one started from a version that is not kept.

        """
        total = {name: np.zeros(a.size) for name, a in self._kept[version].items()}
        count = 0
        for asked, arrays in updates:
            base = self._kept.get(asked)
            if base is None or asked > version:
                raise RefusedError(f"an update to version {asked} is given to version {version}")
            counts = 1 / sqrt(1 + version - asked)
            for name, start, stop in spans_of(base):
                moved = arrays[name].reshape(-1)[start:stop].astype(np.float64)
                moved -= base[name].reshape(-1)[start:stop]
                total[name][start:stop] += counts * moved
            count += 1
        if not count:
            raise RefusedError("there is no step of no updates")
        return {name: np.divide(sums, count, out=sums) for name, sums in total.items()}
