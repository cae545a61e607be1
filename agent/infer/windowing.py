"""From a stream of samples to the overlapping windows that a model takes.

Rule 1: windows never span a break in the stream; ``reset`` starts afresh.
Rule 2: a window is a copy that its receiver may keep.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Windowing
from agent.errors import InputRefusedError


class Windower:
    """Cuts samples (n, channels) into windows (1, channels, samples), float32."""

    def __init__(self, windowing: Windowing) -> None:
        self.windowing = windowing
        self._held: NDArray[np.float32] = np.zeros((0, len(windowing.channels)), np.float32)
        self._skip = 0

    def reset(self) -> None:
        """Forget the samples held: what comes next does not follow them."""
        self._held = self._held[:0]
        self._skip = 0

    def push(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Take samples and return the windows that they complete.

        Raises:
            InputRefusedError: They do not have one column for each channel.

        """
        channels = self._held.shape[1]
        if samples.ndim != 2 or samples.shape[1] != channels:  # noqa: PLR2004 - (n, channels)
            raise InputRefusedError(
                f"samples are of shape {samples.shape}; wanted (n, {channels}): "
                f"{', '.join(self.windowing.channels)}"
            )
        self._held = np.concatenate([self._held, samples.astype(np.float32, copy=False)])
        return self._cut()

    def _cut(self) -> Iterator[NDArray[np.float32]]:
        size, hop = self.windowing.samples, self.windowing.hop
        while True:
            skipped = min(self._skip, len(self._held))
            self._held, self._skip = self._held[skipped:], self._skip - skipped
            if self._skip or len(self._held) < size:
                return
            window = self._held[:size]
            self._skip = hop
            yield np.ascontiguousarray(window.T)[np.newaxis]
