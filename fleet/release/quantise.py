"""Static int8 quantisation (QDQ) of an fp32 ONNX model; the trainable head stays float.

Used by the script that makes the base model; a release is quantised by whoever makes it.
Method: onnxruntime's static QDQ quantisation of the convolutions, signed 8-bit weights
per channel and activations by min-max calibration (opset 13 or newer, because per-channel
files below that are invalid).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.capi import onnxruntime_pybind11_state
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from fleet.errors import AdmissionError
from fleet.release.admit import admit_onnx

_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)


class _Windows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands the calibration inputs to onnxruntime one by one."""

    def __init__(self, name: str, inputs: Sequence[NDArray[np.float32]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = iter([{name: x} for x in inputs])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next feed, or None at the end."""
        return next(self._feeds, None)


def quantise_static(
    model: bytes,
    calibration: Sequence[NDArray[np.float32]],
    *,
    operators: Sequence[str] = ("Conv",),
) -> bytes:
    """Return the int8 version of an fp32 model.

    Args:
        model: fp32 ONNX bytes of opset 13 or newer with one float32 input.
        calibration: Inputs of the model's shape, typical for its use.
        operators: Operator types to quantise; all others, such as the head's Gemm, stay float.

    Raises:
        AdmissionError: The file cannot be quantised, or the result does not load and run.

    """
    admitted = admit_onnx(model)
    if len(admitted.inputs) != 1 or not calibration:
        raise AdmissionError(
            f"quantisation needs one input and calibration windows; the model has "
            f"{len(admitted.inputs)} inputs and there are {len(calibration)} windows"
        )
    name = admitted.inputs[0].name
    with tempfile.TemporaryDirectory(prefix="fieldfare-quantise-") as folder:
        given, ready, made = (Path(folder, n) for n in ("given.onnx", "ready.onnx", "made.onnx"))
        given.write_bytes(model)
        try:
            quant_pre_process(given, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                made,
                _Windows(name, calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(operators),
            )
            session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
            session.run(None, {name: calibration[0]})
        except _FAILURES as why:
            raise AdmissionError(f"the model cannot be quantised: {why}") from why
        return _without_unused_domains(made.read_bytes())


def _without_unused_domains(model: bytes) -> bytes:
    """Drop the operator sets that onnxruntime declares in every file that it writes."""
    proto = ModelProto.FromString(model)
    used = {node.domain for node in proto.graph.node}
    kept = [o for o in proto.opset_import if o.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content
