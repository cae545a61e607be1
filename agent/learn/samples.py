"""The device's own labelled windows: read here, used here, never sent anywhere.

Rule 1: a file is an ``.npz`` of ``x`` (n, channels, samples) float32, ``y`` (n,) int64
        and ``split`` (n,) uint8, loaded without pickle and within stated limits.
Rule 2: *train* teaches, *decide* judges a candidate, *withheld* is only measured and
        reported; no function that decides takes withheld windows or figures.
"""

import zipfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ConfigError

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_WINDOWS = 1_000_000
MAX_CLASS = 65_535
_MEMBERS = {"x": ("float32", 3), "y": ("int64", 1), "split": ("uint8", 1)}


class Split(IntEnum):
    """What a labelled window may be used for."""

    TRAIN = 0
    DECIDE = 1
    WITHHELD = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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
        chosen = self.split == split
        return self.x[chosen], self.y[chosen]

    def count(self, split: Split) -> int:
        """Return how many windows one split has."""
        return int(np.count_nonzero(self.split == split))


def load_samples(path: Path) -> LabelledWindows:
    """Read a file of labelled windows.

    Raises:
        ConfigError: There is no such file, or it is not what rule 1 says; the sentence
            names the file and the array.

    """
    arrays = _read_arrays(path)
    for name, (dtype, dimensions) in _MEMBERS.items():
        array = arrays[name]
        if array.dtype.name != dtype or array.ndim != dimensions:
            raise ConfigError(
                f"{path}: {name!r} is {array.dtype.name} with {array.ndim} dimensions; "
                f"it must be {dtype} with {dimensions}"
            )
    windows = LabelledWindows(x=arrays["x"], y=arrays["y"], split=arrays["split"])
    count = len(windows.x)
    if not 1 <= count <= MAX_WINDOWS or {len(windows.y), len(windows.split)} != {count}:
        raise ConfigError(
            f"{path} has {count} windows, {len(windows.y)} labels and {len(windows.split)} splits; "
            f"they must be equally many, 1 to {MAX_WINDOWS}"
        )
    if windows.y.min() < 0 or windows.y.max() > MAX_CLASS:
        raise ConfigError(f"{path}: a label in 'y' is not a class number from 0 to {MAX_CLASS}")
    if windows.split.max() > max(Split):
        raise ConfigError(
            f"{path}: 'split' holds {windows.split.max()}; 0 is train, 1 is decide, 2 is withheld"
        )
    if not np.isfinite(windows.x).all():
        raise ConfigError(f"{path}: 'x' holds values that are not finite")
    return windows


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_FILE_BYTES:
            raise ConfigError(
                f"{path} unpacks to {unpacked} bytes; at most {MAX_FILE_BYTES} may be"
            )
        with np.load(path, allow_pickle=False) as members:
            missing = sorted(_MEMBERS.keys() - set(members.files))
            if missing:
                raise ConfigError(f"{path} has no array {missing[0]!r}")
            return {name: members[name] for name in _MEMBERS}
    except FileNotFoundError as why:
        raise ConfigError(f"there is no file of labelled windows at {path}") from why
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as why:
        raise ConfigError(f"{path} is not a file of labelled windows: {why}") from why
