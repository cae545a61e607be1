"""What the input of a model held, by channel, from some of its windows.

Rule 1: looking costs a share of the time of inference, measured and kept to; but one window
        a second may always be looked at, so that a slow stream is not left unseen.
Rule 2: of one window at most ``MAX_VALUES`` values are counted, at even distances.
Rule 3: a channel that holds one value is remembered from the first window in which it did:
        whether that is a fault is the decision of ``sensors``.
Rule 4: a sketch is told from ``LEAST_TOLD`` values on, and waits for more until then: one
        of a few values would tell the values themselves.
Rule 5: the thread that infers looks, and whoever reads meanwhile waits for one look.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.contract.limits import MAX_CHANNELS_TOLD
from agent.contract.manifest import Tensor, Windowing
from agent.contract.sketch import WIDTH, places, written
from agent.contract.telemetry import Channel, Sketch

MAX_VALUES: Final = 4096
"""A window of 6 channels of 128 samples takes about 30 µs."""
LOOK_SECONDS: Final = 1.0
LEAST_TOLD: Final = 50
NUMBERS: Final = "fiub"
_TABLE: Final = 2

Given = NDArray[Any] | Mapping[str, NDArray[Any]]
"""An input as it was given: alone, or by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How long a channel has held one value.

    Attributes:
        seconds: Since the first window in which it did; 0 where it changes.
        windows: In how many of those that were looked at.
        seen: How many were looked at in all.
        longest: The longest time that it held one value before and then changed, seconds.

    """

    channel: str
    value: float = 0.0
    seconds: float = 0.0
    windows: int = 0
    seen: int = 0
    longest: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One input tensor, and which channels it makes.

    Attributes:
        axis: Along which its channels lie; None where the whole tensor is one channel.
        first: Number of its first channel among all.

    """

    tensor: str
    axis: int | None
    first: int
    channels: tuple[str, ...]


def channels_of(inputs: Sequence[Tensor], windowing: Windowing | None) -> tuple[Part, ...]:
    """Return what is told apart in a model's inputs, the first ``MAX_CHANNELS_TOLD``.

    A stream has the channels of its windowing; a table (rows, n) one channel for each column;
    anything else is one channel as a whole. Tensors of strings are left out.
    """
    parts: list[Part] = []
    left = MAX_CHANNELS_TOLD
    for tensor in inputs:
        if np.dtype(_numpy_name(tensor.dtype)).kind not in NUMBERS or not left:
            continue
        shape, axis = tensor.shape, None
        names: tuple[str, ...] = (tensor.name,)
        if windowing is not None and len(inputs) == 1:
            names, axis = windowing.channels, 1
        elif len(shape) == _TABLE and 1 < shape[1] <= MAX_CHANNELS_TOLD:
            names, axis = tuple(f"{tensor.name[:70]}[{n}]" for n in range(shape[1])), 1
        first = MAX_CHANNELS_TOLD - left
        parts.append(Part(tensor=tensor.name, axis=axis, first=first, channels=names[:left]))
        left -= len(names[:left])
    return tuple(parts)


