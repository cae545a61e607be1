"""One request to one loaded model: checked, run, and read row by row.

Rule 1: a request whose model takes a free first dimension is a batch, and each row of it an
        answer of its own, with the latency of the whole call.
Rule 2: nothing is counted here; whoever asked counts.
"""

from time import perf_counter_ns
from typing import assert_never

import numpy as np
from msgspec import Struct

from agent.errors import InputRefusedError, ModelError
from agent.infer.comparison import Missed, Seen
from agent.infer.loaded import NO_CLASS, Answer, Loaded, is_probability
from agent.infer.requests import Request, Response, prediction_id
from agent.infer.runtime import Array

_MATRIX = 2


class Said(Struct, frozen=True, kw_only=True, gc=False):
    """What a model answered to a request.

    Attributes:
        outputs: All of them, by name, in the model's order.
        rows: Confidence and place of the class for every row; of a model without classes
            0 and ``NO_CLASS``.
        latency_us: Of the inference alone.
        began: As in ``Response``.

    """

    outputs: dict[str, Array]
    rows: tuple[tuple[float, int], ...]
    latency_us: float
    began: bool = False

    def answer(self, response: Response, model: Loaded, request: Request, number: int) -> Answer:
        """Return it as sinks hear it."""
        outputs = tuple(self.outputs.values())
        known = model.place != NO_CLASS
        return Answer(
            id=response.id,
            window=number,
            release=response.release,
            label=response.label,
            confidence=response.confidence,
            probabilities=outputs[model.place].reshape(-1) if known else np.zeros(0, np.float32),
            outputs=outputs,
            latency_us=self.latency_us,
            given=request.inputs,
        )


def ask(model: Loaded, request: Request) -> Said:
    """Run a model on a request.

    Raises:
        InputRefusedError: The inputs do not fit, or an output is asked for that is not there.
        ModelError: The model failed, or its probabilities are none.

    """
    known = [tensor.name for tensor in model.runtime.outputs]
    for name in request.outputs:
        if name not in known:
            raise InputRefusedError(
                f"there is no output {name[:80]!r}; the model has {', '.join(known)}"
            )
    started = perf_counter_ns()
    if model.memory is None:
        outputs, began = model.runtime.infer_named(request.inputs), False
    else:
        outputs, began = model.memory.ask(request.inputs, request.stream)
    latency_us = (perf_counter_ns() - started) / 1000
    rows = _read_rows(model, request, tuple(outputs.values()))
    for confidence, _ in rows:
        if not is_probability(confidence):
            raise ModelError(f"the model answers with a probability of {confidence:g}")
    return Said(outputs=outputs, rows=rows, latency_us=latency_us, began=began)


def try_to_ask(model: Loaded, request: Request) -> Said | ModelError:
    """Return what ``ask`` returns, or the reason why it did not."""
    try:
        return ask(model, request)
    except ModelError as why:
        return why


def seen_rows(said: Said | ModelError) -> list[Seen | Missed]:
    """Return what a comparison takes: each row, or once why there is none."""
    match said:
        case Said():
            return [(said.latency_us, confidence, place) for confidence, place in said.rows]
        case InputRefusedError():
            return [Missed.REFUSED]
        case ModelError():
            return [Missed.FAILED]
        case _:
            assert_never(said)


def name_classes(slot: str, model: Loaded, request: Request, said: Said) -> Response:
    """Return the response to a request, with the outputs that it asked for."""
    classes = model.release.classes
    places = [(confidence, place) for confidence, place in said.rows if place != NO_CLASS]
    labels = tuple(classes[place] if place < len(classes) else "" for _, place in places)
    confidences = tuple(min(confidence, 1.0) for confidence, _ in places)
    wanted = request.outputs
    return Response(
        id=prediction_id(),
        slot=slot,
        release=model.digest,
        version=model.release.version,
        outputs={n: a for n, a in said.outputs.items() if not wanted or n in wanted},
        label=labels[0] if labels else "",
        confidence=confidences[0] if confidences else 0.0,
        labels=labels,
        confidences=confidences,
        latency_us=said.latency_us,
        began=said.began,
    )


def _read_rows(
    model: Loaded, request: Request, outputs: tuple[Array, ...]
) -> tuple[tuple[float, int], ...]:
    if model.place == NO_CLASS:
        return ((0.0, NO_CLASS),) * _count_rows(model, request)
    answer = outputs[model.place]
    if not answer.size:
        return ()
    if answer.ndim != _MATRIX or len(answer) == 1:  # by far the usual case
        place = int(answer.argmax())  # numpy lets a NaN win
        return ((answer.item(place), place),)
    places = answer.argmax(axis=1)
    return tuple(zip(answer[np.arange(len(answer)), places].tolist(), places.tolist(), strict=True))


def _count_rows(model: Loaded, request: Request) -> int:
    free = all(tensor.shape[:1] == (-1,) for tensor in model.runtime.inputs)
    return len(request.inputs[model.runtime.inputs[0].name]) if free else 1
