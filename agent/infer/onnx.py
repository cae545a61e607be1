"""ONNX models by ONNX Runtime; imported only when a model asks for it.

Rule 1: one thread that does not spin: spinning costs eight times the CPU at 20 Hz.
Rule 2: a model of one static input and static outputs runs on buffers bound once;
        anything else takes the generic path.
Rule 3: no exception of the library leaves this module; each becomes one sentence.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from agent.contract.manifest import Tensor
from agent.contract.messages import Hosted
from agent.errors import InputRefusedError, ModelError, RuntimeMissingError
from agent.infer.heap import trim
from agent.infer.probe_model import PROBE_MODEL
from agent.infer.runtime import (
    Array,
    finite_weights,
    not_finite,
    read_texts,
    require_input,
    require_named,
)

NAME: Final = "onnx"
CPU: Final = "CPUExecutionProvider"
NO_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType({})

PROBE_IR, PROBE_OPSET = 8, 13
_LAST_VARINT_OF_ONE_BYTE = 127

_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        failure
        for failure in vars(ort_state).values()
        if isinstance(failure, type) and issubclass(failure, Exception)
    ),
)
_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    **{name: name for name in ("bool", "string", "int8", "int16", "int32", "int64")},
    **{name: name for name in ("uint8", "uint16", "uint32", "uint64")},
}
_copy = np.ndarray.copy
_TYPE = re.compile(r"tensor\((\w+)\)")
_OPSET = re.compile(r"Opset (\d+) is under development.*is till opset (\d+)", re.DOTALL)


class OnnxRuntime:
    """A loaded ONNX model; see ``runtime.Runtime`` for what each method promises.

    Raises:
        ModelError: The file is missing, corrupt, of an unsupported opset, or has inputs or
            outputs that are no tensors.
        RuntimeMissingError: None of ``providers`` is in the installed build.

    """

    name = NAME

    def __init__(
        self,
        model: Path | bytes,
        providers: Sequence[str] = (CPU,),
        options: Mapping[str, Mapping[str, str]] = NO_OPTIONS,
    ) -> None:
        self.version: str = ort.__version__
        what = model.name[:16] if isinstance(model, Path) else "in memory"
        self._session: Any = _open_session(model, what, providers, options)
        self.inputs: tuple[Tensor, ...] = tuple(
            _describe(node, what) for node in self._session.get_inputs()
        )
        self.outputs: tuple[Tensor, ...] = tuple(
            _describe(node, what) for node in self._session.get_outputs()
        )
        bound = _Bound.bind(self._session, self.inputs, self.outputs)
        # an attribute and not a method, because a call more is half a percent
        self.infer: Callable[[Array], tuple[Array, ...]] = bound.infer if bound else self._infer
        self.infer_one: Callable[[Array, int], Array] = (
            bound.infer_one if bound else self._infer_one
        )
        self._bound = self.inputs[0].name if bound else None

    def _infer(self, x: Array) -> tuple[Array, ...]:
        if len(self.inputs) != 1:
            raise ModelError(f"the model takes {len(self.inputs)} inputs: give them by name")
        return tuple(self.infer_named({self.inputs[0].name: x}).values())

    def _infer_one(self, x: Array, place: int) -> Array:
        return self._infer(x)[place]

    def infer_named(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any model; inputs and outputs by name."""
        if self._bound is not None and len(inputs) == 1 and self._bound in inputs:
            said = self.infer(inputs[self._bound])
            return {tensor.name: x for tensor, x in zip(self.outputs, said, strict=True)}
        require_named(self.inputs, inputs)
        if self._session is None:
            raise ModelError("the model was closed")
        try:
            answers = self._session.run(None, self._feed(inputs))
        except _FAILURES as why:
            raise ModelError(f"the model failed: {_first_line(why)}") from why
        return {tensor.name: answer for tensor, answer in zip(self.outputs, answers, strict=True)}

    def _feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        texts = {t.name: read_texts(t, inputs[t.name]) for t in self.inputs if t.dtype == "string"}
        return {**inputs, **texts}

    def close(self) -> None:
        """Drop the session and give its arena back to the operating system."""
        self.infer, self.infer_one, self._bound = self._infer, self._infer_one, None
        self._session = None
        trim()


