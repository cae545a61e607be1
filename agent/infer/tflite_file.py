"""What a TensorFlow Lite file claims, read before any library opens it; nothing of it is run.

The fleet admits only such files, and the device's child looks again, as for ONNX files (see
``onnx_file``). It matters more here: tflite-runtime follows the offsets of a file unverified.

Rule 1: a file is read through a memory map; nothing is allocated on the word of a size in it.
Rule 2: whatever one part says of another (a tensor of its buffer, an operator of its tensors,
        a graph of the graphs that it calls) is compared with that other.
Rule 3: each kind of hostile file has its own error.

Format: schema.fbs of TensorFlow Lite, version 3; the numbers of its fields stand beside their
use.
"""

from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Final

from agent.contract.limits import MAX_TENSOR_ELEMENTS
from agent.errors import (
    ExternalDataError,
    MalformedError,
    NotAModelError,
    TensorSizeError,
    UnknownOperatorError,
)
from agent.infer.flatbuffer import Table, root
from agent.infer.mapped import map_model
from agent.infer.onnx_file import MAGIC, MAX_NODES

IDENTIFIER: Final = b"TFL3"
MAX_GRAPHS: Final = 64
MAX_TENSORS: Final = 4 * MAX_NODES

_MAX_DIMENSIONS: Final = 64
_LONGEST_NAME: Final = 120
_CUSTOM, _DELEGATE, _CALL, _IF, _WHILE = 32, 51, 31, 118, 119
_CALL_ONCE, _COMPOSITE = 129, 206
_CALLS: Final = {_CALL: (0,), _IF: (0, 1), _WHILE: (0, 1), _CALL_ONCE: (0,)}
"""By operator, the fields of its options that name graphs."""
_COMPOSITE_GRAPH: Final = 1
_SUMS, _LAYERS, _POOLS = (0, 18, 41, 42), (3, 4, 9), (1, 17, 40)
_ACTIVATIONS, _SHAPES, _STEPS = (14, 19, 21, 25, 28, 54, 98, 117), (2, 22, 34, 39, 43, 70), (6, 114)
_STEADY: Final = frozenset((*_SUMS, *_LAYERS, *_POOLS, *_ACTIVATIONS, *_SHAPES, *_STEPS))
"""Operators whose outputs have sizes that follow from those of their inputs, and from the
constants beside them: sums and products, layers, pools, activations, changes of shape, and
to and from quantised steps."""
_SIZED_BY: Final = {22: 1, 34: 1, 39: 1, 40: 1, 70: 1}
"""By operator, the input that must be a constant for that (RESHAPE, PAD, TRANSPOSE, MEAN,
EXPAND_DIMS)."""
_BITS: Final = {
    kind: bits
    for bits, kinds in {
        128: (11,),
        64: (4, 8, 10, 12),
        32: (0, 2, 15),
        16: (1, 7, 16, 18),
        8: (3, 6, 9, 21, 22),
        4: (17, 20),
        2: (19,),
    }.items()
    for kind in kinds
}
"""By ``TensorType``, where an element is a number."""
_SMALL_INTEGERS: Final = (3, 9)
_STRING, _RESOURCE, _VARIANT = 5, 13, 14


def examine_tflite(path: Path) -> None:
    """Return if a file claims nothing that a device must not load.

    Raises:
        NotAModelError: It is no TensorFlow Lite file; a pickle and an archive have classes of
            their own.
        ExternalDataError: A tensor is said to lie in another file.
        TensorSizeError: A tensor is too large, or has not the bytes that it claims.
        UnknownOperatorError: An operator that devices do not run.
        StoreError: It cannot be read.

    """
    what = f"model {path.name[:16]}"
    examine_content(map_model(path, what), what)


def examine_content(view: memoryview, what: str) -> None:
    """Return if the bytes of a file claim nothing that a device must not load.

    Raises:
        ModelError: As for ``examine_tflite``.

    """
    for magic, (kind, name) in MAGIC.items():
        if bytes(view[: len(magic)]) == magic:
            raise kind(f"{what} is {name}, not a TensorFlow Lite file")
    try:
        _Reader(what, view).model()
    except MalformedError as why:
        raise NotAModelError(
            f"{what} is not a TensorFlow Lite file, or a damaged one: {why}"
        ) from why


def holds_small_integers(view: memoryview) -> bool:
    """Return whether an examined file computes in 8-bit integers anywhere."""
    return any(
        tensor.number(1, "b") in _SMALL_INTEGERS and tensor.table(4) is not None
        for graph in root(view, IDENTIFIER).tables(2, MAX_GRAPHS)
        for tensor in graph.tables(0, MAX_TENSORS)
    )


