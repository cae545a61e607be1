"""The rounds bench's model as an ONNX file that Fieldfare publishes, with its description."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from scripts.bench.rounds_model import CHANNELS, CLASSES, SAMPLES

OPSET, IR_VERSION = 17, 8


def write(folder: Path, name: str, arrays: dict[str, NDArray[np.float32]]) -> Path:
    """Write ``name.npz``, ``name.onnx`` and its description; return the ONNX file."""
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.onnx").write_bytes(_graph(arrays))
    described = {
        "family": "motion",
        "slot": "motion",
        "windowing": {
            "channels": ["ax", "ay", "az", "wx", "wy", "wz"],
            "samples": SAMPLES,
            "hop": SAMPLES // 2,
            "rate_hz": 50.0,
        },
        "classes": [f"class-{number}" for number in range(CLASSES)],
        "probabilities": "probabilities",
    }
    (folder / f"{name}.json").write_text(json.dumps(described))
    return folder / f"{name}.onnx"


def _graph(arrays: dict[str, NDArray[np.float32]]) -> bytes:
    width, features = len(arrays["scale"]), arrays["body"].shape[1]
    chance = np.random.default_rng(6)
    held = {name: arrays[name] for name in ("body", "scale", "shift", "spread")}
    held["head.weight"] = chance.normal(0, 0.01, arrays["weight"].shape).astype(np.float32)
    held["head.bias"] = arrays["bias"]
    nodes = [
        helper.make_node("Flatten", ["window"], ["flat"]),
        helper.make_node("MatMul", ["flat", "body"], ["features"]),
        helper.make_node("Tile", ["features", "times"], ["wide"]),
        helper.make_node("Mul", ["wide", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["shifted"]),
        helper.make_node("Tanh", ["shifted"], ["bent"]),
        helper.make_node("Div", ["bent", "spread"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "head.weight", "head.bias"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in held.items()]
    constants.append(numpy_helper.from_array(np.array([1, width // features], np.int64), "times"))
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("window", TensorProto.FLOAT, [1, CHANNELS, SAMPLES])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, CLASSES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, width]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    checker.check_model(model)
    return bytes(model.SerializeToString())