class Looking:
    """Counts what windows held; one release in one slot.

    Args:
        parts: From ``channels_of``.
        ranges: What a channel can be, lowest and highest, where the operator said so.
        share: Of the time of inference that looking may take; 0 never looks.

    """

    def __init__(
        self,
        parts: tuple[Part, ...],
        *,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        share: float = 0.01,
    ) -> None:
        self.share = share if parts else 0.0
        self._parts = parts
        self._names = [name for part in parts for name in part.channels]
        known = ranges or {}
        bounds = [known.get(name, (-np.inf, np.inf)) for name in self._names]
        self._lowest, self._highest = np.array(bounds, np.float64).reshape(-1, 2).T
        self._held = np.full(len(self._names), np.nan)
        self._since = np.zeros(len(self._names))
        self._holds = np.zeros(len(self._names), np.int64)
        self._longest = np.zeros(len(self._names))
        self._counts = np.zeros(len(self._names) * WIDTH, np.int64)
        self._outside = np.zeros(len(self._names), np.int64)
        self._allowance_ns = 0.0
        self._cost_ns = 0
        self._seen = 0
        self._last = -np.inf
        self._start()

    def earn(self, inference_ns: float) -> None:
        """Allow for looks what belongs to them of some time of inference."""
        most = 2.0 * self._cost_ns
        self._allowance_ns = min(self._allowance_ns + self.share * inference_ns, most)

    def is_due(self, now: float) -> bool:
        """Return whether a window may be looked at; ``now`` is monotonic, in seconds."""
        if not self.share:
            return False
        return 0 < self._cost_ns <= self._allowance_ns or now - self._last >= LOOK_SECONDS

    def paid(self, cost_ns: int) -> None:
        """Note what the last look cost."""
        self._allowance_ns = max(self._allowance_ns - cost_ns, 0.0)
        # a look that was disturbed must not end all looking: the next one is cheaper again
        self._cost_ns = cost_ns if not self._cost_ns else (3 * self._cost_ns + cost_ns) // 4

    def look(self, given: Given, now: float) -> None:
        """Count what one window holds; its values are finite."""
        self._last = now
        self._looked += 1
        self._seen += 1
        for part, values in self._values(given):
            rows = len(values)
            these = slice(part.first, part.first + rows)
            lowest, highest = values.min(axis=1), values.max(axis=1)
            self._hold(these, lowest, lowest == highest, now)
            if values.shape[1] > 1:
                self._constant[these] += lowest == highest
            self._look_outside(these, values, lowest, highest)
            starts = np.arange(part.first, part.first + rows)[:, np.newaxis] * WIDTH
            np.add.at(self._counts, (places(values) + starts).reshape(-1), 1)

    def refuse(self, given: Given) -> None:
        """Count the channels for which a window was refused."""
        for part, values in self._values(given):
            bad = ~np.isfinite(values).all(axis=1)
            self._not_finite[part.first : part.first + len(values)] += bad

    def held(self, now: float) -> tuple[Held, ...]:
        """Return how long each channel has held one value."""
        return tuple(
            Held(
                channel=name,
                value=float(self._held[n]) if self._holds[n] else 0.0,
                seconds=float(now - self._since[n]) if self._holds[n] else 0.0,
                windows=int(self._holds[n]),
                seen=self._seen,
                longest=float(self._longest[n]),
            )
            for n, name in enumerate(self._names)
        )

    def close(self, *, whole: bool = True) -> tuple[int, tuple[Channel, ...]]:
        """Return how many windows were looked at since they were told last, and what they held.

        What is not the ``whole`` is told only where a channel was not finite.
        """
        looked, counts = self._looked, self._counts.reshape(-1, WIDTH)
        if not self._not_finite.any() and not (looked and whole):
            return 0, ()
        enough = counts.sum(axis=1) >= LEAST_TOLD
        channels = tuple(
            Channel(
                name=name[:80],
                values=written(counts[n]) if enough[n] else Sketch(),
                constant=int(self._constant[n]),
                outside=int(self._outside[n]) if enough[n] else 0,
                not_finite=int(self._not_finite[n]),
            )
            for n, name in enumerate(self._names)
        )
        counts[enough] = 0
        self._outside[enough] = 0
        self._start()
        return looked, channels

    def _start(self) -> None:
        self._looked = 0
        self._constant = np.zeros(len(self._names), np.int64)
        self._not_finite = np.zeros(len(self._names), np.int64)

    def _values(self, given: Given) -> Iterator[tuple[Part, NDArray[np.float64]]]:
        """Return of each part some values, shape (channels, values), at least one."""
        for part in self._parts:
            array = given.get(part.tensor) if isinstance(given, Mapping) else given
            if array is None or not array.size or array.dtype.kind not in NUMBERS:
                continue
            if part.axis is not None and array.ndim > part.axis:
                rows = np.moveaxis(array, part.axis, 0).reshape(array.shape[part.axis], -1)
            else:
                rows = array.reshape(1, -1)
            rows = rows[: len(part.channels)]
            step = -(-rows.size // MAX_VALUES)
            yield part, rows[:, ::step].astype(np.float64)

    def _hold(
        self, these: slice, value: NDArray[np.float64], one: NDArray[np.bool_], now: float
    ) -> None:
        held, since, holds = self._held[these], self._since[these], self._holds[these]
        same = one & (held == value)
        ended = (holds > 0) & ~same
        self._longest[these][ended] = np.maximum(self._longest[these], now - since)[ended]
        since[~same] = now
        holds[:] = np.where(same, holds + 1, one)
        held[:] = np.where(one, value, np.nan)

    def _look_outside(
        self,
        these: slice,
        values: NDArray[np.float64],
        lowest: NDArray[np.float64],
        highest: NDArray[np.float64],
    ) -> None:
        low, high = self._lowest[these], self._highest[these]
        if (lowest < low).any() or (highest > high).any():
            beyond = (values < low[:, np.newaxis]) | (values > high[:, np.newaxis])
            self._outside[these] += beyond.sum(axis=1)


def _numpy_name(dtype: str) -> str:
    return "object" if dtype == "string" else dtype
