"""TensorFlow Lite models by LiteRT or by tflite-runtime; imported only when a model asks.

Both libraries have the same ``Interpreter``, so one adapter serves both.

Rule 1: one thread.
Rule 2: no view of the interpreter's memory is ever made: it moves whenever tensors are
        allocated anew. What goes in and comes out is copied by the library.
Rule 3: inputs and outputs are called as in the file's signature, else by their tensor names;
        a quantised tensor is float32 to the outside (see ``quantised``), and takes its raw
        integers as well.
Rule 4: no exception of the library leaves this module; each becomes one sentence.
"""

import importlib
import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from agent.contract.manifest import Tensor
from agent.contract.messages import Hosted
from agent.errors import ModelError, RuntimeMissingError
from agent.infer.arithmetic import kept_arithmetic
from agent.infer.heap import trim
from agent.infer.quantised import DTYPES, Quantised
from agent.infer.runtime import (
    Array,
    finite_weights,
    not_finite,
    read_texts,
    require_input,
    require_names,
)

NAME: Final = "tflite"
LIBRARIES: Final = {
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
}
"""Packages as they are installed and as they are imported, the preferred one first."""

PROBE_MODEL: Final = b64decode(
    "HAAAAFRGTDMUABwAGAAUABAADAAIAAAAAAAEABQAAAAYAAAAGAAAACAAAAAsAAAACAEAAAMAAAAAAAAAAQAA"
    "AAQAAACE////CQAAAGZpZWxkZmFyZQAAAAEAAAAUAAAAAAAOABgAFAAQAAwACAAEAA4AAAAUAAAAHAAAAFwA"
    "AABgAAAAZAAAAAQAAABtYWluAAAAAAEAAAAUAAAAAAAOABQAAAAQAAwACwAEAA4AAAAUAAAAAAAAKhAAAAAU"
    "AAAABAAEAAQAAAABAAAAAQAAAAEAAAAAAAAAAQAAAAEAAAABAAAAAAAAAAIAAAAwAAAABAAAAOT///8IAAAA"
    "DAAAAAEAAAB5AAAAAQAAAAEAAAAMAAwACAAAAAAABAAMAAAACAAAAAwAAAABAAAAeAAAAAEAAAABAAAAAQAA"
    "ABAAAAAMAAwACwAAAAAABAAMAAAAOwAAAAAAADs="
)
"""The smallest model: ``y = -x`` for one float32 (rebuilt and compared in the tests)."""

_FAILURES: Final = (RuntimeError, ValueError, SystemError, TypeError, OSError)
_NUMBERS: Final = "biuf"
_LONGEST_NAME: Final = 80
_WHERE: Final = re.compile(r"\S+\.(cc|h):\d+:? ?")
_Apply = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Port:
    """One input or output: what it is to the outside, and where it is in the interpreter."""

    index: int
    tensor: Tensor
    raw: Tensor
    quantised: Quantised | None

    def taken(self, x: Array) -> Array:
        """Return an acceptable input as the interpreter wants it.

        Raises:
            InputRefusedError: It is not acceptable.

        """
        if self.quantised is None or x.dtype.name == self.raw.dtype:
            require_input(self.raw, x)
            return read_texts(self.raw, x) if self.raw.dtype == "string" else x
        require_input(self.tensor, x)
        return self.quantised.write(x)

    def given(self, answer: Array) -> Array:
        """Return an answer as the outside wants it."""
        if self.raw.dtype == "string":
            return _texts(answer)
        return answer if self.quantised is None else self.quantised.read(answer)


