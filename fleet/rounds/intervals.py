"""How far a figure can be trusted: accuracies and their changes, each with a 95 % interval.

Rule 1: a device counts as one, however many windows it has: a change is the mean over
        devices, and its interval is the wider of two, that of the devices' spread and
        that of their few windows. One device alone has only the second.
Rule 2: windows of one device are counted as if each were another moment. They overlap, so
        that an interval is rather too narrow than too wide.

Sources: E. B. Wilson, JASA 22 (1927), for an accuracy; A. Agresti and B. Caffo, The
American Statistician 54 (2000), for the difference of two, here of two independent ones,
which is wider than that of two answers to the same windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance
from typing import Final

from agent.contract.messages import Quality

Z: Final = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""
WORST_SHARE: Final = 0.1

Pair = tuple[Quality, Quality]
"""The running release and the candidate on the same windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where a figure lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Mean change of a device's accuracy, and where it lies with 95 % confidence."""

    mean: float
    low: float
    high: float


def wilson(measured: Quality) -> Interval:
    """Return the interval of an accuracy; everything is possible without windows.

    >>> wilson(Quality(right=40, windows=40)).high
    1.0
    """
    n = measured.windows
    if not n:
        return Interval(low=0.0, high=1.0)
    share, z2 = measured.right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Interval(low=max(0.0, middle - half), high=min(1.0, middle + half))


def mean_accuracy(measured: Sequence[Quality]) -> tuple[float, Interval]:
    """Return the mean accuracy of devices, at least one, and its interval; of one, Wilson's."""
    if len(measured) == 1:
        return measured[0].accuracy, wilson(measured[0])
    shares = [each.accuracy for each in measured]
    mean, half = fmean(shares), _half(shares, sum(map(_noise, measured)))
    return mean, Interval(low=max(0.0, mean - half), high=min(1.0, mean + half))


def change_of(pairs: Sequence[Pair]) -> Change:
    """Return how devices change from the running release to the candidate.

    Args:
        pairs: At least one; each of equally many windows.

    """
    changes = [after.accuracy - before.accuracy for before, after in pairs]
    mean = fmean(changes)
    half = _half(changes, sum(_noise(before) + _noise(after) for before, after in pairs))
    return Change(mean=mean, low=max(-1.0, mean - half), high=min(1.0, mean + half))


def worst_decile(pairs: Sequence[Pair]) -> float:
    """Return the mean change of the worst tenth of devices: of one at least."""
    changes = sorted(after.accuracy - before.accuracy for before, after in pairs)
    return fmean(changes[: max(1, round(WORST_SHARE * len(changes)))])


def is_sound(pair: Pair) -> bool:
    """Return whether two figures can be: of the same windows, and no more right than there are.

    A device tells what it likes; one that tells nonsense must not move its cohort.
    """
    before, after = pair
    return 0 < before.windows == after.windows >= max(before.right, after.right)


def _half(values: Sequence[float], noise: float) -> float:
    """Return half the width of a mean's interval; ``noise`` is the sum of their variances."""
    count = len(values)
    spread = variance(values) / count if count > 1 else 0.0
    return Z * sqrt(max(noise / count**2, spread))


def _noise(measured: Quality) -> float:
    """Return the variance of an accuracy, with one right and one wrong window added."""
    share = (measured.right + 1) / (measured.windows + 2)
    return share * (1 - share) / (measured.windows + 2)
