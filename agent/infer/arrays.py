"""Reading ``.npz`` bytes without believing them: sizes first, never a pickle.

An ``.npz`` is a ZIP of ``.npy`` members (NEP 1). ``numpy.load`` allocates what a header
claims before it reads, and a deflated member may expand a thousandfold; here every claim
is compared with the bytes that are there.
"""

import math
from io import BytesIO
from lzma import LZMAError
from struct import error as StructError  # noqa: N812 -- it is an exception class
from typing import Any
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError  # noqa: N812 -- it is an exception class

import numpy as np
import numpy.lib.format
from numpy.typing import NDArray

from agent.errors import MalformedError
from agent.refusals import ArchivePathError, ArraySizeError, OversizedError, PickledArrayError

MAX_MEMBERS = 256
_DAMAGED = (
    BadZipFile,
    ZlibError,
    LZMAError,
    StructError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
)
"""What ``zipfile`` is seen to raise for damaged files."""

_npy: Any = numpy.lib.format
"""Its functions carry no types before numpy 2."""


def read_npz(content: bytes, *, limit_bytes: int) -> dict[str, NDArray[Any]]:
    """Return the arrays by name; together at most ``limit_bytes`` when expanded.

    Raises:
        MalformedError: Not an ``.npz``, over a limit, with a member outside of it, or with an
            array of Python objects.

    """
    try:
        with ZipFile(BytesIO(content)) as archive:
            members = archive.infolist()
            expanded = sum(member.file_size for member in members)
            if len(members) > MAX_MEMBERS or expanded > limit_bytes:
                raise OversizedError(
                    f".npz of {len(members)} arrays and {expanded} bytes is over the limit of "
                    f"{MAX_MEMBERS} and {limit_bytes}"
                )
            for member in members:
                _require_inside(member.filename)
            return {
                member.filename.removesuffix(".npy"): _read_npy(
                    member.filename, archive.read(member)
                )
                for member in members
            }
    except _DAMAGED as why:
        raise MalformedError(f"not an .npz file, or a damaged one: {why}") from why


def write_npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the ``.npz`` of some arrays; equal arrays give equal bytes."""
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _require_inside(name: str) -> None:
    """Return if unpacking a member would stay inside of a folder; nothing is unpacked here."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise ArchivePathError(
            f"archive names member {name[:80]!r}, which lies outside of it: nothing was read"
        )


def _read_npy(name: str, content: bytes) -> NDArray[Any]:
    file = BytesIO(content)
    try:
        version = _npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = _npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = _npy.read_array_header_2_0(file)
        else:
            raise MalformedError(f"array {name!r} has .npy version {version}")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as why:
        raise MalformedError(f"array {name!r} has no readable header") from why
    if dtype.hasobject:
        raise PickledArrayError(f"array {name!r} holds Python objects, which are never loaded")
    start = file.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ArraySizeError(f"array {name!r} claims shape {shape} of {dtype}, but not its bytes")
    if not content[start:]:
        return np.zeros(shape, dtype)
    flat: NDArray[Any] = np.frombuffer(content, dtype, offset=start)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
