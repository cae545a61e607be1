"""Files of an update bundle, copied into the store; runs in a child.

Rule 1: a file gets its name only with the digest that is its name, hashed from the disk.
Rule 2: everything is safe to repeat: what a power cut leaves is a torn ``.new``.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from agent.contract.bundle import BLOCK_BYTES, Bundle, Place, read_bundle
from agent.errors import StoreError
from agent.refusals import TruncatedBundleError
from agent.update.rebuild import RESERVE_BYTES
from agent.update.seals import Seal, read_seal
from agent.update.store import Store, require_room


def read(path: Path, device: str) -> Bundle:
    """Read a bundle to its end.

    Raises:
        TrustError, ContractError: It is not whole.
        StoreError: It cannot be read.

    """
    try:
        with path.open("rb") as bundle:
            return read_bundle(bundle, device)
    except OSError as why:
        raise StoreError(f"{path} cannot be read: {why.strerror or why}") from why


def unpack(
    store: Store, path: Path, wanted: Iterable[tuple[str, Place]]
) -> tuple[tuple[str, Seal], ...]:
    """Copy files of a bundle into the store, and return their seals by digest.

    Raises:
        CorruptError: The bytes in a place are not those of the digest.
        StoreError: There is no room, or something cannot be read or written.

    """
    found = []
    try:
        with path.open("rb") as bundle:
            for digest, place in wanted:
                require_room(store.disk, place.size, RESERVE_BYTES)
                store.put_blocks(digest, _blocks(bundle, place))
                found.append((digest, read_seal(store.path(digest))))
    except OSError as why:
        raise StoreError(f"{path} cannot be unpacked: {why.strerror or why}") from why
    return tuple(found)


def _blocks(bundle: BinaryIO, place: Place) -> Iterator[bytes]:
    bundle.seek(place.at)
    left = place.size
    while left:
        block = bundle.read(min(left, BLOCK_BYTES))
        if not block:
            raise TruncatedBundleError("the bundle ends within a file")
        left -= len(block)
        yield block
