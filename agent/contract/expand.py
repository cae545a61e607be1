"""An artifact made from fewer bytes again: what comes out of a source, block by block.

Rule 1: what comes out proves nothing: the caller checks the digest of the *result*.
Rule 2: no more bytes come out than the artifact has, and no more memory is used than a
        window of 8 MiB; a patch also holds its base and a window over both, and is only
        for artifacts of up to ``MAX_PATCHED_BYTES``.
Rule 3: only who makes or takes sources imports this module, because of its libraries.

Format: Zstandard, RFC 8878.
"""

from collections.abc import Iterator
from typing import BinaryIO, Final, Protocol

import numpy as np
from zstandard import (
    DICT_TYPE_RAWCONTENT,
    ZstdCompressionDict,
    ZstdDecompressor,
    ZstdError,
)

from agent.contract.sealing import OpenedStream
from agent.contract.sources import (
    FULL,
    MAX_PATCHED_BYTES,
    PATCH,
    PATCH_WINDOW_LOG,
    PLAIN,
    SEALED,
    SUBTRACT,
    WINDOW_LOG,
)
from agent.errors import CorruptError, UnsupportedError
from agent.refusals import DisorderedStreamError, NoContentKeyError

_BLOCK_BYTES: Final = 256 * 1024


class Readable(Protocol):
    """An open file, or what is inside a sealed stream."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""


def expand_source(
    kind: str, packed: BinaryIO, base: BinaryIO | None, size: int, key: bytes | None
) -> Iterator[bytes]:
    """Yield the bytes of an artifact from a source that may be sealed.

    Args:
        kind: Of the source.
        packed: The source's bytes.
        base: The base's bytes; None for a kind without one.
        size: How many bytes the artifact has.
        key: Opens a sealed source; None for others.

    Raises:
        NoContentKeyError: The source is sealed, and there is no key.
        WrongContentKeyError: The key does not open it.
        CorruptError: It is damaged, or makes more or fewer bytes.
        MalformedError: It is no sealed stream.
        UnsupportedError: The kind is not known, or the base too large for it.

    """
    if not kind.startswith(SEALED):
        yield from expand(kind, packed, base, size)
        return
    if key is None:
        raise NoContentKeyError("there is no key for this encrypted artifact")
    opened = OpenedStream(packed, key)
    yield from expand(kind.removeprefix(SEALED), opened, base, size)
    if opened.read(1):
        raise DisorderedStreamError("a sealed stream holds more than its artifact")


def expand(kind: str, packed: Readable, base: BinaryIO | None, size: int) -> Iterator[bytes]:
    """Yield the bytes of an artifact, block by block.

    Args:
        kind: Of the source, without ``sealed-``.
        packed: The source's bytes.
        base: The base's bytes; None for a kind without one.
        size: How many bytes the artifact has.

    Raises:
        CorruptError: The source is no such frame, or makes more or fewer bytes.
        UnsupportedError: The kind is not known, or the base too large for it.

    """
    reader = _reader(kind, packed, base)
    made = 0
    while True:
        try:
            block = reader.read(_BLOCK_BYTES)
        except ZstdError as why:
            raise CorruptError(f"a {kind} source does not expand: {why}") from why
        made += len(block)
        if made > size or (not block and made < size):
            much = "more" if made > size else f"only {made}"
            raise CorruptError(f"a {kind} source makes {much} of the {size} bytes it was to make")
        if not block:
            return
        yield _add(block, base.read(len(block))) if kind == SUBTRACT and base else block


def _reader(kind: str, packed: Readable, base: BinaryIO | None) -> Readable:
    if kind == PLAIN:
        return packed
    found: Readable = _decompressor(kind, base).stream_reader(packed, read_size=_BLOCK_BYTES)  # type: ignore[arg-type]  # it wants .read only
    return found


def _decompressor(kind: str, base: BinaryIO | None) -> ZstdDecompressor:
    if kind == FULL or (kind == SUBTRACT and base):
        return ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
    if kind != PATCH or base is None:
        raise UnsupportedError(f"a source of kind {kind!r} cannot be expanded here")
    content = base.read(MAX_PATCHED_BYTES + 1)
    if len(content) > MAX_PATCHED_BYTES:
        raise UnsupportedError(f"a base of over {MAX_PATCHED_BYTES} bytes is too large to patch")
    known = ZstdCompressionDict(content, dict_type=DICT_TYPE_RAWCONTENT)
    return ZstdDecompressor(dict_data=known, max_window_size=1 << PATCH_WINDOW_LOG)


def _add(block: bytes, base: bytes) -> bytes:
    summed = np.frombuffer(block, np.uint8).copy()
    summed[: len(base)] += np.frombuffer(base, np.uint8)
    return summed.tobytes()
