"""Writes TensorFlow Lite files operator by operator, without TensorFlow.

The format is the flatbuffer schema of TensorFlow Lite (schema version 3), whose generated
classes LiteRT ships. Activations are channels last: (batch, height, width, channels).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Operator = schema.BuiltinOperator
_VERSION, _IDENTIFIER, _LARGEST_OLD_CODE = 3, b"TFL3", 127
_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "string": schema.TensorType.STRING,
}


class TfliteGraph:
    """One graph under construction; every method returns the place of the tensor it made."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version = _VERSION
        self._model.description = "fieldfare"
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._model.signatureDefs = []
        self._graph = schema.SubGraphT()
        self._graph.name = "main"
        self._graph.tensors, self._graph.operators = [], []
        self._model.subgraphs = [self._graph]

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        signature: Sequence[int] | None = None,
        scale: float | Sequence[float] | None = None,
        zero_point: int = 0,
        axis: int = 0,
        variable: bool = False,
    ) -> int:
        """Add an activation; ``signature`` is its shape with -1 where it is free."""
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), _TYPES[dtype]
        made.shapeSignature = None if signature is None else list(signature)
        made.isVariable = variable
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = scales
            made.quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
            made.quantization.quantizedDimension = axis
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, values: NDArray[Any], **quantisation: Any) -> int:
        """Add a tensor with its values; further arguments as for ``tensor``."""
        place = self.tensor(name, values.shape, values.dtype.name, **quantisation)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        self._graph.tensors[place].buffer = len(self._model.buffers) - 1
        return place

    def operator(
        self,
        code: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: Any = None,
        *,
        version: int = 1,
        custom: str | None = None,
    ) -> int:
        """Add an operator and return its first output."""
        kind = schema.OperatorCodeT()
        kind.builtinCode, kind.version, kind.customCode = code, version, custom
        kind.deprecatedBuiltinCode = min(code, _LARGEST_OLD_CODE)
        self._model.operatorCodes.append(kind)
        made = schema.OperatorT()
        made.opcodeIndex = len(self._model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            made.builtinOptions = options
        self._graph.operators.append(made)
        return outputs[0]

    def signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Name inputs and outputs, as converters do."""
        made = schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = "serving_default", 0
        made.inputs = [_mapped(name, place) for name, place in inputs.items()]
        made.outputs = [_mapped(name, place) for name, place in outputs.items()]
        self._model.signatureDefs.append(made)

    def written(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Return the file."""
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())


def _mapped(name: str, place: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, place
    return made


def convolution(stride: int, *, relu: bool) -> Any:
    """Return the options of a CONV_2D over (n, 1, time, channels) without padding."""
    options = schema.Conv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH, options.strideW = 1, stride
    options.dilationHFactor = options.dilationWFactor = 1
    if relu:
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return options
