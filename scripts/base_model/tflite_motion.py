"""The motion network as a TensorFlow Lite graph, from the weights of its ONNX twin.

Input, outputs and their names are those of ``graph``; inside, channels stand last. An int8
twin keeps every scale and zero point, so that both compute with the same integers.
"""

from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import numpy_helper

from scripts.base_model.tflite_graph import Operator, TfliteGraph, convolution

Arrays = dict[str, NDArray[Any]]


def motion_tflite(twin: bytes) -> bytes:
    """Return the TensorFlow Lite file of the motion network's ONNX file, float or int8."""
    model = onnx.load_from_string(twin).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in model.initializer}
    strides = [
        attribute.ints[0]
        for node in model.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "strides"
    ]
    _, channels, samples = (d.dim_value for d in model.input[0].type.tensor_type.shape.dim)
    graph = TfliteGraph()
    window = graph.tensor("window", (1, channels, samples))
    x = _channels_last(graph, window, channels, samples)
    for name, code, options in (
        ("mean", Operator.SUB, schema.SubOptionsT()),
        ("inverse_deviation", Operator.MUL, schema.MulOptionsT()),
    ):
        by = graph.constant(name, arrays[name].reshape(1, 1, 1, channels))
        y = graph.tensor(f"{name}.out", (1, 1, samples, channels))
        x = graph.operator(code, [x, by], [y], options)
    if "normal_scale" in arrays:
        x = _quantise(graph, arrays, x, "normal", (1, 1, samples, channels))
        for place, stride in enumerate(strides):
            x, samples = _convolve_int8(graph, (x, samples), arrays, stride, place)
        out = (1, 1, samples, len(arrays[f"conv{len(strides) - 1}.bias_quantized"]))
        floats, above = graph.tensor("dequantised", out), graph.tensor("relu", out)
        graph.operator(Operator.DEQUANTIZE, [x], [floats], schema.DequantizeOptionsT())
        x = graph.operator(Operator.RELU, [floats], [above])
    else:
        for place, stride in enumerate(strides):
            x, samples = _convolve(graph, (x, samples), arrays, stride, place)
    width = arrays["head.weight"].shape[1]
    embedding = graph.tensor("embedding", (1, width))
    axes = graph.constant("axes", np.array([1, 2], np.int32))
    graph.operator(Operator.MEAN, [x, axes], [embedding], schema.ReducerOptionsT(), version=2)
    probabilities = _head(graph, embedding, arrays["head.weight"], arrays["head.bias"])
    graph.signature({"window": window}, {"probabilities": probabilities, "embedding": embedding})
    return graph.written([window], [probabilities, embedding])


def _channels_last(graph: TfliteGraph, window: int, channels: int, samples: int) -> int:
    turned = graph.tensor("turned", (1, samples, channels))
    order = graph.constant("order", np.array([0, 2, 1], np.int32))
    graph.operator(Operator.TRANSPOSE, [window, order], [turned], schema.TransposeOptionsT())
    shape = graph.constant("shape", np.array([1, 1, samples, channels], np.int32))
    y = graph.tensor("rows", (1, 1, samples, channels))
    return graph.operator(Operator.RESHAPE, [turned, shape], [y], schema.ReshapeOptionsT())


def _convolve(
    graph: TfliteGraph, x: tuple[int, int], arrays: Arrays, stride: int, place: int
) -> tuple[int, int]:
    """Add a convolution over time with its ReLU; return its output and how long that is."""
    before, samples = x
    weight = arrays[f"conv{place}.weight"]
    after = (samples - weight.shape[2]) // stride + 1
    y = graph.tensor(f"conv{place}.out", (1, 1, after, len(weight)))
    constants = [
        graph.constant(f"conv{place}.weight", _time_first(weight)),
        graph.constant(f"conv{place}.bias", arrays[f"conv{place}.bias"]),
    ]
    options = convolution(stride, relu=True)
    return graph.operator(Operator.CONV_2D, [before, *constants], [y], options), after


def _convolve_int8(
    graph: TfliteGraph, x: tuple[int, int], arrays: Arrays, stride: int, place: int
) -> tuple[int, int]:
    """Add a convolution of integers; what follows it quantises, which is its ReLU as well."""
    before, samples = x
    name = f"conv{place}"
    weight = arrays[f"{name}.weight_quantized"]
    after = (samples - weight.shape[2]) // stride + 1
    shape = (1, 1, after, len(weight))
    constants = [
        graph.constant(f"{name}.weight", _time_first(weight), scale=arrays[f"{name}.weight_scale"]),
        graph.constant(
            f"{name}.bias",
            arrays[f"{name}.bias_quantized"],
            scale=arrays[f"{name}.bias_quantized_scale"],
        ),
    ]
    y = _quantised_tensor(graph, arrays, f"{name}.out", shape)
    options = convolution(stride, relu=False)
    graph.operator(Operator.CONV_2D, [before, *constants], [y], options, version=3)
    if f"relu{place}.out_scale" in arrays:
        y = _quantise(graph, arrays, y, f"relu{place}.out", shape)
    return y, after


def _quantise(graph: TfliteGraph, arrays: Arrays, x: int, name: str, shape: tuple[int, ...]) -> int:
    y = _quantised_tensor(graph, arrays, name, shape)
    return graph.operator(Operator.QUANTIZE, [x], [y], schema.QuantizeOptionsT(), version=2)


def _quantised_tensor(graph: TfliteGraph, arrays: Arrays, name: str, shape: tuple[int, ...]) -> int:
    scale, zero_point = arrays[f"{name}_scale"], arrays[f"{name}_zero_point"]
    return graph.tensor(name, shape, "int8", scale=float(scale), zero_point=int(zero_point))


def _time_first(weight: NDArray[Any]) -> NDArray[Any]:
    """Return a weight (out, in, time) as (out, 1, time, in)."""
    return np.ascontiguousarray(weight.transpose(0, 2, 1)[:, np.newaxis])


def _head(graph: TfliteGraph, x: int, weight: NDArray[Any], bias: NDArray[Any]) -> int:
    logits = graph.tensor("logits", (1, len(bias)))
    constants = [graph.constant("head.weight", weight), graph.constant("head.bias", bias)]
    dense = schema.FullyConnectedOptionsT()
    graph.operator(Operator.FULLY_CONNECTED, [x, *constants], [logits], dense)
    probabilities = graph.tensor("probabilities", (1, len(bias)))
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return graph.operator(Operator.SOFTMAX, [logits], [probabilities], options)
