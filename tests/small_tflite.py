"""Small TensorFlow Lite models, built in the test that needs them."""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from scripts.base_model.tflite_graph import Operator, TfliteGraph
from tests.small_models import SAMPLES


def negative(
    shape: Sequence[int] = (1,), *, dtype: str = "float32", signature: Sequence[int] | None = None
) -> bytes:
    """``y = -x``; of one float32 it is the probe's model."""
    graph = TfliteGraph()
    x = graph.tensor("x", shape, dtype, signature=signature)
    y = graph.tensor("y", shape, dtype, signature=signature)
    graph.operator(Operator.NEG, [x], [y], schema.NegOptionsT())
    return graph.written([x], [y])


def classifier(
    seed: int = 0, *, scale: float = 1.0, named: bool = True, embedding: bool = True
) -> bytes:
    """Return the twin of ``small_models.classifier``: the same weights, names and answers."""
    rng = np.random.default_rng(seed)
    body = rng.normal(size=(4, 3 * SAMPLES)).astype(np.float32)
    weight = (scale * rng.normal(size=(3, 4))).astype(np.float32)
    graph = TfliteGraph()
    x = graph.tensor("serving_default_x:0", (1, 3, SAMPLES))
    flat = graph.tensor("flat", (1, 3 * SAMPLES))
    middle = graph.tensor("PartitionedCall:0", (1, 4))
    logits = graph.tensor("logits", (1, 3))
    probabilities = graph.tensor("PartitionedCall:1", (1, 3))
    size = graph.constant("size", np.array([1, 3 * SAMPLES], np.int32))
    graph.operator(Operator.RESHAPE, [x, size], [flat], schema.ReshapeOptionsT())
    dense = schema.FullyConnectedOptionsT
    of_body = graph.constant("body", body)
    nothing = graph.constant("nothing", np.zeros(4, np.float32))
    graph.operator(Operator.FULLY_CONNECTED, [flat, of_body, nothing], [middle], dense())
    head = [graph.constant("head.weight", weight), graph.constant("zero", np.zeros(3, np.float32))]
    graph.operator(Operator.FULLY_CONNECTED, [middle, *head], [logits], dense())
    graph.operator(Operator.SOFTMAX, [logits], [probabilities], softmax())
    outputs = {"probabilities": probabilities} | ({"embedding": middle} if embedding else {})
    if named:
        graph.signature({"x": x}, outputs)
    return graph.written([x], list(outputs.values()))


STEP = 1 / 32
"""What one step of a quantised input stands for."""


def quantised(seed: int = 0) -> bytes:
    """``classifier`` with int8 weights, activations, input and probabilities."""
    rng = np.random.default_rng(seed)
    body = rng.normal(size=(4, 3 * SAMPLES)).astype(np.float32)
    weight = rng.normal(size=(3, 4)).astype(np.float32)
    graph = TfliteGraph()
    x = graph.tensor("x", (1, 3, SAMPLES), "int8", scale=STEP)
    flat = graph.tensor("flat", (1, 3 * SAMPLES), "int8", scale=STEP)
    size = graph.constant("size", np.array([1, 3 * SAMPLES], np.int32))
    graph.operator(Operator.RESHAPE, [x, size], [flat], schema.ReshapeOptionsT())
    embedding = _dense(graph, (flat, STEP), body, "embedding", 0.2)
    logits = _dense(graph, (embedding, 0.2), weight, "logits", 0.4)
    answer = graph.tensor("probabilities", (1, 3), "int8", scale=1 / 256, zero_point=-128)
    graph.operator(Operator.SOFTMAX, [logits], [answer], softmax())
    return graph.written([x], [answer])


def _dense(
    graph: TfliteGraph, x: tuple[int, float], weight: np.ndarray, name: str, step: float
) -> int:
    place, x_step = x
    weight_step = float(np.abs(weight).max()) / 127
    of_weight = graph.constant(
        f"{name}.weight", np.rint(weight / weight_step).astype(np.int8), scale=weight_step
    )
    bias = graph.constant(
        f"{name}.bias", np.zeros(len(weight), np.int32), scale=x_step * weight_step
    )
    y = graph.tensor(name, (1, len(weight)), "int8", scale=step)
    options = schema.FullyConnectedOptionsT()
    return graph.operator(
        Operator.FULLY_CONNECTED, [place, of_weight, bias], [y], options, version=4
    )


def adder() -> bytes:
    """Two inputs ``a`` and ``b`` int64 (2,), one output ``sum``."""
    graph = TfliteGraph()
    a, b, total = (graph.tensor(name, (2,), "int64") for name in ("a", "b", "sum"))
    graph.operator(Operator.ADD, [a, b], [total], schema.AddOptionsT(), version=4)
    return graph.written([a, b], [total])


def summing() -> bytes:
    """``y`` is ``x`` plus all that came before, kept by a recurrent layer within the file."""
    graph = TfliteGraph()
    x, y = graph.tensor("x", (1, 1)), graph.tensor("y", (1, 1))
    kept = graph.tensor("kept", (1, 1), variable=True)
    one = [graph.constant(name, np.ones((1, 1), np.float32)) for name in ("of x", "of kept")]
    bias = graph.constant("bias", np.zeros(1, np.float32))
    graph.operator(Operator.RNN, [x, *one, bias, kept], [y], schema.RNNOptionsT())
    return graph.written([x], [y])


def copies(names: Sequence[str]) -> bytes:
    """One input of each name, one output for each."""
    graph = TfliteGraph()
    ins = [graph.tensor(name, (1,)) for name in names]
    outs = [graph.tensor(f"out-{place}", (1,)) for place in range(len(names))]
    for x, y in zip(ins, outs, strict=True):
        graph.operator(Operator.NEG, [x], [y], schema.NegOptionsT())
    return graph.written(ins, outs)


def reshaped(dtype: str) -> bytes:
    """``y`` (4,) is ``x`` (2, 2)."""
    graph = TfliteGraph()
    x, y = graph.tensor("x", (2, 2), dtype), graph.tensor("y", (4,), dtype)
    size = graph.constant("size", np.array([4], np.int32))
    graph.operator(Operator.RESHAPE, [x, size], [y], schema.ReshapeOptionsT())
    return graph.written([x], [y])


def free_reshape() -> bytes:
    """``y`` (2, 2) is ``x`` of a free length, which had better be 4."""
    graph = TfliteGraph()
    x, y = graph.tensor("x", (4,), signature=(-1,)), graph.tensor("y", (2, 2))
    size = graph.constant("size", np.array([2, 2], np.int32))
    graph.operator(Operator.RESHAPE, [x, size], [y], schema.ReshapeOptionsT())
    return graph.written([x], [y])


def softmax() -> schema.SoftmaxOptionsT:
    """Return the options of a plain softmax."""
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return options


def crashing() -> bytes:
    """Right in shape and harmless to read, but it kills whoever loads it.

    ATAN2 leaves out its second input, which both libraries follow without a look.
    """
    graph = TfliteGraph()
    x, probabilities = graph.tensor("x", (1, 3, SAMPLES)), graph.tensor("probabilities", (1, 3))
    graph.operator(Operator.ATAN2, [x, -1], [probabilities])
    return graph.written([x], [probabilities])
