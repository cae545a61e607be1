"""The models of the inference bench, each as an ONNX and as a TensorFlow Lite file.

The two forms of a network have the same weights, drawn the same way every time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scripts.base_model.tflite_graph import Operator, TfliteGraph

WIDTHS, SIZE, CLASSES = (24, 48, 64, 96), 96, 10
"""Of the convolutional network: channels of its layers, image size, classes."""


def small_onnx() -> bytes:
    """Return a perceptron of a few µs: 16 numbers, 32 hidden units, 4 classes."""
    weights = _dense_weights()
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w1", "b1"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    return _onnx(nodes, (1, 16), 4, weights)


def small_tflite() -> bytes:
    """Return the same perceptron."""
    weights = _dense_weights()
    graph = TfliteGraph()
    x, last = graph.tensor("x", (1, 16)), graph.tensor("logits", (1, 4))
    hidden = graph.tensor("hidden", (1, 32))
    first = [graph.constant(name, weights[name]) for name in ("w0", "b0")]
    second = [graph.constant(name, weights[name]) for name in ("w1", "b1")]
    graph.operator(Operator.FULLY_CONNECTED, [x, *first], [hidden], _dense(relu=True))
    graph.operator(Operator.FULLY_CONNECTED, [hidden, *second], [last], _dense(relu=False))
    return _ended(graph, x, last, 4)


def large_onnx() -> bytes:
    """Return an image network of about a millisecond: (1, 3, 96, 96)."""
    nodes, weights, last = [], {}, "x"
    for number, kernel in enumerate(_kernels()):
        weights[f"w{number}"] = kernel
        pads = {"pads": [1, 1, 1, 1], "strides": [1 + (number > 0)] * 2}
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], **pads))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        last = f"r{number}"
    weights["w"] = _head()
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "w"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    return _onnx(nodes, (1, 3, SIZE, SIZE), CLASSES, weights)


def large_tflite() -> bytes:
    """Return the same image network, channels last: (1, 96, 96, 3).

    Where it halves an image of even size, TensorFlow Lite pads below and to the right only:
    the answers differ from those of the ONNX form, the work does not.
    """
    graph = TfliteGraph()
    x = last = graph.tensor("x", (1, SIZE, SIZE, 3))
    size = SIZE
    for number, kernel in enumerate(_kernels()):
        stride, width = 1 + (number > 0), len(kernel)
        size //= stride
        made = graph.tensor(f"r{number}", (1, size, size, width))
        weight = graph.constant(f"w{number}", kernel.transpose(0, 2, 3, 1))
        bias = graph.constant(f"b{number}", np.zeros(width, np.float32))
        graph.operator(Operator.CONV_2D, [last, weight, bias], [made], _convolution(stride))
        last = made
    embedding, logits = graph.tensor("embedding", (1, WIDTHS[-1])), graph.tensor("logits", (1, 10))
    axes = graph.constant("axes", np.array([1, 2], np.int32))
    graph.operator(Operator.MEAN, [last, axes], [embedding], schema.ReducerOptionsT())
    head = [graph.constant("w", _head()), graph.constant("b", np.zeros(CLASSES, np.float32))]
    graph.operator(Operator.FULLY_CONNECTED, [embedding, *head], [logits], _dense(relu=False))
    return _ended(graph, x, logits, CLASSES)


def _ended(graph: TfliteGraph, x: int, logits: int, classes: int) -> bytes:
    probabilities = graph.tensor("probabilities", (1, classes))
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    graph.operator(Operator.SOFTMAX, [logits], [probabilities], options)
    graph.signature({"x": x}, {"probabilities": probabilities})
    return graph.written([x], [probabilities])


def _dense(*, relu: bool) -> Any:
    options = schema.FullyConnectedOptionsT()
    if relu:
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return options


def _convolution(stride: int) -> Any:
    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.SAME
    options.strideH = options.strideW = stride
    options.dilationHFactor = options.dilationWFactor = 1
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return options


def _dense_weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    shapes = {"w0": (32, 16), "b0": (32,), "w1": (4, 32), "b1": (4,)}
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def _kernels() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(7)
    sizes = zip((3, *WIDTHS), WIDTHS, strict=False)
    return [rng.normal(0, 0.1, (after, before, 3, 3)).astype(np.float32) for before, after in sizes]


def _head() -> NDArray[np.float32]:
    return np.random.default_rng(8).normal(size=(CLASSES, WIDTHS[-1])).astype(np.float32)


def _onnx(
    nodes: Sequence[onnx.NodeProto],
    shape: tuple[int, ...],
    classes: int,
    weights: dict[str, NDArray[np.float32]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
