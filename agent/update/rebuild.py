"""From a source in the store to the artifact that was wanted; runs in a child.

Rule 1: the base is verified first, the result afterwards; nothing else is believed.
Rule 2: everything is safe to repeat: what a power cut leaves is a torn ``.new``.
Rule 3: whatever goes wrong, the artifact can still be fetched whole.
"""

from contextlib import ExitStack
from typing import BinaryIO

from agent.contract.expand import expand_source
from agent.contract.manifest import Artifact, Source
from agent.errors import StoreError
from agent.update.seals import Seal, read_seal
from agent.update.store import Store, require_room

RESERVE_BYTES = 4 * 1024 * 1024


def rebuild(store: Store, artifact: Artifact, source: Source, key: bytes | None = None) -> Seal:
    """Make an artifact from its source, and return the seal of its file.

    ``key`` opens a source that is sealed.

    Raises:
        NoContentKeyError, WrongContentKeyError: The source is sealed, and does not open.
        MalformedError: It is no sealed stream.
        CorruptError: The base or the source is not what it was, or they make something else.
        UnsupportedError: This kind of source cannot be expanded here.
        StoreError: A file is missing, or there is no room for the artifact.

    """
    if source.base is not None:
        store.verify(source.base)
    require_room(store.disk, artifact.size, RESERVE_BYTES)
    with ExitStack() as opened:
        packed = opened.enter_context(_open(store, source.digest))
        base = opened.enter_context(_open(store, source.base)) if source.base else None
        store.put_blocks(
            artifact.digest, expand_source(source.kind, packed, base, artifact.size, key)
        )
    try:
        return read_seal(store.path(artifact.digest))
    except OSError as why:
        raise StoreError(f"{artifact.digest[:16]} is gone again: {why.strerror or why}") from why


def _open(store: Store, digest: str) -> BinaryIO:
    try:
        return store.path(digest).open("rb")
    except OSError as why:
        raise StoreError(f"{digest[:16]} cannot be read: {why.strerror or why}") from why
