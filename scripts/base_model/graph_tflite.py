"""The motion network as a TensorFlow Lite file, from the weights in its float ONNX file.

Names, shapes and answers are those of ``graph.build_graph``; inside, channels come last and
time is the width of an image of height 1.
"""

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from graph import CONVOLUTIONS
from numpy.typing import NDArray
from onnx import numpy_helper
from tflite_graph import Operator, TfliteGraph, convolution

TIME, HEIGHT_AND_TIME = 2, np.array([1, 2], np.int32)


def build_tflite(full: bytes) -> bytes:
    """Return the float32 TensorFlow Lite form of the float32 ONNX file ``full``."""
    model = onnx.load_from_string(full)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    strides = {
        node.name: onnx.helper.get_node_attr_value(node, "strides")[0]
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    graph = TfliteGraph()
    (window,) = model.graph.input
    channels, length = (d.dim_value for d in window.type.tensor_type.shape.dim[1:])
    place = graph.tensor("window", (1, channels, length))
    inputs = {"window": place}
    place = _last_channels(graph, place, channels, length)
    for name, code, options in (
        ("mean", Operator.SUB, schema.SubOptionsT()),
        ("inverse_deviation", Operator.MUL, schema.MulOptionsT()),
    ):
        constant = graph.constant(name, arrays[name].reshape(1, 1, 1, channels))
        made = graph.tensor(f"{name}.out", (1, 1, length, channels))
        place = graph.operator(code, [place, constant], [made], options)
    for number in range(CONVOLUTIONS):
        name = f"conv{number}"
        weight, stride = arrays[f"{name}.weight"], strides[name]
        length = (length - weight.shape[TIME]) // stride + 1
        made = graph.tensor(f"{name}.out", (1, 1, length, len(weight)))
        parts = [
            graph.constant(f"{name}.weight", weight.transpose(0, 2, 1)[:, np.newaxis]),
            graph.constant(f"{name}.bias", arrays[f"{name}.bias"]),
        ]
        options = convolution(stride, relu=True)
        place = graph.operator(Operator.CONV_2D, [place, *parts], [made], options)
    outputs = _head(graph, place, arrays["head.weight"], arrays["head.bias"])
    graph.signature(inputs, outputs)
    return graph.written(list(inputs.values()), list(outputs.values()))


def _last_channels(graph: TfliteGraph, window: int, channels: int, length: int) -> int:
    order = graph.constant("order", np.array([0, 2, 1], np.int32))
    turned = graph.tensor("turned", (1, length, channels))
    graph.operator(Operator.TRANSPOSE, [window, order], [turned], schema.TransposeOptionsT())
    shape = graph.constant("shape", np.array([1, 1, length, channels], np.int32))
    image = graph.tensor("image", (1, 1, length, channels))
    return graph.operator(Operator.RESHAPE, [turned, shape], [image], schema.ReshapeOptionsT())


def _head(
    graph: TfliteGraph, place: int, weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> dict[str, int]:
    classes, width = weight.shape
    embedding, logits, probabilities = (
        graph.tensor(name, (1, size))
        for name, size in (("embedding", width), ("logits", classes), ("probabilities", classes))
    )
    axes = graph.constant("axes", HEIGHT_AND_TIME)
    graph.operator(Operator.MEAN, [place, axes], [embedding], schema.ReducerOptionsT())
    parts = [graph.constant("head.weight", weight), graph.constant("head.bias", bias)]
    dense = schema.FullyConnectedOptionsT()
    graph.operator(Operator.FULLY_CONNECTED, [embedding, *parts], [logits], dense)
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    graph.operator(Operator.SOFTMAX, [logits], [probabilities], softmax)
    return {"probabilities": probabilities, "embedding": embedding}
