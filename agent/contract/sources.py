"""The kinds of source from which an artifact can be made, and which one to take.

    full-zstd       one zstd frame of the artifact
    patch-zstd      one zstd frame with the base as its raw dictionary (``--patch-from``)
    subtract-zstd   one zstd frame of artifact minus base, byte by byte, modulo 256; what
                    is longer than the base stands as it is
    sealed-…        a sealed stream of one of these, or of the artifact itself (``full``)

Rule 1: a source proves nothing: whoever expands it (``contract.expand``) checks the digest
        of the *result*.
Rule 2: a kind that this program does not know is not used, and nothing else is wrong.
Rule 3: an encrypted artifact is made from its sealed sources and nothing else, whatever
        they save; any other artifact never from a sealed one. Compressed first, then sealed.
"""

from collections.abc import Callable, Collection
from typing import Final

from agent.contract.manifest import Artifact, Source

PLAIN: Final = "full"
FULL: Final = "full-zstd"
PATCH: Final = "patch-zstd"
SUBTRACT: Final = "subtract-zstd"
SEALED: Final = "sealed-"
MAX_PATCHED_BYTES: Final = 32 * 1024 * 1024
"""Of the base and of the artifact, each."""
WINDOW_LOG: Final = 23
PATCH_WINDOW_LOG: Final = 26


def is_usable(artifact: Artifact, source: Source, base_bytes: int | None) -> bool:
    """Return whether a source can be expanded here and saves anything.

    Args:
        artifact: What is to come out.
        source: One of its sources.
        base_bytes: Length of the source's base on this device; None without one.

    """
    sealed = source.kind.startswith(SEALED)
    if sealed != artifact.encrypted or (source.size >= artifact.size and not sealed):
        return False
    match source.kind.removeprefix(SEALED):
        case "full":
            return sealed
        case "full-zstd":
            return True
        case "subtract-zstd":
            return base_bytes is not None
        case "patch-zstd":
            within = max(artifact.size, base_bytes or 0) <= MAX_PATCHED_BYTES
            return base_bytes is not None and within
        case _:
            return False


def choose_source(
    artifact: Artifact, size_of: Callable[[str], int | None], refused: Collection[str]
) -> Source | None:
    """Return the smallest source that can be used here, one at hand before others, or None.

    Args:
        artifact: What is wanted.
        size_of: Length of an artifact in the store; None where it is not there.
        refused: Digests of sources that failed before.

    """
    usable = [
        source
        for source in artifact.sources
        if source.digest not in refused
        and is_usable(artifact, source, size_of(source.base) if source.base else None)
    ]
    at_hand = [source for source in usable if size_of(source.digest) == source.size]
    return min(at_hand or usable, key=lambda source: source.size, default=None)


def full_source(artifact: Artifact) -> Source:
    """Return the sealed stream of an encrypted artifact that needs no base.

    Its digest names the content key, because the same bytes may be sealed again with another.
    """
    full = (source for source in artifact.sources if source.base is None)
    return min(full, key=lambda source: (source.size, source.digest))
