"""Floats outside, small integers inside: the edges of a fully quantised model.

A quantised tensor holds integers ``q`` that stand for ``(q - zero_point) * scale`` (TensorFlow
Lite 8-bit quantisation specification).

Rule 1: whoever gives floats gets floats, so that a quantised variant takes and answers what
        its float twin does.
Rule 2: what lies outside of the range is the nearest end of it, never a wrapped integer.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.infer.runtime import Array

DTYPES: Final = frozenset({"int8", "uint8", "int16"})
"""Element types that runtimes take activations in."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantised:
    """One tensor's scale and zero point, with which it is read and written.

    Attributes:
        dtype: What the model holds; one of ``DTYPES``.
        scale: Above 0.
        zero_point: The integer that stands for 0.

    """

    dtype: np.dtype[np.generic]
    scale: float
    zero_point: int
    _table: Array | None = field(init=False)

    def __post_init__(self) -> None:
        table = None
        if self.dtype.itemsize == 1:
            table = self._dequantised(np.arange(256, dtype=np.uint8).view(self.dtype))
        object.__setattr__(self, "_table", table)

    def write(self, x: Array) -> Array:
        """Return finite floats of any shape as the model's integers."""
        return self.writer(x.shape)(x)

    def writer(self, shape: tuple[int, ...]) -> Callable[[Array], Array]:
        """Return ``write`` for one shape and one thread: what it returns is the same array."""
        steps, q = np.empty(shape, np.float32), np.empty(shape, self.dtype)
        scale, zero_point = np.float32(self.scale), np.float32(self.zero_point)
        limits = np.iinfo(self.dtype.name)
        lowest, highest = (
            np.float32((limit - self.zero_point) * self.scale) for limit in (limits.min, limits.max)
        )

        def write(x: Array) -> Array:
            np.maximum(x, lowest, out=steps)
            np.minimum(steps, highest, out=steps)
            np.divide(steps, scale, out=steps)
            np.rint(steps, out=steps)
            np.add(steps, zero_point, out=steps)
            q[...] = steps
            return q

        return write

    def read(self, q: Array) -> Array:
        """Return the model's integers as float32 of the same shape."""
        if self._table is None:
            return self._dequantised(q)
        return self._table.take(q.view(np.uint8))

    def _dequantised(self, q: Array) -> Array:
        steps = np.subtract(q, self.zero_point, dtype=np.float32)
        return np.multiply(steps, np.float32(self.scale), out=steps)
