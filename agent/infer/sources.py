"""Where samples come from: a recording or a Python callable; ``pushed`` has what is sent to us.

Rule 1: a source is read by one thread, which it may keep waiting but which ``stop`` ends.
Rule 2: ``None`` among the blocks marks a break: what follows is not its continuation.
"""

import importlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.errors import ConfigError, ContractError
from agent.infer.arrays import read_npz

Block = NDArray[np.float32]
"""Samples (n, channels), float32, in raw units."""

MAX_RECORDING_BYTES: Final = 512 * 1024 * 1024
_LONGEST_LAG_SECONDS: Final = 1.0


class Source(Protocol):
    """Anything that yields samples until it ends or ``stop`` is set."""

    def blocks(self, stop: threading.Event) -> Iterator[Block | None]:
        """Yield samples as they come, and None where the stream breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Samples (n, channels) float32, taken ``rate_hz`` times a second."""

    samples: Block
    rate_hz: float

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or not len(self.samples):  # noqa: PLR2004 - (n, channels)
            raise ConfigError(f"a recording has shape {self.samples.shape}; wanted (n, channels)")
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise ConfigError(f"a recording has rate_hz {self.rate_hz}; it must be above 0")


def load_recording(path: Path) -> Recording:
    """Read an ``.npz`` with ``samples`` (n, channels) float32 and ``rate_hz``.

    Raises:
        ConfigError: There is no such file, or it is not such a recording.

    """
    try:
        content = path.read_bytes()
        arrays = read_npz(content, limit_bytes=MAX_RECORDING_BYTES)
        samples, rate_hz = arrays["samples"], arrays["rate_hz"]
    except OSError as why:
        raise ConfigError(f"recording {path}: {why.strerror or why}") from why
    except ContractError as why:
        raise ConfigError(f"recording {path}: {why}") from why
    except KeyError as why:
        raise ConfigError(f"recording {path} has no array {why}") from why
    if samples.dtype != np.float32 or rate_hz.size != 1:
        raise ConfigError(
            f"recording {path} has samples of {samples.dtype} and {rate_hz.size} rates; "
            "wanted float32 and one"
        )
    return Recording(samples=samples, rate_hz=float(rate_hz.reshape(-1)[0]))


class Replay:
    """A recording as if it happened now, ``speed`` times as fast.

    Attributes:
        played: Samples given out so far.

    """

    def __init__(
        self, recording: Recording, *, speed: float = 1.0, loop: bool = False, block: int = 16
    ) -> None:
        self._recording = recording
        self._seconds = 1 / (recording.rate_hz * speed)
        self._loop = loop
        self._block = block
        self.played = 0

    def blocks(self, stop: threading.Event) -> Iterator[Block | None]:
        """Yield a block when its last sample is due; one that lags too far is not made up for."""
        samples = self._recording.samples
        due = monotonic()
        while True:
            for at in range(0, len(samples), self._block):
                block = samples[at : at + self._block]
                due += len(block) * self._seconds
                wait = due - monotonic()
                if wait > 0 and stop.wait(wait):
                    return
                if wait < -_LONGEST_LAG_SECONDS:
                    due = monotonic()
                if stop.is_set():
                    return
                self.played += len(block)
                yield block
            if not self._loop:
                return
            yield None


class Called:
    """Samples from the operator's own code: a callable that returns an iterable of them."""

    def __init__(self, function: Callable[[], Iterable[ArrayLike | None]]) -> None:
        self._function = function

    def blocks(self, stop: threading.Event) -> Iterator[Block | None]:
        """Yield what the callable yields: one sample (channels,), several (n, channels), None."""
        for item in self._function():
            if stop.is_set():
                return
            yield None if item is None else np.atleast_2d(np.asarray(item, np.float32))


def named_callable(target: str) -> Callable[[], Iterable[ArrayLike | None]]:
    """Import ``module:function``.

    Raises:
        ConfigError: There is no such module or function, or it cannot be called.

    """
    module, _, name = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as why:
        raise ConfigError(f"source {target!r} cannot be imported: {why}") from why
    if not callable(function):
        raise ConfigError(f"source {target!r} is not a function")
    return function  # type: ignore[no-any-return] # the operator's code has the types it has
