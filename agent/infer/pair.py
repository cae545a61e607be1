"""What a slot serves at one moment: a model, on probation another beside it, their comparison."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns

from agent.errors import InputRefusedError, ModelError
from agent.infer.comparison import Comparing, Missed, Seen
from agent.infer.loaded import Given, Loaded, decide, is_probability
from agent.infer.runtime import Array, Runtime

Quiet = tuple[Callable[[Array, int], Array], int, Callable[[int, Array, Given], None], Loaded]
"""The inference, the output it is wanted for, and what notes its answer, bound once; and whose."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The model, the one beside it, and the comparison going on; None where there is none."""

    model: Loaded | None = None
    beside: Loaded | None = None
    comparing: Comparing | None = None
    quiet: Quiet | None = field(init=False)
    """How the model is asked, where nothing remembers or compares what it answers."""

    def __post_init__(self) -> None:
        model = self.model
        quiet: Quiet | None = None
        if model is not None and model.memory is None and self.comparing is None:
            quiet = model.runtime.infer_one, model.told, model.observer.note, model
        object.__setattr__(self, "quiet", quiet)

    @classmethod
    def begin(cls, model: Loaded | None, beside: Loaded | None, *, measure: bool) -> "Pair":
        """Return a pair whose comparison starts now, where there is something to compare."""
        if model is None or (beside is None and not measure):
            return cls(model, beside)
        why_not = incomparable(model, beside) if beside else ""
        return cls(
            model, beside, Comparing(model.digest, beside.digest if beside else None, why_not)
        )

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """Whatever of the two there is."""
        return tuple(loaded for loaded in (self.model, self.beside) if loaded)

    @property
    def shadow(self) -> Loaded | None:
        """The model beside, where its answers can be compared."""
        return None if self.comparing is None or self.comparing.why_not else self.beside

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """What is loaded for them."""
        return tuple(loaded.runtime for loaded in self.loaded)


def incomparable(model: Loaded, beside: Loaded) -> str:
    """Return why two releases cannot be compared on the same windows; "" where they can."""
    if model.windowing != beside.windowing:
        return "the two releases cut their windows in different ways"
    if model.release.classes != beside.release.classes:
        return "the two releases have different classes"
    if model.windowing is None and _takes(model) != _takes(beside):
        return "the two releases take different inputs"
    return ""


def _takes(loaded: Loaded) -> dict[str, str]:
    return {tensor.name: tensor.dtype for tensor in loaded.runtime.inputs}


def answer_unheard(beside: Loaded, window: Array) -> Seen | Missed:
    """Run the model beside on a window; nobody hears its answer but the comparison."""
    started = perf_counter_ns()
    try:
        memory = beside.memory
        outputs = beside.runtime.infer(window) if memory is None else memory.flow(window)
    except InputRefusedError:
        return Missed.REFUSED
    except ModelError:
        return Missed.FAILED
    latency_us = (perf_counter_ns() - started) / 1000
    confidence, place = decide(outputs, beside.place)
    if not is_probability(confidence):
        return Missed.FAILED
    return latency_us, confidence, place