def keeps_state(view: memoryview) -> bool:
    """Return whether a file has tensors that outlive an inference, as recurrent layers do.

    False for a file that cannot be read: whoever loads it says what is wrong.
    """
    try:
        return any(
            tensor.number(5, "b")  # Tensor.is_variable
            for graph in root(view, IDENTIFIER).tables(2, MAX_GRAPHS)
            for tensor in graph.tables(0, MAX_TENSORS)
        )
    except MalformedError:
        return False


def stays_in_place(view: memoryview) -> bool:
    """Return whether no tensor of an examined file can move while it is run, whatever it is given.

    Only where every operator is one of which that is known, and there is one graph.
    """
    try:
        model = root(view, IDENTIFIER)
        codes = [max(t.number(0, "b"), t.number(3, "i")) for t in model.tables(1, MAX_NODES)]
        filled = [len(t.numbers(0, "B")) > 0 for t in model.tables(4, MAX_TENSORS)]
        graphs = list(model.tables(2, MAX_GRAPHS))
        return len(graphs) == 1 and _is_steady(graphs[0], codes, filled)
    except (MalformedError, IndexError):
        return False


def _is_steady(graph: Table, codes: list[int], filled: list[bool]) -> bool:
    constant = [filled[tensor.number(2, "I")] for tensor in graph.tables(0, MAX_TENSORS)]
    for operator in graph.tables(3, MAX_NODES):
        code = codes[operator.number(0, "I")]
        inputs, place = operator.numbers(1, "i"), _SIZED_BY.get(code, -1)
        if code not in _STEADY or (0 <= place < len(inputs) and not constant[inputs[place]]):
            return False
    return True


