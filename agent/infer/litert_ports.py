"""The inputs and outputs of a TensorFlow Lite model, as they are called and as they are held.

Rule 1: each has a name of its own, of at most 80 characters, the same for every library.
Rule 2: a quantised tensor is float32 to the outside, and takes its raw integers as well.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from agent.contract.manifest import Tensor
from agent.errors import ModelError
from agent.infer.quantised import DTYPES, Quantised
from agent.infer.runtime import Array, read_texts, require_input

Details = Sequence[Mapping[str, Any]]
"""What ``Interpreter.get_input_details`` and ``get_output_details`` return."""

_NUMBERS: Final = "biuf"
_LONGEST_NAME: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Port:
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


def describe(details: Details, names: Sequence[str], what: str) -> Iterator[Port]:
    """Yield the ports that the interpreter tells of, under their names.

    Raises:
        ModelError: One of a type that is not run.

    """
    for found, name in zip(details, names, strict=True):
        dtype = "string" if found["dtype"] is np.bytes_ else np.dtype(found["dtype"]).name
        if dtype != "string" and np.dtype(dtype).kind not in _NUMBERS:
            raise ModelError(f"model {what} has {name!r} of type {dtype}, which is not run")
        signed = [int(size) for size in found["shape_signature"]]
        shape = signed if -1 in signed else [int(size) for size in found["shape"]]
        raw = Tensor(name=name, dtype=dtype, shape=tuple(shape))
        quantised = _quantised(found, dtype)
        yield Port(
            index=int(found["index"]),
            tensor=raw if quantised is None else replace(raw, dtype="float32"),
            raw=raw,
            quantised=quantised,
        )


def _quantised(found: Mapping[str, Any], dtype: str) -> Quantised | None:
    parameters = found["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    if dtype not in DTYPES or len(scales) != 1 or not (isfinite(scales[0]) and scales[0] > 0):
        return None
    zero_point = int(zeros[0]) if len(zeros) else 0
    return Quantised(dtype=np.dtype(dtype), scale=float(scales[0]), zero_point=zero_point)


def signature_names(wrapper: Any, ins: Details, outs: Details) -> tuple[list[str], list[str]]:
    """Return the names of inputs and outputs in the interpreter's order, each name once."""
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
