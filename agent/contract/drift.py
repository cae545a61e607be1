"""Prediction drift: how far what a model answers has moved from what it answered at first.

The population stability index of two class histograms, less what chance alone is expected to
add to it. It says nothing of the inputs: a sensor that was mounted the other way round can
leave it where it is, and people who do other things raise it with nothing broken.

    psi       = Σ (p - q) · ln(p / q)           p of the first answers, q of the newest
    corrected = psi - (B - 1) · (1/n + 1/m)     B classes that either holds, n and m answers

Rule 1: pure; counts in, a figure or nothing out.
Rule 2: a class that one side never answered counts as half an answer there, so that the
        figure is finite.

Yurdakul, Naranjo: "Statistical properties of the population stability index", Journal of Risk
Model Validation 14(4), 2020: without drift the index is about (1/n + 1/m) · χ²(B - 1).
"""

from collections.abc import Sequence
from math import log

HALF = 0.5


def prediction_drift(first: Sequence[int], newest: Sequence[int]) -> float:
    """Return the corrected index, from 0; 0.1 is called small and 0.25 large.

    Args:
        first: How often each class was answered at first.
        newest: The same, lately.

    Raises:
        ValueError: Not of the same classes, below 0, or one of them is empty.

    >>> prediction_drift([500, 500, 0], [250, 250, 0])
    0.0
    >>> round(prediction_drift([500, 500], [900, 100]), 2)
    0.88
    """
    if len(first) != len(newest):
        raise ValueError(f"{len(first)} classes cannot be compared with {len(newest)}")
    n, m = sum(first), sum(newest)
    if min((*first, *newest), default=-1) < 0 or n == 0 or m == 0:
        raise ValueError("drift needs answers on both sides, and no counts below 0")
    held = [(a, b) for a, b in zip(first, newest, strict=True) if a or b]
    padding = [(max(a, HALF), max(b, HALF)) for a, b in held]
    total_first, total_newest = sum(a for a, _ in padding), sum(b for _, b in padding)
    psi = 0.0
    for a, b in padding:
        p, q = a / total_first, b / total_newest
        psi += (p - q) * log(p / q)
    return max(0.0, psi - (len(held) - 1) * (1 / n + 1 / m))