class _Reader:
    """One pass over one file."""

    def __init__(self, what: str, content: memoryview) -> None:
        self._what = what
        self._content = content
        self._operators: list[int] = []
        self._buffers: list[memoryview] = []
        self._calls: dict[int, set[int]] = {}

    def model(self) -> None:
        model = root(self._content, IDENTIFIER)
        if model.number(0, "I") != 3:  # noqa: PLR2004 - Model.version
            raise NotAModelError(f"{self._what} is of schema {model.number(0, 'I')}, not 3")
        if any(True for field in (8, 9) for _ in model.tables(field, MAX_TENSORS)):
            raise ExternalDataError(f"{self._what} keeps tensors in another file of this device")
        self._operators = [self._operator_code(t) for t in model.tables(1, MAX_NODES)]
        self._buffers = [self._buffer(t) for t in model.tables(4, MAX_TENSORS)]
        graphs = list(model.tables(2, MAX_GRAPHS))
        if not graphs:
            raise NotAModelError(f"{self._what} holds no graph")
        counts = [self._graph(place, graph) for place, graph in enumerate(graphs)]
        self._require_no_recursion(len(graphs))
        for signature in model.tables(7, MAX_NODES):
            graph = signature.number(4, "I")
            if graph >= len(graphs):
                raise NotAModelError(f"{self._what} has a signature of graph {graph}, not there")
            for field in (0, 1):  # SignatureDef.inputs, outputs
                for named in signature.tables(field, MAX_TENSORS):
                    self._require_place(named.number(1, "I"), counts[graph], "signature")

    def _operator_code(self, code: Table) -> int:
        number = max(code.number(0, "b"), code.number(3, "i"))
        if number == _CUSTOM:
            name = code.text(1, _LONGEST_NAME) or "without a name"
            raise UnknownOperatorError(f"{self._what} uses custom operator {name}")
        if number < 0 or number == _DELEGATE:
            raise UnknownOperatorError(f"{self._what} uses operator {number}")
        return number

    def _buffer(self, buffer: Table) -> memoryview:
        offset, size = buffer.number(1, "Q"), buffer.number(2, "Q")
        if offset <= 1:  # written within the tables
            return buffer.numbers(0, "B")
        if offset + size > len(self._content):
            raise TensorSizeError(
                f"{self._what} has a buffer of {size} bytes at byte {offset}, "
                f"and {len(self._content)} bytes"
            )
        return self._content[offset : offset + size]

    def _graph(self, place: int, graph: Table) -> int:
        """Look at one graph, and return how many tensors it has."""
        count = 0
        for tensor in graph.tables(0, MAX_TENSORS):
            self._tensor(tensor)
            count += 1
        for field in (1, 2):  # SubGraph.inputs, outputs
            for index in graph.numbers(field, "i"):
                self._require_place(index, count, "graph")
        self._calls[place] = set()
        for operator in graph.tables(3, MAX_NODES):
            self._operator(operator, count, self._calls[place])
        return count

    def _operator(self, operator: Table, tensors: int, calls: set[int]) -> None:
        code = operator.number(0, "I")
        if code >= len(self._operators):
            raise NotAModelError(f"{self._what} uses operator code {code}, which is not there")
        for index in operator.numbers(2, "i"):  # Operator.outputs
            self._require_place(index, tensors, "operator")
        for field in (1, 8):  # Operator.inputs, intermediates
            for place, index in enumerate(operator.numbers(field, "i")):
                if index != -1 or not place:  # what comes after the first may be left out
                    self._require_place(index, tensors, "operator")
        if operator.number(9, "Q") > 1:
            raise UnknownOperatorError(f"{self._what} has custom options after its tables")
        options, more = operator.table(4), operator.table(12)
        kind = self._operators[code]
        if kind in _CALLS and options is not None:
            calls.update(options.number(field, "i") for field in _CALLS[kind])
        if kind == _COMPOSITE and more is not None:
            calls.add(more.number(_COMPOSITE_GRAPH, "i"))

    def _tensor(self, tensor: Table) -> None:
        name = tensor.text(3, _LONGEST_NAME)
        shape = tensor.numbers(0, "i")
        if max(len(shape), len(tensor.numbers(7, "i"))) > _MAX_DIMENSIONS:
            raise NotAModelError(f"{self._what} has a tensor of too many dimensions")
        if tensor.table(6) is not None:
            raise NotAModelError(f"{self._what} holds sparse tensors")
        if tensor.number(10, "I"):
            raise ExternalDataError(
                f"{self._what} keeps tensor {name!r} in another file of this device"
            )
        self._require_scales(tensor, name, shape)
        elements = prod(size for size in shape if size != -1)
        told = f"{self._what} has tensor {name!r} of {elements} elements"
        if any(size < -1 for size in shape) or elements > MAX_TENSOR_ELEMENTS:
            raise TensorSizeError(f"{told}; at most {MAX_TENSOR_ELEMENTS} may be")
        buffer = tensor.number(2, "I")
        self._require_place(buffer, len(self._buffers), "tensor")
        held = self._buffers[buffer]
        if held:
            self._require_bytes(held, tensor.number(1, "b"), elements, told)

    def _require_bytes(self, held: memoryview, kind: int, elements: int, told: str) -> None:
        """Return if the values of a constant tensor are there, and no more."""
        if kind in _BITS:
            if len(held) != -(-elements * _BITS[kind] // 8):
                raise TensorSizeError(f"{told} in {len(held)} bytes")
        elif kind == _STRING:
            _require_texts(held, elements, told)
        elif kind not in (_RESOURCE, _VARIANT):
            raise NotAModelError(f"{told}, of type {kind}, which is not known")

    def _require_scales(self, tensor: Table, name: str, shape: memoryview) -> None:
        quantised = tensor.table(4)
        if quantised is None:
            return
        scales, zeros = quantised.length(2, 4), quantised.length(3, 8)
        axis = quantised.number(6, "i")
        of_axis = shape[axis] if 0 <= axis < len(shape) else 0
        if (scales > 1 and scales != of_axis) or zeros not in (0, 1, scales):
            raise TensorSizeError(
                f"{self._what} has tensor {name!r} with {scales} scales and {zeros} zero points, "
                "which do not fit it"
            )

    def _require_place(self, index: int, count: int, of: str) -> None:
        if not 0 <= index < count:
            raise NotAModelError(f"{self._what} has one {of} that names {index}, one of {count}")

    def _require_no_recursion(self, graphs: int) -> None:
        """Return if no graph calls itself, by whatever way round."""
        left = dict(self._calls)
        for called in set().union(*left.values()):
            self._require_place(called, graphs, "operator")
        while left:
            ends = {place for place, calls in left.items() if not calls & left.keys()}
            if not ends:
                raise NotAModelError(f"{self._what} has graphs that call each other in a circle")
            left = {place: calls for place, calls in left.items() if place not in ends}


def _require_texts(held: memoryview, elements: int, told: str) -> None:
    """Return if packed texts lie within their buffer: a count, then where each begins and ends."""
    words = held[: len(held) // 4 * 4].cast("i")
    count = words[0] if len(words) else -1
    places = words[1 : count + 2]
    ordered = len(places) == count + 1 and all(a <= b for a, b in pairwise(places))
    if count != elements or not ordered or places[0] < 4 * (count + 2) or places[-1] > len(held):
        raise TensorSizeError(
            f"{told}, which are texts that lie outside of their {len(held)} bytes"
        )