class _Bound:
    """One static input and static outputs, bound once to buffers of ours."""

    __slots__ = (
        "_answers",
        "_binding",
        "_dtype",
        "_flat",
        "_float",
        "_run",
        "_shape",
        "_tensor",
        "_weights",
        "_x",
    )

    def __init__(self, session: Any, tensor: Tensor, outputs: Sequence[Tensor]) -> None:
        self._tensor = tensor
        self._dtype = np.dtype(tensor.dtype)
        self._float = self._dtype.kind == "f"
        self._shape = tensor.shape
        self._x = np.zeros(tensor.shape, self._dtype)
        self._flat = self._x.reshape(-1)
        self._weights = finite_weights(tensor)
        self._answers = [np.zeros(o.shape, o.dtype) for o in outputs]
        binding = session.io_binding()
        binding.bind_input(tensor.name, "cpu", 0, self._dtype, self._shape, self._x.ctypes.data)
        for output, answer in zip(outputs, self._answers, strict=True):
            where = answer.ctypes.data
            binding.bind_output(output.name, "cpu", 0, answer.dtype, answer.shape, where)
        # the public method first asks on each call whether a GPU records graphs: 2 % here
        self._run: Any = session._sess.run_with_iobinding  # noqa: SLF001 -- stable since 1.2
        self._binding: Any = binding._iobinding  # noqa: SLF001 -- stable since 1.2

    @classmethod
    def bind(
        cls, session: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> "_Bound | None":
        """Return the bound form, or None where the model has no fixed shapes."""
        static = all(
            t.dtype != "string" and all(size > 0 for size in t.shape) for t in (*inputs, *outputs)
        )
        if len(inputs) != 1 or not static or session.get_providers() != [CPU]:
            return None
        return cls(session, inputs[0], outputs)

    def infer(self, x: Array) -> tuple[Array, ...]:
        self.run(x)
        return tuple(map(_copy, self._answers))

    def infer_one(self, x: Array, place: int) -> Array:
        self.run(x)
        return self._answers[place]

    def run(self, x: Array) -> None:
        buffer = self._x
        if x.shape != self._shape or x.dtype != self._dtype:
            require_input(self._tensor, x)
        buffer[...] = x
        if self._weights is not None:
            if not isfinite(self._flat.dot(self._weights)):
                raise not_finite(self._tensor)
        elif self._float and not np.isfinite(buffer).all():
            raise not_finite(self._tensor)
        try:
            self._run(self._binding, None)
        except _FAILURES as why:
            raise ModelError(f"the model failed: {_first_line(why)}") from why


def probe() -> Hosted:
    """Make one real inference, and find out by trying which models the installed build loads.

    Raises:
        RuntimeMissingError: The installed build does not work on this machine.
        ModelError: It does not run the model.

    """
    runtime = OnnxRuntime(PROBE_MODEL)
    answer = runtime.infer_named({"x": np.ones(1, np.float32)})["y"]
    runtime.close()
    if answer.tolist() != [-1.0]:
        raise RuntimeMissingError(f"onnxruntime {ort.__version__} computes wrongly here")
    return Hosted(
        name=NAME,
        version=str(ort.__version__),
        library="onnxruntime",
        ir=_highest(PROBE_IR, lambda number: _loads(ir=number)),
        opset=_highest(PROBE_OPSET, lambda number: _loads(opset=number)),
        providers=tuple(ort.get_available_providers()),
    )


def _highest(known: int, loads: Callable[[int], bool]) -> int:
    """Return the last of the consecutive numbers above ``known`` that loads."""
    number = known
    while number < _LAST_VARINT_OF_ONE_BYTE and loads(number + 1):
        number += 1
    return number


def _loads(*, ir: int = PROBE_IR, opset: int = PROBE_OPSET) -> bool:
    # ModelProto.ir_version is the second byte, the version of the one operator set the last
    model = PROBE_MODEL[:1] + bytes([ir]) + PROBE_MODEL[2:-1] + bytes([opset])
    try:
        _open_session(model, "of the probe", (CPU,))
    except ModelError:
        return False
    return True


def _open_session(
    model: Path | bytes,
    what: str,
    providers: Sequence[str],
    chosen: Mapping[str, Mapping[str, str]] = NO_OPTIONS,
) -> Any:
    available = [p for p in providers if p in ort.get_available_providers()]
    if not available:
        raise RuntimeMissingError(
            f"model {what} wants {', '.join(providers)}; this onnxruntime has "
            f"{', '.join(ort.get_available_providers())}"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"model {what} is not on this disk")
    try:
        source = str(model) if isinstance(model, Path) else model
        wanted = [(provider, dict(chosen.get(provider, {}))) for provider in available]
        return ort.InferenceSession(source, options, providers=wanted)
    except _FAILURES as why:
        raise ModelError(f"model {what} {_explain(why)}") from why


def _explain(why: Exception) -> str:
    opset = _OPSET.search(str(why))
    if opset:
        return f"is of opset {opset[1]}; onnxruntime {ort.__version__} knows up to {opset[2]}"
    if isinstance(why, ort_state.InvalidProtobuf | ort_state.InvalidArgument):
        return "is not an ONNX file, or a damaged one"
    return f"cannot be loaded by onnxruntime {ort.__version__}: {_first_line(why)}"


def _first_line(why: Exception) -> str:
    text = str(why).strip() or type(why).__name__
    return text.splitlines()[0].removeprefix("[ONNXRuntimeError] : ")[:300]


def _describe(node: Any, what: str) -> Tensor:
    match = _TYPE.fullmatch(node.type)
    if match is None or match[1] not in _DTYPES:
        raise ModelError(
            f"model {what} has {node.name!r} of type {node.type}: only tensors of numbers or "
            "texts are run"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return Tensor(name=node.name, dtype=_DTYPES[match[1]], shape=shape)


__all__ = ["CPU", "NAME", "PROBE_MODEL", "InputRefusedError", "OnnxRuntime", "probe"]
