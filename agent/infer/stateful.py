"""Recurrent models: tensors that go back in where they came out, kept along each stream.

Rule 1: callers neither give nor get the tensors of states; they begin as zeros. A free first
        dimension of one counts the rows of the inputs, any other free dimension begins empty.
Rule 2: ``infer`` and ``infer_named`` begin afresh each time, as any ``Runtime`` answers equal
        inputs equally; what goes on is kept in a ``Memory``, one for each loaded model, so
        that a swap forgets everything and two models on probation do not share it.
Rule 3: a request that is refused or fails leaves the state as it was; a state that is no
        longer finite is forgotten, because it would poison every answer to come.
Rule 4: what is remembered is bounded: the stream that was silent for longest goes first.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Final

import numpy as np

from agent.contract.manifest import State, Tensor
from agent.errors import BrokenStateError, InputRefusedError, ModelError, WrongTensorsError
from agent.infer.requests import Stream
from agent.infer.runtime import Array, Runtime, require_names

MAX_STREAMS: Final = 1024
MAX_STATE_BYTES: Final = 64 * 1024 * 1024
IDLE_SECONDS: Final = 600.0
_LONGEST_ID: Final = 200

Kept = dict[str, Array]
"""State tensors by the name of the input they go into."""


class Stateful:
    """A runtime that answers without its tensors of states; see the rules above.

    Raises:
        WrongTensorsError: The model has no such tensors, or the two of a state differ.

    """

    def __init__(self, runtime: Runtime, states: Sequence[State]) -> None:
        self.runtime = runtime
        self.name, self.version = runtime.name, runtime.version
        ins = {tensor.name: tensor for tensor in runtime.inputs}
        outs = {tensor.name: tensor for tensor in runtime.outputs}
        why = why_no_states(runtime.inputs, runtime.outputs, states)
        if why:
            raise WrongTensorsError(why)
        self._back = {state.output: state.input for state in states}
        self._states = tuple(ins[state.input] for state in states)
        kept = set(self._back.values())
        self.inputs = tuple(tensor for name, tensor in ins.items() if name not in kept)
        self.outputs = tuple(tensor for name, tensor in outs.items() if name not in self._back)

    def infer(self, x: Array) -> tuple[Array, ...]:
        """Run a model of one input afresh."""
        return tuple(self.infer_named({self._only_input(): x}).values())

    def infer_one(self, x: Array, place: int) -> Array:
        """Run a model of one input afresh for one of its outputs."""
        return self.infer(x)[place]

    def infer_named(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any model afresh; inputs and outputs by name."""
        return self.step(inputs, None)[0]

    def step(self, inputs: Mapping[str, Array], kept: Kept | None) -> tuple[dict[str, Array], Kept]:
        """Run the model from a state, or afresh, and return its answers and the next state.

        Raises:
            InputRefusedError: An input is missing, unknown, or not acceptable.
            ModelError: The model failed, or its state is not finite any more.

        """
        require_names(self.inputs, inputs)
        before = self._begin(inputs) if kept is None else self._go_on(inputs, kept)
        answers = self.runtime.infer_named({**inputs, **before})
        after = {into: answers.pop(output) for output, into in self._back.items()}
        for name, state in after.items():
            if state.dtype.kind == "f" and not np.isfinite(state).all():
                raise BrokenStateError(f"the model's state {name!r} became infinite or NaN")
        return answers, after

    def one_stream(self) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Return a function that answers call after call as one stream from its beginning."""
        kept: Kept | None = None

        def answer(inputs: Mapping[str, Array]) -> dict[str, Array]:
            nonlocal kept
            answers, kept = self.step(inputs, kept)
            return answers

        return answer

    def flow(self, x: Array, kept: Kept | None) -> tuple[tuple[Array, ...], Kept]:
        """Run a model of one input from a state, and return its answers and the next state."""
        answers, after = self.step({self._only_input(): x}, kept)
        return tuple(answers.values()), after

    def close(self) -> None:
        """Give the memory back."""
        self.runtime.close()

    def _only_input(self) -> str:
        if len(self.inputs) != 1:
            raise ModelError(f"the model takes {len(self.inputs)} inputs: give them by name")
        return self.inputs[0].name

    def _go_on(self, inputs: Mapping[str, Array], kept: Kept) -> Kept:
        rows = self._rows(inputs)
        for tensor in self._states:
            held = kept[tensor.name]
            if tensor.shape[:1] == (-1,) and len(held) != rows:
                raise InputRefusedError(
                    f"the stream's state {tensor.name!r} is of {len(held)} rows, and {rows} "
                    "were given: start the stream anew"
                )
        return kept

    def _rows(self, inputs: Mapping[str, Array]) -> int:
        given = inputs[self.inputs[0].name]
        return len(given) if given.ndim else 1

    def _begin(self, inputs: Mapping[str, Array]) -> Kept:
        rows = self._rows(inputs)
        return {
            tensor.name: np.zeros(
                [
                    size if size >= 0 else rows if place == 0 else 0
                    for place, size in enumerate(tensor.shape)
                ],
                tensor.dtype,
            )
            for tensor in self._states
        }


class Memory:
    """The states of one loaded model: of the slot's own source, and of callers' streams.

    Belongs to one thread at a time, as its runtime does.
    """

    def __init__(self, model: Stateful, clock: Callable[[], float] = monotonic) -> None:
        self._model = model
        self._clock = clock
        self._own: Kept | None = None
        self._streams: OrderedDict[str, tuple[float, Kept]] = OrderedDict()
        self._bytes = 0

    @property
    def streams(self) -> int:
        """How many streams of callers are remembered."""
        return len(self._streams)

    def break_off(self) -> None:
        """Forget the state of the slot's own source: what comes next does not follow."""
        self._own = None

    def flow(self, x: Array) -> tuple[Array, ...]:
        """Answer the next input of the slot's own source."""
        kept, self._own = self._own, None
        try:
            answers, after = self._model.flow(x, kept)
        except BrokenStateError:
            raise
        except ModelError:
            self._own = kept
            raise
        self._own = _require_room(after, "the slot's own source")
        return answers

    def ask(
        self, inputs: Mapping[str, Array], stream: Stream | None
    ) -> tuple[dict[str, Array], bool]:
        """Answer a request, and say whether its state began with it."""
        if stream is None:
            return self._model.infer_named(inputs), True
        if len(stream.id) > _LONGEST_ID:
            raise InputRefusedError(
                f"the id of a stream has {len(stream.id)} characters; at most {_LONGEST_ID} may be"
            )
        self._forget_idle()
        known = self._streams.get(stream.id)
        kept = None if known is None or stream.starts else known[1]
        try:
            answers, after = self._model.step(inputs, kept)
        except BrokenStateError:
            self._forget(stream.id)
            raise
        self._forget(stream.id)
        if not stream.ends:
            self._remember(stream.id, after)
        return answers, kept is None

    def _remember(self, name: str, kept: Kept) -> None:
        size = _size(_require_room(kept, f"stream {name[:80]!r}"))
        while self._streams and (
            len(self._streams) >= MAX_STREAMS or self._bytes + size > MAX_STATE_BYTES
        ):
            self._forget(next(iter(self._streams)))
        self._streams[name] = (self._clock(), kept)
        self._bytes += size

    def _forget(self, name: str) -> None:
        gone = self._streams.pop(name, None)
        if gone is not None:
            self._bytes -= _size(gone[1])

    def _forget_idle(self) -> None:
        latest = self._clock() - IDLE_SECONDS
        while self._streams:
            name, (used, _) = next(iter(self._streams.items()))
            if used > latest:
                return
            self._forget(name)


