"""The motion network as an ONNX graph, written node by node from trained weights.

Input ``window`` (1, 6, 128) float32 in raw units; outputs ``probabilities`` (1, 7) and
``embedding`` (1, 64). Normalisation is inside the graph. The head's initialisers are
called ``head.weight`` and ``head.bias``, so that a federated run finds them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

OPSET, IR_VERSION, CONVOLUTIONS = 17, 8, 3


def build_graph(arrays: Mapping[str, NDArray]) -> bytes:
    """Return the fp32 ONNX file of folded weights (see ``network.folded``)."""
    constants = {n: arrays[n] for n in ("mean", "inverse_deviation", "head.weight", "head.bias")}
    nodes = [
        helper.make_node("Sub", ["window", "mean"], ["centred"], name="centre"),
        helper.make_node("Mul", ["centred", "inverse_deviation"], ["normal"], name="normalise"),
    ]
    before = "normal"
    for i in range(CONVOLUTIONS):
        for part in ("weight", "bias"):
            constants[f"conv{i}.{part}"] = arrays[f"conv{i}.{part}"]
        nodes += [
            helper.make_node(
                "Conv",
                [before, f"conv{i}.weight", f"conv{i}.bias"],
                [f"conv{i}.out"],
                name=f"conv{i}",
                strides=[int(arrays[f"conv{i}.stride"][0])],
            ),
            helper.make_node("Relu", [f"conv{i}.out"], [f"relu{i}.out"], name=f"relu{i}"),
        ]
        before = f"relu{i}.out"
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["embedding"], name="flatten"),
        helper.make_node(
            "Gemm", ["embedding", "head.weight", "head.bias"], ["logits"], name="head", transB=1
        ),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1),
    ]
    classes, width = arrays["head.weight"].shape
    graph = helper.make_graph(
        nodes,
        "motion",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, 6, 128])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, classes]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, width]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fieldfare"
    )
    model.ir_version = IR_VERSION
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
