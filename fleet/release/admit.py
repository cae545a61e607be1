"""What may become a release: checks of the file's format, without running it.

Rule 1: nothing of the file is executed here; golden vectors run it afterwards.
Rule 2: each refusal is one sentence that names what was found and what is allowed.
"""

import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from agent.contract.limits import MAX_TENSOR_ELEMENTS
from agent.contract.manifest import Tensor
from agent.errors import ModelError, RuntimeMissingError
from agent.infer.onnx_file import DOMAINS, MAGIC, MAX_DEPTH, MAX_NODES
from agent.infer.runtime import DTYPES
from agent.infer.tflite_file import IDENTIFIER, examine_content, holds_small_integers
from agent.infer.variants import open_model
from fleet.errors import AdmissionError

MAX_MODEL_BYTES = 512 * 1024 * 1024
OPSETS = range(13, 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A model file that passed, with what its manifest will say.

    Attributes:
        content: The bytes as they were given.
        runtime: As in ``manifest.Variant.runtime``.
        opset: Version of the default operator set; 0 where there is no such thing.
        inputs, outputs: In the file's order; free dimensions are -1.
        initialisers: float32 initialisers by name, with their shapes.
        quantised: Whether QuantizeLinear nodes are in it.

    """

    content: bytes
    runtime: str = "onnx"
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    initialisers: dict[str, tuple[int, ...]]
    quantised: bool


def runtime_of(content: bytes, file: str = "") -> str:
    """Return the runtime that a model file is for, by its name or else its first bytes."""
    is_tflite = Path(file).suffix in {".tflite", ".lite"} or content[4:8] == IDENTIFIER
    return "tflite" if is_tflite else "onnx"


def admit(content: bytes, *, name: str = "the model") -> Admitted:
    """Check the bytes of a model file; ``name`` is how it is called, and tells its kind.

    Raises:
        AdmissionError: With the sentence.

    """
    if runtime_of(content, name) == "tflite":
        return admit_tflite(content, name=name)
    return admit_onnx(content, name=name)


def admit_tflite(content: bytes, *, name: str = "the model") -> Admitted:
    """Check the bytes of a TensorFlow Lite file, and load it to see what it takes.

    Raises:
        AdmissionError: With the sentence; ``name`` is how the file is called in it.

    """
    examine_tflite(content, name=name)
    with tempfile.TemporaryDirectory(prefix="fieldfare-admit-") as folder:
        path = Path(folder, "model")
        path.write_bytes(content)
        try:
            runtime = open_model("tflite", path, ())
        except (ModelError, RuntimeMissingError) as why:
            raise AdmissionError(f"{name} cannot be loaded here: {why}") from why
        inputs, outputs = runtime.inputs, runtime.outputs
        runtime.close()
    return Admitted(
        content=content,
        runtime="tflite",
        opset=0,
        inputs=inputs,
        outputs=outputs,
        initialisers={},
        quantised=holds_small_integers(memoryview(content)),
    )


def examine_tflite(content: bytes, *, name: str) -> None:
    """Check the bytes of a TensorFlow Lite file, and load nothing.

    Raises:
        AdmissionError: With the sentence.

    """
    _require_size(content, name)
    try:
        examine_content(memoryview(content), name)
    except ModelError as why:
        raise AdmissionError(str(why)) from why


def admit_onnx(content: bytes, *, name: str = "the model") -> Admitted:
    """Check the bytes of an ONNX file.

    Raises:
        AdmissionError: With the sentence; ``name`` is how the file is called in it.

    """
    model = _parse(content, name)
    opset = _check_operator_sets(model, name)
    graph = model.graph
    _check_graph(graph, name, depth=0)
    if len({i.name for i in graph.initializer}) != len(graph.initializer):
        raise AdmissionError(f"{name} has two initialisers of one name")
    constant = {i.name for i in graph.initializer}
    inputs = tuple(_tensor(v, name) for v in graph.input if v.name not in constant)
    outputs = tuple(_tensor(v, name) for v in graph.output)
    if not inputs or not outputs:
        raise AdmissionError(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs; it needs one of each"
        )
    return Admitted(
        content=content,
        opset=opset,
        inputs=inputs,
        outputs=outputs,
        initialisers={
            i.name: tuple(i.dims) for i in graph.initializer if i.data_type == TensorProto.FLOAT
        },
        quantised=any(n.op_type == "QuantizeLinear" for n in graph.node),
    )


def _require_size(content: bytes, name: str) -> None:
    if not content:
        raise AdmissionError(f"{name} is empty")
    if len(content) > MAX_MODEL_BYTES:
        raise AdmissionError(f"{name} has {len(content)} bytes; at most {MAX_MODEL_BYTES} may be")


def _parse(content: bytes, name: str) -> ModelProto:
    _require_size(content, name)
    for magic, (_, what) in MAGIC.items():
        if content.startswith(magic):
            raise AdmissionError(f"{name} is {what}, not an ONNX file")
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as why:
        raise AdmissionError(f"{name} is not an ONNX file, or it is cut short") from why
    if not model.ir_version or not model.graph.node:
        raise AdmissionError(f"{name} parses but holds no ONNX graph; it may be cut short")
    return model


def _check_operator_sets(model: ModelProto, name: str) -> int:
    opsets = {o.domain: o.version for o in model.opset_import}
    opset = int(opsets.get("", opsets.get("ai.onnx", 0)))
    if opset not in OPSETS:
        raise AdmissionError(
            f"{name} uses opset {opset}; devices run {OPSETS.start} to {OPSETS.stop - 1}: "
            "export it again with one of those"
        )
    if model.functions:
        raise AdmissionError(f"{name} defines functions of its own; export it without them")
    return opset


def _check_graph(graph: GraphProto, name: str, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise AdmissionError(f"{name} nests graphs deeper than {MAX_DEPTH}")
    if len(graph.node) > MAX_NODES:
        raise AdmissionError(f"{name} has {len(graph.node)} nodes; at most {MAX_NODES} may be")
    if graph.sparse_initializer:
        raise AdmissionError(f"{name} holds sparse tensors, which devices do not take")
    for tensor in graph.initializer:
        _check_tensor(tensor, name)
    for node in graph.node:
        if node.domain not in DOMAINS:
            raise AdmissionError(f"{name} uses operator {node.domain}.{node.op_type}")
        for attribute in node.attribute:
            _check_attribute(attribute, name, depth=depth)


def _check_attribute(attribute: AttributeProto, name: str, *, depth: int) -> None:
    if attribute.HasField("t"):
        _check_tensor(attribute.t, name)
    for tensor in attribute.tensors:
        _check_tensor(tensor, name)
    if attribute.HasField("g"):
        _check_graph(attribute.g, name, depth=depth + 1)
    for graph in attribute.graphs:
        _check_graph(graph, name, depth=depth + 1)


def _check_tensor(tensor: TensorProto, name: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise AdmissionError(
            f"{name} keeps tensor {tensor.name!r} in another file; save it with its data inside"
        )
    if any(d < 0 for d in tensor.dims) or prod(tensor.dims) > MAX_TENSOR_ELEMENTS:
        raise AdmissionError(
            f"{name} has tensor {tensor.name!r} of {prod(tensor.dims)} elements; "
            f"at most {MAX_TENSOR_ELEMENTS} may be"
        )


def _dtype(number: int) -> str:
    if number == TensorProto.STRING:
        return "string"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(number).name)
    except KeyError:
        return f"number {number}"


def _tensor(value: ValueInfoProto, name: str) -> Tensor:
    kind = value.type.tensor_type
    if value.type.HasField("sequence_type") or value.type.HasField("map_type"):
        raise AdmissionError(
            f"{name}: {value.name!r} is not a tensor but a list or a map: export "
            "the model with tensors only (skl2onnx: options={'zipmap': False})"
        )
    if not value.type.HasField("tensor_type") or not kind.elem_type:
        raise AdmissionError(f"{name}: {value.name!r} is not a tensor")
    dtype = _dtype(kind.elem_type)
    if dtype not in DTYPES:
        raise AdmissionError(
            f"{name}: {value.name!r} has elements of type {dtype}; devices know "
            f"{', '.join(sorted(DTYPES))}"
        )
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    if any(d < -1 or d > MAX_TENSOR_ELEMENTS for d in shape):
        raise AdmissionError(f"{name}: {value.name!r} has the impossible shape {shape}")
    return Tensor(name=value.name, dtype=dtype, shape=shape)
