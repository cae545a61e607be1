"""The model of the rounds bench: fixed random features of a window, and a head to train.

``embedding = tanh(tile(normal(window) @ body) * scale + shift) / spread``: as wide as is wanted,
no two columns alike, and cheap. The head has 16 classes, of which the motion data has 7, so that
width 40 makes 656 parameters and width 62,496 makes 999,952.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANNELS, SAMPLES, CLASSES, FEATURES = 6, 128, 16, 93
SMALL, LARGE = 40, 62_496
"""Widths."""


def parameters(width: int) -> int:
    """Return how many numbers a head has."""
    return CLASSES * (width + 1)


def make(width: int, deviation: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return the model's arrays; ``deviation`` (6,) is how far each channel swings."""
    chance = np.random.default_rng(5)
    features = FEATURES if width % FEATURES == 0 else width
    inputs = CHANNELS * SAMPLES
    body = chance.normal(0, 1, (inputs, features)) / np.sqrt(inputs)
    body /= np.repeat(deviation, SAMPLES)[:, np.newaxis]
    return {
        "body": body.astype(np.float32),
        "scale": chance.uniform(0.5, 2.0, width).astype(np.float32),
        "shift": chance.uniform(-1.0, 1.0, width).astype(np.float32),
        "spread": np.array(np.sqrt(width / SMALL), np.float32),
        "weight": np.zeros((CLASSES, width), np.float32),
        "bias": np.zeros(CLASSES, np.float32),
    }


def embed(model: Path, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the embeddings (n, width) of windows (n, 6, 128)."""
    with np.load(model) as arrays:
        flat = windows.reshape(len(windows), -1).astype(np.float32) @ arrays["body"]
        wide = np.tile(flat, (1, len(arrays["scale"]) // flat.shape[1]))
        made = np.tanh(wide * arrays["scale"] + arrays["shift"]) / arrays["spread"]
    return np.asarray(made, np.float32)


def accuracy(
    model: Path, head: tuple[NDArray[np.float32], NDArray[np.float32]], samples: list[Path]
) -> float:
    """Return the mean over devices of the share of withheld windows that a head answers rightly."""
    shares = []
    for file in samples:
        with np.load(file) as held:
            chosen = held["split"] == 2  # noqa: PLR2004 -- withheld
            answers = (embed(model, held["x"][chosen]) @ head[0].T + head[1]).argmax(axis=1)
            shares.append(float((answers == held["y"][chosen]).mean()))
    return float(np.mean(shares))
