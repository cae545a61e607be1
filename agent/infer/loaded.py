"""A release that is loaded, what it answers, and who counts its figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.contract.manifest import Release, Windowing
from agent.infer.labelled import place_of
from agent.infer.runtime import Array, Runtime
from agent.infer.stateful import Memory, Stateful
from agent.infer.windowing import Cutter, cutter_of

NO_CLASS: Final = -1
_ABOVE_ONE: Final = 1.001
"""What rounding may make of a probability of 1."""


Given = Array | Mapping[str, Array]
"""An input as it was given: alone, or by name."""


class Observer(Protocol):
    """Where the figures of a served model go; ``observe.windows.WindowRecorder`` is one."""

    def note(self, latency_ns: int, row: Array, given: Given) -> None:
        """Count one answer, to be read later from the output ``Loaded.told``; keeps neither."""

    def record(self, latency_us: float, confidence: float, place: int) -> None:
        """Count one answer that was read; ``place`` is ``NO_CLASS`` without classes."""

    def look(self, given: Given) -> None:
        """Look at an input whose answer was read, where that is due."""

    def refuse(self, given: Given | None = None) -> None:
        """Count one window that the input check refused."""

    def fail(self) -> None:
        """Count one window on which the model failed."""

    def skip(self) -> None:
        """Count one window of a stream that was left out."""

    def take(self, samples: int) -> None:
        """Count samples that came from the source."""

    def gap(self) -> None:
        """Count a break in the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A release, its loaded model with what it remembers, and where its figures go.

    Attributes:
        apart: Whether it runs in a process of its own, which may be waited for until its
            deadline.
        place: Number of the output with the probabilities; ``NO_CLASS`` without.
        told: Number of the output whose values are told: that one, or the first.

    Raises:
        ModelError: The model lacks the output that the manifest names.

    """

    digest: str
    release: Release
    runtime: Runtime
    observer: Observer
    apart: bool = False
    place: int = field(init=False)
    told: int = field(init=False)
    memory: Memory | None = field(init=False)

    def __post_init__(self) -> None:
        name = self.release.probabilities
        place = NO_CLASS if name is None else place_of(self.runtime, name)
        object.__setattr__(self, "place", place)
        object.__setattr__(self, "told", max(place, 0))
        memory = Memory(self.runtime) if isinstance(self.runtime, Stateful) else None
        object.__setattr__(self, "memory", memory)

    @property
    def windowing(self) -> Windowing | None:
        """How samples become its windows; None where it takes none."""
        return self.release.windowing

    def cutter(self) -> Cutter:
        """Return what feeds it from a stream of samples."""
        return cutter_of(self.windowing, self.runtime.inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said about one window, or about one request.

    Attributes:
        id: The prediction's own, see ``requests``.
        window: Number of the window in this process, from 0.
        release: Manifest digest.
        label: Class name, or "" for a model without classes; of the first row of a batch.
        confidence: Probability of that class, 0 to 1; 0 without classes.
        probabilities: (classes,) float32, of a batch (rows * classes,); empty without classes.
        outputs: Everything the model answered, in its order.
        latency_us: Of the inference alone.
        given: The input as it was given, by reference; by name where it was asked by name.

    """

    id: str
    window: int
    release: str
    label: str
    confidence: float
    probabilities: NDArray[np.float32]
    outputs: tuple[Array, ...]
    latency_us: float
    given: Given


Sink = Callable[[Answer], None]


def decide(outputs: tuple[Array, ...], place: int) -> tuple[float, int]:
    """Return confidence and class; a NaN anywhere in the probabilities is the confidence."""
    if place == NO_CLASS:
        return 0.0, NO_CLASS
    answer = outputs[place]
    best = int(answer.argmax())  # numpy lets a NaN win
    return answer.item(best), best


def is_probability(confidence: float) -> bool:
    """Return whether a confidence can be one; a NaN cannot."""
    return 0 <= confidence <= _ABOVE_ONE
