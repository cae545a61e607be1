"""The motion data of tests/data as recordings, windows and the three splits of a device.

Rule 1: a window is 128 samples of six channels, shape (6, 128), raw units; the next one
        begins 64 samples later.
Rule 2: each recording is split in time: the first 55 % of its windows *train*, then a gap,
        20 % *decide*, a gap, the rest *withheld*. A gap is one window, so that windows of
        different splits share no sample.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DATASET = Path(__file__).resolve().parents[2] / "tests" / "data" / "watch_motion.npz"
SAMPLES, HOP, RATE_HZ = 128, 64, 50.0
TRAIN, DECIDE, WITHHELD, GAP = 0, 1, 2, 255
TRAIN_SHARE, DECIDE_SHARE = 0.55, 0.20
SIDES = ("left", "right")


class Recording(NamedTuple):
    """One exercise of one wrist: samples (n, 6) float32, its label, person and side."""

    samples: NDArray[np.float32]
    label: int
    person: int
    side: int


def read_recordings(path: Path = DATASET) -> list[Recording]:
    """Return all recordings of the data set."""
    with np.load(path) as files:
        arrays = {name: files[name] for name in files.files}
    ends = np.cumsum(arrays["lengths"])
    return [
        Recording(
            arrays["samples"][end - length : end],
            int(arrays["exercise"][i]),
            int(arrays["subject"][i]),
            int(arrays["side"][i]),
        )
        for i, (end, length) in enumerate(zip(ends, arrays["lengths"], strict=True))
    ]


def class_names(path: Path = DATASET) -> tuple[str, ...]:
    """Return the names of the exercises in label order."""
    with np.load(path) as files:
        return tuple(str(n) for n in files["exercise_names"])


def channel_names(path: Path = DATASET) -> tuple[str, ...]:
    """Return the names of the six channels."""
    with np.load(path) as files:
        return tuple(str(n) for n in files["channel_names"])


def windows_of(samples: NDArray[np.float32], hop: int = HOP) -> NDArray[np.float32]:
    """Return the windows (n, 6, 128) of a recording (samples, 6)."""
    starts = range(0, len(samples) - SAMPLES + 1, hop)
    return np.stack([samples[at : at + SAMPLES].T for at in starts]).astype(np.float32)


def split_of(count: int) -> NDArray[np.uint8]:
    """Return the split of each of ``count`` consecutive windows, gaps as 255."""
    split = np.full(count, GAP, np.uint8)
    train = round(count * TRAIN_SHARE)
    decide = round(count * DECIDE_SHARE)
    split[:train] = TRAIN
    split[train + 1 : train + 1 + decide] = DECIDE
    split[train + decide + 2 :] = WITHHELD
    return split


def labelled_windows(
    recordings: list[Recording],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8]]:
    """Return x (n, 6, 128), y (n,) and split (n,) of one device, without the gaps."""
    parts = [(windows_of(r.samples), r.label) for r in recordings]
    x = np.concatenate([w for w, _ in parts])
    y = np.concatenate([np.full(len(w), label, np.int64) for w, label in parts])
    split = np.concatenate([split_of(len(w)) for w, _ in parts])
    return x[split != GAP], y[split != GAP], split[split != GAP]
