"""From a stream of samples to what a model takes: overlapping windows, or sample by sample.

Rule 1: windows never span a break in the stream; ``reset`` starts afresh.
Rule 2: a window is a copy that its receiver may keep.
Rule 3: a model whose release says nothing of windows takes each sample for itself, if it
        takes rows of numbers; any other is fed by requests alone.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Tensor, Windowing
from agent.errors import InputRefusedError
from agent.infer.runtime import Array

_ROW_DIMENSIONS = 2  # (rows, channels)


class Cutter(Protocol):
    """Whatever makes model inputs of samples."""

    @property
    def windowing(self) -> Windowing | None:
        """How it cuts; None where it gives sample by sample."""

    @property
    def channels(self) -> int:
        """How many columns samples have."""

    def reset(self) -> None:
        """Forget the samples held: what comes next does not follow them."""

    def push(self, samples: NDArray[np.float32]) -> Iterator[Array]:
        """Take samples (n, channels) and return the inputs that they complete.

        Raises:
            InputRefusedError: They do not have one column for each channel.

        """


def cutter_of(windowing: Windowing | None, inputs: Sequence[Tensor]) -> Cutter:
    """Return what feeds a model from a stream; ``Unfed`` where only requests can."""
    if len(inputs) != 1:
        names = ", ".join(tensor.name for tensor in inputs)
        return Unfed(f"the model takes {len(inputs)} inputs ({names}), and a source feeds only one")
    if windowing is not None:
        return Windower(windowing)
    shape, dtype = inputs[0].shape, inputs[0].dtype
    row = len(shape) == _ROW_DIMENSIONS and shape[0] in (-1, 1) and shape[1] > 0
    if row and dtype.startswith("float"):
        return Sampler(shape[1], np.dtype(dtype))
    return Unfed(
        f"its release says nothing of windows, and input {inputs[0].name!r} of "
        f"{inputs[0].dtype}{list(shape)} does not take single samples"
    )


class Windower:
    """Cuts samples (n, channels) into windows (1, channels, samples), float32."""

    def __init__(self, windowing: Windowing) -> None:
        self.windowing = windowing
        self.channels = len(windowing.channels)
        self._held: NDArray[np.float32] = np.zeros((0, self.channels), np.float32)
        self._skip = 0

    def reset(self) -> None:
        """Forget the samples held: what comes next does not follow them."""
        self._held = self._held[:0]
        self._skip = 0

    def push(self, samples: NDArray[np.float32]) -> Iterator[Array]:
        """Take samples and return the windows that they complete.

        Raises:
            InputRefusedError: They do not have one column for each channel.

        """
        _require_columns(samples, self.channels, ", ".join(self.windowing.channels))
        self._held = np.concatenate([self._held, samples.astype(np.float32, copy=False)])
        return self._cut()

    def _cut(self) -> Iterator[Array]:
        size, hop = self.windowing.samples, self.windowing.hop
        while True:
            skipped = min(self._skip, len(self._held))
            self._held, self._skip = self._held[skipped:], self._skip - skipped
            if self._skip or len(self._held) < size:
                return
            window = self._held[:size]
            self._skip = hop
            yield np.ascontiguousarray(window.T)[np.newaxis]


class Sampler:
    """Gives each sample (channels,) as an input (1, channels) of the model's own float type."""

    windowing = None

    def __init__(self, channels: int, dtype: "np.dtype[np.generic]") -> None:
        self.channels = channels
        self._dtype = dtype

    def reset(self) -> None:
        """Nothing is held."""

    def push(self, samples: NDArray[np.float32]) -> Iterator[Array]:
        """Take samples and return them one by one.

        Raises:
            InputRefusedError: They do not have one column for each channel.

        """
        _require_columns(samples, self.channels, f"{self.channels} numbers a sample")
        return (row[np.newaxis] for row in samples.astype(self._dtype))


class Unfed:
    """Refuses every sample, and says why no stream can feed the model."""

    windowing = None
    channels = 0

    def __init__(self, why: str) -> None:
        self.why = why

    def reset(self) -> None:
        """Nothing is held."""

    def push(self, samples: NDArray[np.float32]) -> Iterator[Array]:
        """Take nothing.

        Raises:
            InputRefusedError: Always.

        """
        raise InputRefusedError(f"{len(samples)} samples came, but {self.why}")


def _require_columns(samples: NDArray[np.float32], channels: int, what: str) -> None:
    if samples.ndim != _ROW_DIMENSIONS or samples.shape[1] != channels:
        raise InputRefusedError(
            f"samples are of shape {samples.shape}; wanted (n, {channels}): {what}"
        )
