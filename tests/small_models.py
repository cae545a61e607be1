"""Small ONNX models and their manifests, built in the test that needs them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from agent.contract.manifest import (
    Head,
    Release,
    Tensor,
    Variant,
    Windowing,
    describe_artifact,
    encode_release,
)

CHANNELS = ("ax", "ay", "az")
CLASSES = ("still", "walk", "run")
SAMPLES = 8


def classifier(
    seed: int = 0,
    *,
    shape: Sequence[int | str] = (1, 3, SAMPLES),
    opset: int = 17,
    scale: float = 1.0,
    nan: bool = False,
) -> bytes:
    """Flatten -> embedding (1, 4) -> head (3, 4) -> probabilities (1, 3)."""
    rng = np.random.default_rng(seed)
    body = rng.normal(size=(4, 3 * SAMPLES)).astype(np.float32)
    weight = (scale * rng.normal(size=(3, 4))).astype(np.float32)
    bias = np.full(3, np.nan if nan else 0.0, np.float32)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "body"], ["embedding"], transB=1),
        helper.make_node("Gemm", ["embedding", "head.weight", "head.bias"], ["l"], transB=1),
        helper.make_node("Softmax", ["l"], ["probabilities"]),
    ]
    rows = shape[0]
    return _model(
        nodes,
        [("x", TensorProto.FLOAT, shape)],
        [
            ("probabilities", TensorProto.FLOAT, (rows, 3)),
            ("embedding", TensorProto.FLOAT, (rows, 4)),
        ],
        {"body": body, "head.weight": weight, "head.bias": bias},
        opset,
    )


def adder() -> bytes:
    """Two inputs ``a`` float32 (2,) and ``b`` int64 (2,), one output ``sum`` float32 (2,)."""
    nodes = [
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a", "c"], ["sum"]),
    ]
    inputs = [("a", TensorProto.FLOAT, (2,)), ("b", TensorProto.INT64, (2,))]
    return _model(nodes, inputs, [("sum", TensorProto.FLOAT, (2,))], {}, 17)


def echo(
    dtype: int = TensorProto.FLOAT, shape: Sequence[int | str] = (1, 3), op: str = "Identity"
) -> bytes:
    """One input ``x`` and an output ``y`` equal to it; ``NonZero`` answers as it likes."""
    out, answer = (dtype, shape) if op == "Identity" else (TensorProto.INT64, (len(shape), "n"))
    node = helper.make_node(op, ["x"], ["y"])
    return _model([node], [("x", dtype, shape)], [("y", out, answer)], {}, 17)


def recurrent(*, rows: int | str = 1, width: int = 2, dtype: int = TensorProto.FLOAT) -> bytes:
    """Sums its inputs: ``sum = h_out = h_in + x``, all of shape (rows, width)."""
    nodes = [
        helper.make_node("Add", ["x", "h_in"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["sum"]),
    ]
    shape = (rows, width)
    return _model(
        nodes,
        [(name, dtype, shape) for name in ("x", "h_in")],
        [(name, dtype, shape) for name in ("sum", "h_out")],
        {},
        17,
    )


def negative() -> bytes:
    """``y = -x`` for one float32: the probe's model."""
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made.SerializeToString())


def failing() -> bytes:
    """Right in shape, but every inference fails: it gathers a row that is not there."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("ReduceSum", ["flat"], ["total"], keepdims=0),
        helper.make_node("Cast", ["total"], ["row"], to=TensorProto.INT64),
        helper.make_node("Add", ["row", "far"], ["beyond"]),
        helper.make_node("Gather", ["table", "beyond"], ["picked"], axis=0),
        helper.make_node("Reshape", ["picked", "one"], ["probabilities"]),
    ]
    weights = {
        "table": np.zeros((2, 3), np.float32),
        "far": np.array(1000, np.int64),
        "one": np.array([1, 3], np.int64),
    }
    outputs = [("probabilities", TensorProto.FLOAT, (1, 3))]
    return _model(nodes, [("x", TensorProto.FLOAT, (1, 3, SAMPLES))], outputs, weights, 17)


def hungry() -> bytes:
    """Right in shape, but each inference fills a tensor of 40 GB."""
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("ReduceSum", ["flat"], ["total"], keepdims=0),
        helper.make_node("Add", ["total", "nothing"], ["sum"]),
        helper.make_node("Mul", ["three", "sum"], ["probabilities"]),
        helper.make_node("Mul", ["four", "sum"], ["embedding"]),
    ]
    outputs = [
        ("probabilities", TensorProto.FLOAT, (1, 3)),
        ("embedding", TensorProto.FLOAT, (1, 4)),
    ]
    weights = {
        "many": np.array([10**10], np.int64),
        "three": np.ones((1, 3), np.float32),
        "four": np.ones((1, 4), np.float32),
    }
    return _model(nodes, [("x", TensorProto.FLOAT, (1, 3, SAMPLES))], outputs, weights, 17)


def release_of(
    model: bytes, *, version: str = "1", classes: Sequence[str] = CLASSES, hop: int = 4
) -> Release:
    """Return the manifest of a ``classifier``."""
    artifact = describe_artifact(model)
    return Release(
        target=f"models/motion/{version}.json",
        family="motion",
        version=f"{version}",
        slot="motion",
        counter=1,
        created_ms=0,
        variants=(
            Variant(
                name="cpu-int8",
                runtime="onnx",
                model=artifact,
                inputs=(Tensor(name="x", dtype="float32", shape=(1, 3, SAMPLES)),),
                outputs=(
                    Tensor(name="probabilities", dtype="float32", shape=(1, 3)),
                    Tensor(name="embedding", dtype="float32", shape=(1, 4)),
                ),
            ),
        ),
        golden=artifact,
        windowing=Windowing(channels=CHANNELS, samples=SAMPLES, hop=hop, rate_hz=50.0),
        classes=tuple(classes),
        probabilities="probabilities",
        head=Head(embedding="embedding", weight="head.weight", bias="head.bias", width=4),
    )


def digest_of(release: Release) -> str:
    """Return the digest of a manifest."""
    return encode_release(release)[1]


def write_model(folder: Path, model: bytes, name: str = "model.onnx") -> Path:
    """Write a model where a runtime can load it."""
    path = folder / name
    path.write_bytes(model)
    return path


def _model(nodes, inputs, outputs, weights, opset) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info(*entry) for entry in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(made.SerializeToString())
