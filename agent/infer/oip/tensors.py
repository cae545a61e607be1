"""Tensors as the Open Inference Protocol writes them, and back: JSON numbers, or raw bytes.

Sources: the protocol's "Tensor Data Types" (github.com/kserve/open-inference-protocol) and
the binary tensor data extension (github.com/triton-inference-server/server).

Rule 1: a shape is compared with the bytes that came before an array is made: nothing is
        allocated because somebody claims a size.
Rule 2: JSON numbers are read by their datatype: ``true`` is no number, 300 no UINT8, and
        NaN is no JSON.
Rule 3: strings are UTF-8 text, as ONNX has them: object arrays of ``str``. In raw bytes each
        stands behind its length (uint32), everything is little-endian.
"""

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from math import prod
from types import GenericAlias
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from agent.contract.manifest import Tensor
from agent.errors import InputRefusedError, MalformedError, ModelError
from agent.infer.runtime import Array
from agent.refusals import OversizedError

STRING: Final = "string"
BYTES: Final = "BYTES"
MAX_STRINGS: Final = 262_144
"""In one tensor: each is an object of its own, fifty bytes larger than it was."""

DATATYPES: Final = {
    "bool": "BOOL",
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    STRING: BYTES,
}
"""What the protocol calls each dtype of ``Tensor.dtype``."""

DTYPES: Final = {datatype: dtype for dtype, datatype in DATATYPES.items()}
_FLOATS: Final = {"FP16": "e", "FP32": "f", "FP64": "d"}
_KINDS: Final[dict[str, Any]] = {
    "BOOL": bool,
    "UINT8": Annotated[int, Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, Meta(ge=0, le=2**32 - 1)],
    "UINT64": Annotated[int, Meta(ge=0)],
    "INT8": Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)],
    "INT16": Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)],
    "INT32": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": int,
    **dict.fromkeys(_FLOATS, float),
    BYTES: str,
}
_BY_DTYPE: Final = {np.dtype(name): said for name, said in DATATYPES.items() if said != BYTES}
_NESTED = re.compile(rb"\s*\[\s*\[")
_BLANK = b"[], \t\r\n"
_LENGTH = struct.Struct("<I")


def dtype_of(datatype: str) -> str:
    """Return the dtype name of a datatype.

    Raises:
        MalformedError: The protocol has none of this name, or it is not read here.

    """
    known = DTYPES.get(datatype)
    if known is None:
        raise MalformedError(f"datatype {datatype[:40]!r} is not one of {', '.join(DTYPES)}")
    return known


def datatype_of(x: Array) -> str:
    """Return the datatype of an array.

    Raises:
        ModelError: The protocol has none for its dtype.

    """
    known = _BY_DTYPE.get(x.dtype)  # dtype.name is worked out anew each time
    if known is not None:
        return known
    if x.dtype.kind in "OSU":
        return BYTES
    raise ModelError(f"an array of {x.dtype.name} cannot be said in the protocol")