class LiteRtRuntime:
    """A loaded TensorFlow Lite model; see ``runtime.Runtime`` for what each method promises.

    Raises:
        ModelError: The file is missing, damaged, or none that the library runs.
        RuntimeMissingError: The library, or any of the two, is not installed or does not start.

    """

    name = NAME

    def __init__(self, model: Path | bytes, library: str | None = None) -> None:
        """``library`` is one of ``LIBRARIES``; None takes the first that starts."""
        self.library, module = _import_library(library)
        self.version: str = str(getattr(module, "__version__", "unknown"))
        self._what = model.name[:16] if isinstance(model, Path) else "in memory"
        self._interpreter: Any = _open_interpreter(module, self.library, model, self._what)
        self._allocated: list[tuple[int, ...]] | None = None
        # the public calls count references each time, and forbid that a method is kept
        wrapper = self._wrapper = self._interpreter._interpreter  # noqa: SLF001
        self._set: _Apply = wrapper.SetTensor
        self._invoke: _Apply = wrapper.Invoke
        self._get: _Apply = wrapper.GetTensor
        ins, outs = self._describe_all()
        if self._allocate_first(ins):
            ins, outs = self._describe_all()  # sizes that follow from others are known now
        self._ins, self._outs = tuple(ins), tuple(outs)
        self._places = tuple(port.index for port in outs)
        self.inputs: tuple[Tensor, ...] = tuple(port.tensor for port in ins)
        self.outputs: tuple[Tensor, ...] = tuple(port.tensor for port in outs)
        # an attribute and not a method, because a call more is half a percent
        self.infer: Callable[[Array], tuple[Array, ...]] = self._infer
        self.infer_one: Callable[[Array, int], Array] = self._infer_one
        if self._is_plain():
            self.infer, self.infer_one = self._plain(ins[0])

    def infer_named(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any model; inputs and outputs by name."""
        require_names(self.inputs, inputs)
        answers = self._run([port.taken(inputs[port.tensor.name]) for port in self._ins])
        return {tensor.name: answer for tensor, answer in zip(self.outputs, answers, strict=True)}

    def reset(self) -> None:
        """Set what the model remembers between inferences to zero, where it remembers."""
        if self._wrapper is not None:
            self._wrapper.ResetVariableTensors()

    def close(self) -> None:
        """Drop the interpreter and give its memory back to the operating system."""
        self.infer, self.infer_one = self._infer, self._infer_one
        self._set = self._invoke = self._get = _closed
        self._interpreter = self._wrapper = None
        trim()

    def _infer(self, x: Array) -> tuple[Array, ...]:
        if len(self._ins) != 1:
            raise ModelError(f"the model takes {len(self._ins)} inputs: give them by name")
        return tuple(self._run([self._ins[0].taken(x)]))

    def _infer_one(self, x: Array, place: int) -> Array:
        return self._infer(x)[place]

    def _run(self, inputs: Sequence[Array]) -> list[Array]:
        if self._wrapper is None:
            raise ModelError("the model was closed")
        shapes = [x.shape for x in inputs]
        try:
            if shapes != self._allocated:
                self._allocate(shapes)
            for port, x in zip(self._ins, inputs, strict=True):
                self._set(port.index, x)
            self._invoke()
            return [port.given(self._get(port.index, 0)) for port in self._outs]
        except _FAILURES as why:
            raise ModelError(f"the model failed: {_sentence(why)}") from why

    def _is_plain(self) -> bool:
        """Return whether there is one input of a fixed shape, and nothing to translate."""
        ports = (*self._ins, *self._outs)
        return (
            len(self._ins) == 1
            and all(port.quantised is None and port.raw.dtype != "string" for port in ports)
            and -1 not in self._ins[0].tensor.shape
        )

    def _plain(
        self, port: _Port
    ) -> tuple[Callable[[Array], tuple[Array, ...]], Callable[[Array, int], Array]]:
        index, tensor, shape = port.index, port.tensor, port.tensor.shape
        dtype = np.dtype(tensor.dtype)
        weights, is_float = finite_weights(tensor), dtype.kind == "f"
        set_tensor, invoke, places = self._set, self._invoke, self._places
        get: Callable[[int, int], Array] = self._get

        def infer_one(x: Array, place: int) -> Array:
            if x.shape != shape or x.dtype != dtype:
                x = port.taken(x)
            if weights is not None:
                if not isfinite(x.ravel().dot(weights)):
                    raise not_finite(tensor)
            elif is_float and not np.isfinite(x).all():
                raise not_finite(tensor)
            try:
                set_tensor(index, x)
                invoke()
                return get(places[place], 0)
            except _FAILURES as why:
                raise ModelError(f"the model failed: {_sentence(why)}") from why

        def infer(x: Array) -> tuple[Array, ...]:
            return infer_one(x, 0), *[get(place, 0) for place in places[1:]]

        return infer, infer_one

    def _allocate_first(self, ports: Sequence[_Port]) -> bool:
        try:
            self._wrapper.AllocateTensors()
        except _FAILURES as why:
            if any(-1 in port.tensor.shape for port in ports):
                return False  # it cannot be run for one of each; it may be for what comes
            raise ModelError(
                f"model {self._what} cannot be prepared by {self.library} {self.version}: "
                f"{_sentence(why)}"
            ) from why
        details = self._interpreter.get_input_details()
        self._allocated = [tuple(int(size) for size in found["shape"]) for found in details]
        return True

    def _allocate(self, shapes: list[tuple[int, ...]]) -> None:
        self._allocated = None
        for port, shape in zip(self._ins, shapes, strict=True):
            self._wrapper.ResizeInputTensor(port.index, np.array(shape, np.int32), False)  # noqa: FBT003
        self._wrapper.AllocateTensors()
        self._allocated = shapes

    def _describe_all(self) -> tuple[list[_Port], list[_Port]]:
        try:
            ins = self._interpreter.get_input_details()
            outs = self._interpreter.get_output_details()
            names = _signature_names(self._interpreter, ins, outs)
        except _FAILURES as why:
            raise ModelError(f"model {self._what} has an input or output of no known type") from why
        return (
            list(_describe(ins, names[0], self._what)),
            list(_describe(outs, names[1], self._what)),
        )


def probe(library: str) -> Hosted:
    """Make one real inference with a library.

    Raises:
        RuntimeMissingError: It is not installed, or does not work on this machine.
        ModelError: It does not run the model.

    """
    runtime = LiteRtRuntime(PROBE_MODEL, library)
    answer = runtime.infer_named({"x": np.ones(1, np.float32)})["y"]
    runtime.close()
    if answer.tolist() != [-1.0]:
        raise RuntimeMissingError(f"{library} {runtime.version} computes wrongly here")
    return Hosted(name=NAME, version=runtime.version, library=library)


def _import_library(library: str | None) -> tuple[str, Any]:
    wanted = LIBRARIES if library is None else {library: LIBRARIES[library]}
    failures = []
    for name, module in wanted.items():
        try:
            with kept_arithmetic():
                importlib.import_module(f"{module}.interpreter")
            return name, importlib.import_module(module)
        except (ImportError, *_FAILURES, AttributeError) as why:
            failures.append(f"{name}: {_sentence(why)}")
    raise RuntimeMissingError(
        "no runtime for tflite models works here: install fieldfare[litert] "
        f"({'; '.join(failures)})"
    )


def _open_interpreter(module: Any, library: str, model: Path | bytes, what: str) -> Any:
    if isinstance(model, Path) and not model.is_file():
        raise ModelError(f"model {what} is not on this disk")
    source = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
    try:
        return module.interpreter.Interpreter(**source, num_threads=1)
    except _FAILURES as why:
        raise ModelError(
            f"model {what} cannot be loaded by {library} {module.__version__}: {_sentence(why)}"
        ) from why


def _describe(details: list[dict[str, Any]], names: list[str], what: str) -> Iterator[_Port]:
    for found, name in zip(details, names, strict=True):
        dtype = "string" if found["dtype"] is np.bytes_ else np.dtype(found["dtype"]).name
        if dtype != "string" and np.dtype(dtype).kind not in _NUMBERS:
            raise ModelError(f"model {what} has {name!r} of type {dtype}, which is not run")
        signed = [int(size) for size in found["shape_signature"]]
        shape = signed if -1 in signed else [int(size) for size in found["shape"]]
        raw = Tensor(name=name, dtype=dtype, shape=tuple(shape))
        quantised = _quantised(found, dtype)
        yield _Port(
            index=int(found["index"]),
            tensor=raw if quantised is None else replace(raw, dtype="float32"),
            raw=raw,
            quantised=quantised,
        )


def _quantised(found: dict[str, Any], dtype: str) -> Quantised | None:
    parameters = found["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    if dtype not in DTYPES or len(scales) != 1 or not (isfinite(scales[0]) and scales[0] > 0):
        return None
    zero_point = int(zeros[0]) if len(zeros) else 0
    return Quantised(dtype=np.dtype(dtype), scale=float(scales[0]), zero_point=zero_point)


def _signature_names(
    interpreter: Any, ins: list[dict[str, Any]], outs: list[dict[str, Any]]
) -> tuple[list[str], list[str]]:
    """Return the names of inputs and outputs in the interpreter's order, each name once."""
    wrapper = interpreter._interpreter  # noqa: SLF001 -- the public list has no places
    for key, signature in wrapper.GetSignatureDefs().items():
        by_place = [
            {int(place): str(name) for name, place in signature[side].items()}
            for side in ("inputs", "outputs")
        ]
        complete = all(
            found["index"] in names
            for details, names in zip((ins, outs), by_place, strict=True)
            for found in details
        )
        if complete and wrapper.GetSubgraphIndexFromSignature(key) == 0:
            return (
                _unique(by_place[0][found["index"]] for found in ins),
                _unique(by_place[1][found["index"]] for found in outs),
            )
    return _unique(found["name"] for found in ins), _unique(found["name"] for found in outs)


def _unique(names: Iterator[str]) -> list[str]:
    taken: list[str] = []
    for place, name in enumerate(names):
        free = wanted = name[:_LONGEST_NAME] or f"tensor-{place}"
        number = 2
        while free in taken:
            free = f"{wanted[: _LONGEST_NAME - 4]}-{number}"
            number += 1
        taken.append(free)
    return taken


def _texts(answer: Array) -> Array:
    """Return texts as ``str`` objects; what is not UTF-8 in them is replaced."""
    texts = np.empty(answer.shape, object)
    for place, element in enumerate(answer.flat):
        texts.flat[place] = element.decode(errors="replace")
    return texts


def _closed(*_: object) -> None:
    raise ModelError("the model was closed")


def _sentence(why: Exception) -> str:
    if isinstance(why, SystemError):  # the library's own words hold an address of memory
        return f"its build does not fit numpy {np.__version__}"
    text = _WHERE.sub("", str(why).strip()) or type(why).__name__
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())[:300]
