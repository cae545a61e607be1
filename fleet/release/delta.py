"""Smaller ways to the bytes of an artifact, made when it is published.

Rule 1: compressed full is always tried; against each earlier artifact that devices may
        have, a zstd patch and a byte-wise difference, and the smaller one is offered.
Rule 2: what is offered was expanded again here, by the device's own code, and compared.
Rule 3: a way that saves little is not offered: it costs lines in the manifest.
Rule 4: an encrypted artifact is compressed, then sealed; its own bytes are never offered.
        Each of its sources is a stream of its own, under the artifact's one key.

Zstandard: RFC 8878; a patch is ``zstd --patch-from``, the base a raw dictionary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

import numpy as np
import zstandard
from msgspec.structs import asdict, replace

from agent.contract.expand import expand_source
from agent.contract.limits import MAX_SOURCES
from agent.contract.manifest import Artifact, Source, describe_artifact
from agent.contract.sealing import new_key, seal_stream
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
from fleet.errors import AdmissionError

MAX_BASES = MAX_SOURCES - 1
SAVES_AT_LEAST_BYTES = 512
_THOROUGH_BYTES = 8 * 1024 * 1024
_THOROUGH, _PATCHING, _QUICK = 19, 12, 9
_LARGEST_TABLE_LOG = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What devices of a slot may have already: the artifacts of one release.

    Attributes:
        models: Runtime and bytes of each variant.
        golden: Its golden vectors.

    """

    models: tuple[tuple[str, bytes], ...]
    golden: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """An artifact with its sources.

    Attributes:
        artifact: The manifest entry.
        files: Bytes by SHA-256: the artifact and each source; of an encrypted one only its
            sealed sources.
        key: What opens them; None where the artifact is not encrypted.

    """

    artifact: Artifact
    files: dict[str, bytes]
    key: bytes | None = None


def offer(content: bytes, bases: Sequence[bytes], *, encrypt: bool = False) -> Offered:
    """Return an artifact with every source that is worth its line.

    Args:
        content: The artifact.
        bases: Earlier artifacts of its kind; at most ``MAX_BASES`` are looked at.
        encrypt: Seal every source with a new key, and offer nothing else.

    Raises:
        AdmissionError: A source does not expand to the artifact again.

    """
    artifact = describe_artifact(content)
    made: list[tuple[str, bytes, bytes | None]] = []
    full = _compress(content)
    smallest = len(content)
    if len(full) + SAVES_AT_LEAST_BYTES <= smallest:
        made.append((FULL, full, None))
        smallest = len(full)
    for base in dict.fromkeys(bases[:MAX_BASES]):
        if base == content:
            continue
        kind, packed = _smaller(content, base)
        if len(packed) + SAVES_AT_LEAST_BYTES <= smallest:
            made.append((kind, packed, base))
    sources, files, key = list[Source](), {artifact.digest: content}, None
    if encrypt:
        key, files = new_key(), {}
        if not any(known is None for _, _, known in made):
            made.insert(0, (PLAIN, content, None))
        made = [(SEALED + kind, seal_stream(packed, key), known) for kind, packed, known in made]
    for kind, packed, known in made:
        _require_same(kind, packed, known, content, key)
        described = describe_artifact(packed)
        named = sha256(known).hexdigest() if known is not None else None
        sources.append(Source(**asdict(described), kind=kind, base=named))
        files[described.digest] = packed
    chunks = "" if encrypt else artifact.chunks
    artifact = replace(artifact, sources=tuple(sources), chunks=chunks)
    return Offered(artifact=artifact, files=files, key=key)


def patch(content: bytes, base: bytes) -> bytes:
    """Return a zstd frame of ``content`` with ``base`` as its raw dictionary."""
    window_log = min(max((len(content) + len(base)).bit_length(), 10), PATCH_WINDOW_LOG)
    known = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    table_log = min(max(len(base).bit_length(), 10), _LARGEST_TABLE_LOG)  # sees the whole base
    level = _THOROUGH if len(content) <= _THOROUGH_BYTES else _PATCHING
    how = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log, hash_log=table_log, chain_log=table_log
    )
    return zstandard.ZstdCompressor(compression_params=how, dict_data=known).compress(content)


def subtract(content: bytes, base: bytes) -> bytes:
    """Return a zstd frame of ``content`` minus ``base``, byte by byte."""
    difference = np.frombuffer(content, np.uint8).copy()
    shared = min(len(content), len(base))
    difference[:shared] -= np.frombuffer(base, np.uint8)[:shared]
    return _compress(difference.tobytes())


def _smaller(content: bytes, base: bytes) -> tuple[str, bytes]:
    found = [(SUBTRACT, subtract(content, base))]
    if max(len(content), len(base)) <= MAX_PATCHED_BYTES:
        found.append((PATCH, patch(content, base)))
    return min(found, key=lambda way: len(way[1]))


def _compress(content: bytes) -> bytes:
    how = zstandard.ZstdCompressionParameters.from_level(
        _level(content), window_log=min(max(len(content).bit_length(), 10), WINDOW_LOG)
    )
    return zstandard.ZstdCompressor(compression_params=how).compress(content)


def _level(content: bytes) -> int:
    return _THOROUGH if len(content) <= _THOROUGH_BYTES else _QUICK


def _require_same(
    kind: str, packed: bytes, base: bytes | None, content: bytes, key: bytes | None
) -> None:
    known = BytesIO(base) if base is not None else None
    if b"".join(expand_source(kind, BytesIO(packed), known, len(content), key)) != content:
        raise AdmissionError(f"a {kind} source of {len(packed)} bytes makes other bytes again")
