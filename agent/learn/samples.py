"""The device's own labelled windows: read here, used here, never sent anywhere.

Rule 1: a file is an ``.npz`` of ``x`` (n, channels, samples) float32, ``y`` (n,) int64
        and ``split`` (n,) uint8, loaded without pickle and within stated limits.
Rule 2: *train* teaches, *decide* judges a candidate, *withheld* is only measured and
        reported; no function that decides takes withheld windows or figures.
"""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Split(IntEnum):
    """What a labelled window may be used for."""

    TRAIN = 0
    DECIDE = 1
    WITHHELD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledWindows:
    """Windows with their labels and splits, of equal length.

    Attributes:
        x: (n, channels, samples) float32, raw units, all finite.
        y: (n,) int64 class numbers from 0.
        split: (n,) uint8 values of ``Split``.

    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    split: NDArray[np.uint8]

    def of(self, split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the windows (k, channels, samples) and labels (k,) of one split."""
        raise NotImplementedError


def load_samples(path: Path) -> LabelledWindows:
    """Read a file of labelled windows.

    Raises:
        ConfigError: There is no such file, or it is not what rule 1 says; the sentence
            names the file and the array.

    """
    raise NotImplementedError