def why_no_states(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], states: Sequence[State]
) -> str:
    """Return why these cannot be states of a model with such tensors; "" where they can."""
    ins = {tensor.name: tensor for tensor in inputs}
    outs = {tensor.name: tensor for tensor in outputs}
    for state in states:
        into, out = ins.get(state.input), outs.get(state.output)
        if into is None:
            return f"the model has no input {state.input!r}; it has {', '.join(ins)}"
        if out is None:
            return f"the model has no output {state.output!r}; it has {', '.join(outs)}"
        if into.dtype != out.dtype or not _may_be_one(into.shape, out.shape):
            return (
                f"state {into.name} is {into.dtype}{list(into.shape)} and comes back as "
                f"{out.name} {out.dtype}{list(out.shape)}: the two must be alike"
            )
        if into.dtype == "string":
            return f"state {into.name} is of texts, which do not begin as zeros"
    return ""


def _may_be_one(shape: Sequence[int], other: Sequence[int]) -> bool:
    return len(shape) == len(other) and all(
        a == b or -1 in (a, b) for a, b in zip(shape, other, strict=True)
    )


def _require_room(kept: Kept, whose: str) -> Kept:
    """Return a state that is not too large to be kept."""
    size = _size(kept)
    if size > MAX_STATE_BYTES:
        raise BrokenStateError(
            f"the state of {whose} has {size} bytes; at most {MAX_STATE_BYTES} are kept"
        )
    return kept


def _size(kept: Kept) -> int:
    return sum(array.nbytes for array in kept.values())
