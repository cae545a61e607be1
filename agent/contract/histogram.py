"""Mergeable log-histograms: any quantile of any number of devices within 2 %.

Bucket ``k`` holds the values in ``(GAMMA**(k-1), GAMMA**k]``; its representative
``2·GAMMA**k / (GAMMA+1)`` is within ``RELATIVE_ERROR`` of every value in it. This is
DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", PVLDB 12(12), 2019) with fixed bounds instead of collapsing.

Rule 1: merging is the addition of counts, so order and grouping never matter.
Rule 2: values at or below ``LOWEST`` share the lowest bucket and values above
        ``HIGHEST`` the highest; the error bound holds between the two.
Rule 3: what arrives from the wire is checked before a bucket number is used.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.contract.telemetry import Histogram
from agent.errors import MalformedError

RELATIVE_ERROR: Final = 0.02
GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOWEST: Final = 1e-6
HIGHEST: Final = 1e9

_LOG_GAMMA = math.log(GAMMA)
_FIRST = math.ceil(math.log(LOWEST) / _LOG_GAMMA)
_LAST = math.ceil(math.log(HIGHEST) / _LOG_GAMMA)
_WIDTH = _LAST - _FIRST + 1
MAX_COUNT: Final = 2**53


class LogHistogram:
    """Counts of non-negative values; adding is cheap in blocks.

    >>> latencies = LogHistogram.of([100.0, 200.0, 300.0])
    >>> round(latencies.quantile(0.5) / 200, 1)
    1.0
    >>> LogHistogram.read(latencies.written()).total
    3
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_WIDTH, np.int64)

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Return a histogram of some values."""
        histogram = cls()
        histogram.add_many(values)
        return histogram

    @classmethod
    def read(cls, message: Histogram) -> Self:
        """Read a histogram from the wire; the inverse of ``written``.

        Raises:
            MalformedError: Bucket numbers do not rise or lie outside the bounds, there
                is not one count for each, or the counts pass 2**53.

        """
        buckets, counts = message.buckets, message.counts
        if len(buckets) != len(counts) or len(buckets) > _WIDTH:
            raise MalformedError(
                f"histogram has {len(buckets)} buckets and {len(counts)} counts; "
                f"it needs one count a bucket and at most {_WIDTH}"
            )
        if any(b >= c for b, c in pairwise(buckets)):
            raise MalformedError("histogram buckets do not rise")
        if buckets and not (buckets[0] >= _FIRST and buckets[-1] <= _LAST):
            raise MalformedError(f"histogram buckets lie outside {_FIRST} to {_LAST}")
        if any(count < 0 for count in counts) or sum(counts) > MAX_COUNT:
            raise MalformedError("histogram counts are below 0 or pass 2**53 together")
        histogram = cls()
        if buckets:
            histogram._counts[np.asarray(buckets) - _FIRST] = counts
        return histogram

    def add_many(self, values: ArrayLike) -> None:
        """Count a block of values, shape (n,); 64 at a time cost about 0.2 µs each.

        Raises:
            ValueError: A value is negative or not a number.

        """
        block = np.asarray(values, np.float64)
        if block.size == 0:
            return
        lowest = block.min()
        if not lowest >= 0:
            raise ValueError(f"a log-histogram counts values from 0, not {lowest}")
        inside = np.minimum(np.maximum(block, LOWEST), HIGHEST)
        places = np.ceil(np.log(inside) / _LOG_GAMMA).astype(np.int64) - _FIRST
        np.add.at(self._counts, np.minimum(np.maximum(places, 0), _WIDTH - 1), 1)

    def merge(self, other: "LogHistogram") -> None:
        """Add the counts of another histogram to this one."""
        self._counts += other._counts  # noqa: SLF001 -- of the same class

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def quantile(self, share: float) -> float | None:
        """Return the value at ``share`` (0 to 1) of the counted values, None without any.

        The answer is within ``RELATIVE_ERROR`` of the value of rank
        ``floor(share · (n - 1))`` in sorted order.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not at {share}")
        total = self.total
        if total == 0:
            return None
        rank = math.floor(share * (total - 1))
        place = int(np.searchsorted(np.cumsum(self._counts), rank, side="right"))
        return _representative(place + _FIRST)

    def mean(self) -> float | None:
        """Return the mean within ``RELATIVE_ERROR``, None without any value."""
        total = self.total
        if total == 0:
            return None
        places = np.flatnonzero(self._counts)
        values = np.array([_representative(int(p) + _FIRST) for p in places])
        return float((values * self._counts[places]).sum() / total)

    def written(self) -> Histogram:
        """Return it for the wire: only the buckets that hold something."""
        places = np.flatnonzero(self._counts)
        return Histogram(
            buckets=tuple((places + _FIRST).tolist()),
            counts=tuple(self._counts[places].tolist()),
        )


def merged(histograms: Iterable[LogHistogram]) -> LogHistogram:
    """Return the sum of some histograms."""
    whole = LogHistogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


def _representative(bucket: int) -> float:
    return 2 * GAMMA**bucket / (GAMMA + 1)
