"""Mergeable sketches of values of either sign: what a channel or an output looked like.

Bucket ``k`` above 0 holds the values in ``(LOWEST·GAMMA**(k-1), LOWEST·GAMMA**k]``, bucket
``-k`` the same below zero, and bucket 0 whatever is nearer to zero than ``LOWEST``. One step
of ``level`` joins buckets 2j-1 and 2j to j, which squares the ratio of a bucket's bounds.
This is UDDSketch (Epicoco, Melle, Cafaro, Pulimeno, Morleo: "UDDSketch: Accurate Tracking of
Quantiles in Data Streams", IEEE Access 8, 2020) with fixed bounds and a zero bucket.

Rule 1: a sketch on the wire has at most ``MAX_BUCKETS`` buckets: it is written at the lowest
        level at which they suffice, so its size is bounded whatever was counted.
Rule 2: merging brings both to the higher level and adds counts: order never matters.
Rule 3: what arrives from the wire is checked before a bucket number is used.
"""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.contract.telemetry import Sketch
from agent.errors import MalformedError

RELATIVE_ERROR: Final = 0.05
"""Of a quantile at level 0; 0.1 at level 1, 0.2 at level 2, 0.38 at level 3."""
GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOWEST: Final = 1e-6
HIGHEST: Final = 1e9
MAX_BUCKETS: Final = 64
MAX_COUNT: Final = 2**53

_LOG_GAMMA = math.log(GAMMA)
LAST: Final = math.ceil(math.log(HIGHEST / LOWEST) / _LOG_GAMMA)
"""The highest bucket of level 0; what lies beyond ``HIGHEST`` shares it."""
WIDTH: Final = 2 * LAST + 1
MAX_LEVEL: Final = LAST.bit_length()
"""Where each sign has but one bucket."""


def places(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the buckets of level 0, counted from the lowest one as 0; all values finite."""
    size = np.abs(values)
    np.maximum(size, LOWEST, out=size)
    np.log(size, out=size)
    size -= math.log(LOWEST)
    size /= _LOG_GAMMA
    np.ceil(size, out=size)
    np.minimum(size, LAST, out=size)
    np.copysign(size, values, out=size)
    return size.astype(np.int64) + LAST


def written(counts: NDArray[np.int64]) -> Sketch:
    """Return counts of level 0, shape (``WIDTH``,), for the wire."""
    occupied = np.flatnonzero(counts)
    buckets, amounts, level = occupied - LAST, counts[occupied], 0
    while len(buckets) > MAX_BUCKETS:
        buckets, amounts = _halved(buckets, amounts)
        level += 1
    return Sketch(level=level, buckets=tuple(buckets.tolist()), counts=tuple(amounts.tolist()))


class SignedSketch:
    """One sketch, as it is read and merged.

    >>> felt = SignedSketch.of([-9.8, -9.8, 0.0, 9.8])
    >>> round(felt.quantile(0.0) / -9.8, 1), felt.quantile(0.7), felt.total
    (1.0, 0.0, 4)
    """

    __slots__ = ("_counts", "level")

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self._counts: dict[int, int] = {}

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Return a sketch of finite values."""
        flat = np.asarray(values, np.float64).reshape(-1)
        return cls.read(written(np.bincount(places(flat), minlength=WIDTH)))

    @classmethod
    def read(cls, message: Sketch) -> Self:
        """Read a sketch from the wire; the inverse of ``written``.

        Raises:
            MalformedError: Too many buckets, bucket numbers that do not rise or lie outside
                the bounds, not one count for each, or counts that pass 2**53 together.

        """
        buckets, counts, level = message.buckets, message.counts, message.level
        if level > MAX_LEVEL:
            raise MalformedError(f"sketch has level {level}; the highest is {MAX_LEVEL}")
        if len(buckets) != len(counts) or len(buckets) > MAX_BUCKETS:
            raise MalformedError(
                f"sketch has {len(buckets)} buckets and {len(counts)} counts; "
                f"it needs one count a bucket and at most {MAX_BUCKETS}"
            )
        if any(b >= c for b, c in pairwise(buckets)):
            raise MalformedError("sketch buckets do not rise")
        last = -(-LAST // 2**level)
        if buckets and not (buckets[0] >= -last and buckets[-1] <= last):
            raise MalformedError(f"sketch buckets lie outside {-last} to {last}")
        if any(count < 0 for count in counts) or sum(counts) > MAX_COUNT:
            raise MalformedError("sketch counts are below 0 or pass 2**53 together")
        sketch = cls(level)
        sketch._counts = dict(zip(buckets, counts, strict=True))
        return sketch

    def merge(self, other: "SignedSketch") -> None:
        """Add the counts of another sketch to this one."""
        level = max(self.level, other.level)
        self.coarsen(level)
        for bucket, count in other._counts.items():  # noqa: SLF001 -- of the same class
            there = _coarser(bucket, level - other.level)
            self._counts[there] = self._counts.get(there, 0) + count

    def coarsen(self, level: int) -> None:
        """Join buckets up to a level; one that was passed already changes nothing."""
        steps = max(level - self.level, 0)
        joined: dict[int, int] = {}
        for bucket, count in self._counts.items():
            there = _coarser(bucket, steps)
            joined[there] = joined.get(there, 0) + count
        self._counts, self.level = joined, self.level + steps

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self._counts.values())

    def quantile(self, share: float) -> float | None:
        """Return the value at ``share`` (0 to 1) of the counted values, None without any.

        It lies in the bucket of the value of rank ``floor(share · (n - 1))``, at the point
        whose relative distance from both bounds is the same.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a quantile lies between 0 and 1, not at {share}")
        rank = math.floor(share * (self.total - 1))
        for bucket in sorted(self._counts):
            rank -= self._counts[bucket]
            if rank < 0:
                return self._representative(bucket)
        return None

    def written(self) -> Sketch:
        """Return it for the wire."""
        while len(self._counts) > MAX_BUCKETS:
            self.coarsen(self.level + 1)
        buckets = sorted(bucket for bucket, count in self._counts.items() if count)
        return Sketch(
            level=self.level,
            buckets=tuple(buckets),
            counts=tuple(self._counts[bucket] for bucket in buckets),
        )

    def _representative(self, bucket: int) -> float:
        if bucket == 0:
            return 0.0
        ratio = GAMMA ** (2**self.level)
        size = LOWEST * 2 * ratio ** abs(bucket) / (ratio + 1)
        return math.copysign(size, bucket)


def merged(sketches: Iterable[SignedSketch]) -> SignedSketch:
    """Return the sum of some sketches."""
    whole = SignedSketch()
    for sketch in sketches:
        whole.merge(sketch)
    return whole


def _coarser(bucket: int, steps: int) -> int:
    size = -(-abs(bucket) // (1 << steps))
    return size if bucket > 0 else -size


def _halved(
    buckets: NDArray[np.int64], amounts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    joined = np.sign(buckets) * ((np.abs(buckets) + 1) // 2)
    kept, where = np.unique(joined, return_inverse=True)
    return kept, np.bincount(where, weights=amounts).astype(np.int64)
