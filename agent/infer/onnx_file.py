"""What an ONNX file claims, read before any library opens it; nothing of it is run.

The fleet admits only such files, and offline keys sign them. Should one be signed by mistake
all the same, the device's child finds it here and says what it is, instead of what a library
happens to stumble over.

Rule 1: a file is read through a memory map; nothing is allocated on the word of a size in it.
Rule 2: what a reader could merge out of two parts (a graph given twice) is refused, because
        each part alone would have passed.
Rule 3: each kind of hostile file has its own error.

Format: onnx.proto3 of ONNX 1.17; the numbers of its fields stand beside their use.
"""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Final

from agent.contract import wireformat as wire
from agent.contract.limits import MAX_TENSOR_ELEMENTS
from agent.errors import (
    ArchivedModelError,
    ExternalDataError,
    MalformedError,
    NotAModelError,
    PickledModelError,
    TensorSizeError,
    UnknownOperatorError,
)
from agent.infer.mapped import map_model

DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Of operators that devices run."""
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 8

_PICKLE, _ARCHIVE = "a Python pickle", "a zip archive (a PyTorch checkpoint or .npz)"
MAGIC: Final[dict[bytes, tuple[type[NotAModelError], str]]] = {
    **{b"\x80" + bytes([version]): (PickledModelError, _PICKLE) for version in (2, 3, 4, 5)},
    b"PK\x03\x04": (ArchivedModelError, _ARCHIVE),
    b"PK\x05\x06": (ArchivedModelError, "an empty zip archive"),
    b"\x1f\x8b": (ArchivedModelError, "a gzip archive"),
    b"\x89HDF": (NotAModelError, "an HDF5 file (Keras)"),
    b"\x7fELF": (NotAModelError, "a program"),
    b"{": (NotAModelError, "a text file"),
    b"<": (NotAModelError, "a text file"),
}
"""How files that are no models begin, and what they are."""

_MAX_TEXT_BYTES: Final = 64 * 1024
_MAX_DIMENSIONS: Final = 64
_EXTERNAL: Final = 1
_ITEM_BYTES: Final = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""By ``TensorProto.DataType``, where an element is a number of whole bytes."""


def examine_onnx(path: Path) -> None:
    """Return if a file claims nothing that a device must not load.

    Raises:
        NotAModelError: It is no ONNX file; a pickle and an archive have classes of their own.
        ExternalDataError: A tensor is said to lie in another file.
        TensorSizeError: A tensor is too large, or has not the bytes that it claims.
        UnknownOperatorError: An operator, or a function, that devices do not run.
        StoreError: It cannot be read.

    """
    what = f"model {path.name[:16]}"
    examine_content(map_model(path, what), what)


def examine_content(view: memoryview, what: str) -> None:
    """Return if the bytes of a file claim nothing that a device must not load.

    Raises:
        ModelError: As for ``examine_onnx``.

    """
    for magic, (kind, name) in MAGIC.items():
        if bytes(view[: len(magic)]) == magic:
            raise kind(f"{what} is {name}, not an ONNX file")
    try:
        _Reader(what).model(view)
    except MalformedError as why:
        raise NotAModelError(f"{what} is not an ONNX file, or a damaged one: {why}") from why


class _Reader:
    """One pass over one file."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._nodes = 0

    def model(self, content: memoryview) -> None:
        graphs = 0
        for number, value in wire.read_fields(content):
            match number:
                case 7:  # ModelProto.graph
                    graphs += 1
                    self._graph(wire.read_bytes(value), 0)
                case 25:  # ModelProto.functions
                    raise UnknownOperatorError(f"{self._what} defines functions of its own")
        if graphs != 1:
            raise NotAModelError(f"{self._what} holds {graphs} ONNX graphs; it must hold one")

    def _graph(self, content: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise NotAModelError(f"{self._what} nests graphs deeper than {MAX_DEPTH}")
        for number, value in wire.read_fields(content):
            match number:
                case 1:  # GraphProto.node
                    self._node(wire.read_bytes(value), depth)
                case 5:  # GraphProto.initializer
                    self._tensor(wire.read_bytes(value))
                case 15:  # GraphProto.sparse_initializer
                    raise NotAModelError(f"{self._what} holds sparse tensors")

    def _node(self, content: memoryview, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise NotAModelError(f"{self._what} has more than {MAX_NODES} nodes")
        operator = domain = ""
        for number, value in wire.read_fields(content):
            match number:
                case 4:  # NodeProto.op_type
                    operator = wire.read_text(value, _MAX_TEXT_BYTES)
                case 7:  # NodeProto.domain
                    domain = wire.read_text(value, _MAX_TEXT_BYTES)
                case 5:  # NodeProto.attribute
                    self._attribute(wire.read_bytes(value), depth)
        if domain not in DOMAINS:
            name = f"{domain}.{operator}"[:120]
            raise UnknownOperatorError(f"{self._what} uses operator {name}")

    def _attribute(self, content: memoryview, depth: int) -> None:
        single: set[int] = set()
        for number, value in wire.read_fields(content):
            if number in (5, 6) and number in single:
                raise NotAModelError(f"{self._what} gives one attribute twice")
            single.add(number)
            match number:
                case 5 | 10:  # AttributeProto.t, tensors
                    self._tensor(wire.read_bytes(value))
                case 6 | 11:  # AttributeProto.g, graphs
                    self._graph(wire.read_bytes(value), depth + 1)
                case 22 | 23:  # AttributeProto.sparse_tensor, sparse_tensors
                    raise NotAModelError(f"{self._what} holds sparse tensors")

    def _tensor(self, content: memoryview) -> None:
        dims: list[int] = []
        kind, held, raw_bytes, name, external = 0, 0, 0, "", False
        for number, value in wire.read_fields(content):
            match number:
                case 1:  # TensorProto.dims
                    dims.extend(_numbers(value))
                    if len(dims) > _MAX_DIMENSIONS:
                        raise NotAModelError(f"{self._what} has a tensor of too many dimensions")
                case 2:  # TensorProto.data_type
                    kind = wire.read_number(value)
                case 8:  # TensorProto.name
                    name = wire.read_text(value, _MAX_TEXT_BYTES)[:80]
                case 9:  # TensorProto.raw_data
                    raw_bytes = len(wire.read_bytes(value))
                case 13:  # TensorProto.external_data
                    external = True
                case 14:  # TensorProto.data_location
                    external = external or value == _EXTERNAL
                case 4 | 5 | 6 | 7 | 10 | 11:  # the typed lists of numbers and texts
                    held += 1 if isinstance(value, int) else len(value)
        if external:
            raise ExternalDataError(
                f"{self._what} keeps tensor {name!r} in another file of this device"
            )
        self._require_size(name, prod(dims), kind, held=held, raw_bytes=raw_bytes)

    def _require_size(
        self, name: str, elements: int, kind: int, *, held: int, raw_bytes: int
    ) -> None:
        """Return if a tensor is not too large and its bytes are there."""
        tensor = f"{self._what} has tensor {name!r} of {elements} elements"
        if elements > MAX_TENSOR_ELEMENTS:  # a negative dimension counts as a very large one
            raise TensorSizeError(f"{tensor}; at most {MAX_TENSOR_ELEMENTS} may be")
        if raw_bytes and kind in _ITEM_BYTES and raw_bytes != elements * _ITEM_BYTES[kind]:
            raise TensorSizeError(f"{tensor} in {raw_bytes} bytes")
        if elements and not raw_bytes and not held:
            raise TensorSizeError(f"{tensor} and none of their bytes")


def _numbers(value: int | memoryview) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    else:
        yield from wire.read_varints(value)