def require_fit(tensor: Tensor, datatype: str, shape: tuple[int, ...]) -> None:
    """Return if what a caller announces is what the model takes, before any of it is read.

    Raises:
        InputRefusedError: It is not.

    """
    if dtype_of(datatype) != tensor.dtype:
        wanted = DATATYPES.get(tensor.dtype, tensor.dtype)
        raise InputRefusedError(f"input {tensor.name!r} is {datatype}; wanted {wanted}")
    fits = len(shape) == len(tensor.shape) and all(
        want in (-1, have) for want, have in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise InputRefusedError(
            f"input {tensor.name!r} is of shape {list(shape)[:32]}; wanted {list(tensor.shape)}"
        )


def from_json(name: str, datatype: str, shape: tuple[int, ...], text: bytes) -> Array:
    """Return the array of a JSON array, flat in row-major order or nested as the shape is.

    Args:
        name: For the sentence of a refusal.
        datatype: Of the protocol.
        shape: As the caller claims.
        text: The JSON array, known to be JSON.

    Raises:
        InputRefusedError: Not so many elements, not of this datatype, or not in this shape.
        OversizedError: More strings than ``MAX_STRINGS``.

    """
    size = prod(shape)
    dtype = np.dtype(object if datatype == BYTES else DTYPES[datatype])
    if not text.strip(_BLANK):
        _require_size(name, shape, size, 0)
        return np.empty(shape, dtype)
    if datatype == BYTES:
        _require_few(name, size)
    else:
        _require_size(name, shape, size, text.count(b",") + 1)
    nested = len(shape) > 1 and _NESTED.match(text) is not None
    try:
        found = _reader(datatype, len(shape) if nested else 1).decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise InputRefusedError(
            f"data of {name!r} is no {datatype} of {list(shape)}: {why}"
        ) from why
    if nested:
        return _from_nested(name, dtype, shape, found)
    _require_size(name, shape, size, len(found))
    return _from_flat(name, datatype, shape, found)


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Return the array of raw bytes, as a read-only view of them where that can be.

    Raises:
        InputRefusedError: Not the bytes of this datatype and shape.
        OversizedError: More strings than ``MAX_STRINGS``.

    """
    size = prod(shape)
    if datatype == BYTES:
        _require_few(name, size)
        return _strings(_unpack(name, size, raw), shape)
    dtype = np.dtype(DTYPES[datatype])
    if len(raw) != size * dtype.itemsize:
        raise InputRefusedError(
            f"{name!r} of {datatype} {list(shape)} takes {size * dtype.itemsize} bytes; "
            f"{len(raw)} were given"
        )
    found = np.frombuffer(raw, np.uint8 if datatype == "BOOL" else dtype)
    if datatype == "BOOL":
        if size and found.max() > 1:
            raise InputRefusedError(f"{name!r} of BOOL holds a byte that is neither 0 nor 1")
        found = found.view(np.bool_)
    if not found.flags.aligned:  # the JSON before it is of any length
        found = found.copy()
    return found.reshape(shape)


def to_json(name: str, x: Array) -> list[Any]:
    """Return the elements in row-major order.

    Raises:
        ModelError: A NaN, an infinity or bytes that are no text: JSON cannot say them.

    """
    if x.dtype.kind in "OSU":
        return [_text(name, element) for element in x.ravel().tolist()]
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ModelError(
            f"{name!r} holds a NaN or an infinity, which JSON cannot say: ask for binary data"
        )
    elements: list[Any] = x.ravel().tolist()
    return elements


def to_bytes(x: Array) -> bytes:
    """Return the elements in row-major order as raw bytes.

    Raises:
        ModelError: An element of an array of objects is no string.

    """
    if x.dtype.kind in "OSU":
        encoded = [_encoded(element) for element in x.ravel().tolist()]
        return b"".join(chain.from_iterable((_LENGTH.pack(len(e)), e) for e in encoded))
    return x.tobytes()


@lru_cache(maxsize=256)
def _reader(datatype: str, depth: int) -> "msgspec.json.Decoder[list[Any]]":
    kind: Any = _KINDS[datatype]
    for _ in range(depth):
        kind = GenericAlias(list, kind)
    return msgspec.json.Decoder(kind)


@lru_cache(maxsize=64)
def _packer(letter: str, size: int) -> struct.Struct:
    return struct.Struct(f"<{size}{letter}")


def _from_flat(name: str, datatype: str, shape: tuple[int, ...], found: list[Any]) -> Array:
    if datatype == BYTES:
        return _strings(found, shape)
    letter = _FLOATS.get(datatype)
    try:
        if letter is None:
            return np.array(found, DTYPES[datatype]).reshape(shape)
        # a third of the time of numpy's own, and it says what does not fit
        packed = _packer(letter, len(found)).pack(*found)
    except (OverflowError, struct.error) as why:
        raise InputRefusedError(
            f"{name!r} holds a number that is too large for {datatype}"
        ) from why
    return np.frombuffer(packed, DTYPES[datatype]).reshape(shape)


def _from_nested(
    name: str, dtype: "np.dtype[Any]", shape: tuple[int, ...], found: list[Any]
) -> Array:
    wide = np.dtype(np.float64) if dtype.kind == "f" else dtype
    try:
        nested = np.array(found, wide)
    except (ValueError, OverflowError) as why:
        raise InputRefusedError(f"data of {name!r} is not nested as {list(shape)}: {why}") from why
    if nested.shape != shape:
        raise InputRefusedError(
            f"data of {name!r} is nested as {list(nested.shape)}; its shape says {list(shape)}"
        )
    with np.errstate(over="ignore"):
        narrow = nested.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(narrow).all():
        raise InputRefusedError(f"{name!r} holds a number that is too large for {dtype.name}")
    return narrow


def _strings(found: Sequence[str], shape: tuple[int, ...]) -> Array:
    strings = np.empty(len(found), object)
    strings[:] = found
    return strings.reshape(shape)


def _unpack(name: str, size: int, raw: memoryview) -> list[str]:
    strings: list[str] = []
    at = 0
    while len(strings) < size:
        start = at + _LENGTH.size
        end = start + (_LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else 0)
        if not start <= end <= len(raw):
            raise InputRefusedError(f"{name!r} ends within its {len(strings) + 1}. string")
        try:
            strings.append(str(raw[start:end], "utf-8"))
        except UnicodeDecodeError as why:
            raise InputRefusedError(
                f"the {len(strings) + 1}. string of {name!r} is not UTF-8"
            ) from why
        at = end
    if at != len(raw):
        raise InputRefusedError(f"{name!r} has {len(raw) - at} bytes behind its {size} strings")
    return strings


def _require_size(name: str, shape: tuple[int, ...], size: int, found: int) -> None:
    if found != size:
        raise InputRefusedError(
            f"{name!r} of shape {list(shape)} takes {size} elements; {found} were given"
        )


def _require_few(name: str, size: int) -> None:
    if size > MAX_STRINGS:
        raise OversizedError(f"{name!r} is of {size} strings; at most {MAX_STRINGS} are read")


def _text(name: str, element: object) -> str:
    try:
        return _encoded(element).decode()
    except UnicodeDecodeError as why:
        raise ModelError(f"{name!r} holds bytes that are no text: ask for binary data") from why


def _encoded(element: object) -> bytes:
    match element:
        case str():
            return element.encode()
        case bytes():
            return element
        case _:
            raise ModelError(f"an array holds a {type(element).__name__}; only strings are sent")
