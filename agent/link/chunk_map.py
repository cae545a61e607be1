"""Which chunks of an artifact are on the medium: a small file beside the part file.

Rule 1: the map is only a shortcut: one that is damaged, or of another artifact, is
        ignored, because every chunk can be checked again.
Rule 2: one of a newer version is refused and left untouched.
"""

from typing import Final

from agent.contract.codec import Versioned, decode, encode
from agent.contract.limits import MAX_ARTIFACT_BYTES
from agent.contract.manifest import Artifact, Digest
from agent.contract.messages import Count
from agent.disk import Disk
from agent.errors import ContractError, NewerStateError, UnsupportedError

_MAX_BYTES: Final = MAX_ARTIFACT_BYTES // 1024 // 4 + 4096
_DIGITS: Final = b"0" + b"1" * 255


class ChunkMap(Versioned, frozen=True, kw_only=True):
    """Which chunks are on the medium: one bit each, lowest first, hex."""

    digest: Digest
    size: Count
    chunk_size: Count
    have: str


def read_map(disk: Disk, name: str, artifact: Artifact) -> bytearray | None:
    """Return one byte for each chunk, 1 where it is on the medium; None without a map.

    Raises:
        NewerStateError: It was written by a newer version.

    """
    content = disk.read(name)
    if content is None:
        return None
    try:
        decode(Versioned, content, limit=_MAX_BYTES)  # the version before the shape
        found = decode(ChunkMap, content, limit=_MAX_BYTES)
        bits = int.from_bytes(bytes.fromhex(found.have), "little")
    except UnsupportedError as why:
        raise NewerStateError(f"{name}: {why}") from why
    except (ContractError, ValueError):
        return None
    if (found.digest, found.chunk_size) != (artifact.digest, artifact.chunk_size):
        return None
    return bytearray(bits >> i & 1 for i in range(artifact.count))


def write_map(disk: Disk, name: str, artifact: Artifact, have: bytearray) -> None:
    """Replace the map; the chunks that it speaks of must be on the medium already."""
    bits = int(have[::-1].translate(_DIGITS), 2)
    chunk_map = ChunkMap(
        digest=artifact.digest,
        size=artifact.size,
        chunk_size=artifact.chunk_size,
        have=bits.to_bytes(-(-artifact.count // 8), "little").hex(),
    )
    disk.replace(name, encode(chunk_map))
