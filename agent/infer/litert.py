"""TensorFlow Lite models by LiteRT or by tflite-runtime; imported only when a model asks.

Both libraries have the same ``Interpreter``, so one adapter serves both.

Rule 1: one thread.
Rule 2: no view of the interpreter's memory is ever made: it moves whenever tensors are
        allocated anew. What goes in and comes out is copied by the library.
Rule 3: inputs and outputs are called as in the file's signature, else by their tensor names;
        a quantised tensor is float32 to the outside (see ``quantised``), and takes its raw
        integers as well.
Rule 4: no exception of the library leaves this module; each becomes one sentence.
Rule 5: what a file keeps for itself between inferences is zero at the beginning of each, or
        callers would mix; state that is to last has names in the manifest (``stateful``).
"""

import importlib
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.contract.manifest import Tensor
from agent.contract.messages import Hosted
from agent.errors import ModelError, RuntimeMissingError
from agent.infer.arithmetic import kept_arithmetic
from agent.infer.heap import trim
from agent.infer.litert_ports import Port, describe, signature_names
from agent.infer.mapped import map_model
from agent.infer.runtime import Array, finite_weights, not_finite, require_names
from agent.infer.tflite_file import keeps_state, stays_in_place

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
_WHERE: Final = re.compile(r"\S+\.(cc|h):\d+:? ?")
_Apply = Callable[..., Any]


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
        self._invoke: _Apply = _from_zero(wrapper) if _ask(keeps_state, model) else wrapper.Invoke
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
            self.infer, self.infer_one = self._plain(ins[0], self._views(model))

    def infer_named(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any model; inputs and outputs by name."""
        require_names(self.inputs, inputs)
        answers = self._run([port.taken(inputs[port.tensor.name]) for port in self._ins])
        return {tensor.name: answer for tensor, answer in zip(self.outputs, answers, strict=True)}

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
        """Return whether there is one input of a fixed shape, and no texts."""
        ports = (*self._ins, *self._outs)
        return (
            len(self._ins) == 1
            and all(port.raw.dtype != "string" for port in ports)
            and -1 not in self._ins[0].tensor.shape
        )

    def _views(self, model: Path | bytes) -> list[Array]:
        """Return the outputs where they lie, if they stay there; none where that is not known."""
        if not _ask(stays_in_place, model):
            return []
        try:
            return [self._wrapper.tensor(self._interpreter, place, 0) for place in self._places]
        except (TypeError, *_FAILURES):  # one that has no place yet, or another library's call
            return []

    def _plain(
        self, port: Port, views: Sequence[Array]
    ) -> tuple[Callable[[Array], tuple[Array, ...]], Callable[[Array, int], Array]]:
        index, tensor, shape = port.index, port.tensor, port.tensor.shape
        dtype = np.dtype(tensor.dtype)
        weights, is_float = finite_weights(tensor), dtype.kind == "f"
        set_tensor, invoke, places = self._set, self._invoke, self._places
        get: Callable[[int, int], Array] = self._get
        write = port.quantised.writer(shape) if port.quantised else None
        reads = [out.quantised.read if out.quantised else None for out in self._outs]

        def infer_one(x: Array, place: int) -> Array:
            if x.dtype is not dtype or x.shape != shape:
                x = port.taken(x)  # refuses, but for the raw integers of a quantised input
            else:
                if weights is not None:
                    if not isfinite(x.ravel().dot(weights)):
                        raise not_finite(tensor)
                elif is_float and not np.isfinite(x).all():
                    raise not_finite(tensor)
                if write is not None:
                    x = write(x)
            try:
                set_tensor(index, x)
                invoke()
                answer = views[place] if views else get(places[place], 0)
            except _FAILURES as why:
                raise ModelError(f"the model failed: {_sentence(why)}") from why
            read = reads[place]
            return answer if read is None else read(answer)

        def infer(x: Array) -> tuple[Array, ...]:
            infer_one(x, 0)
            return tuple(
                get(place, 0) if read is None else read(get(place, 0))
                for place, read in zip(places, reads, strict=True)
            )

        return infer, infer_one

    def _allocate_first(self, ports: Sequence[Port]) -> bool:
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

    def _describe_all(self) -> tuple[list[Port], list[Port]]:
        try:
            ins = self._interpreter.get_input_details()
            outs = self._interpreter.get_output_details()
            names = signature_names(self._wrapper, ins, outs)
        except _FAILURES as why:
            raise ModelError(f"model {self._what} has an input or output of no known type") from why
        return (
            list(describe(ins, names[0], self._what)),
            list(describe(outs, names[1], self._what)),
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


def _ask(question: Callable[[memoryview], bool], model: Path | bytes) -> bool:
    view = memoryview(model) if isinstance(model, bytes) else map_model(model, model.name[:16])
    return question(view)


def _from_zero(wrapper: Any) -> _Apply:
    def invoke() -> None:
        wrapper.ResetVariableTensors()
        wrapper.Invoke()

    return invoke


def _closed(*_: object) -> None:
    raise ModelError("the model was closed")


def _sentence(why: Exception) -> str:
    if isinstance(why, SystemError):  # the library's own words hold an address of memory
        return f"its build does not fit numpy {np.__version__}"
    text = _WHERE.sub("", str(why).strip()) or type(why).__name__
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())[:300]
