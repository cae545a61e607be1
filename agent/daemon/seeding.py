"""Chunks that lie on this device already are copied, not fetched.

Two releases of a family often share most of their chunks: the backbone stays, the head
changes. The manifests in the store say which chunks their artifacts have.

Rule 1: a copied chunk is checked against the wanted artifact's signed hash like one that
        arrived; what rotted in the store is not copied.
Rule 2: the chunks stand in the part file and in its map before the transfer begins, so
        they survive a power cut like any others.
Rule 3: at most ``MAX_INDEXED`` chunks are looked at, and none is remembered in between.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from agent.contract.limits import CHUNK_HASH_BYTES
from agent.contract.manifest import Artifact
from agent.errors import AgentError, CorruptError, StoreError
from agent.link.chunk_map import read_map, write_map
from agent.update.store import FOLDER, Store

MAX_INDEXED = 65_536
"""4 GiB of artifacts; some 10 MiB while the index is in use."""
_HASH_DIGITS = 2 * CHUNK_HASH_BYTES

Place = tuple[str, int]
"""Where a chunk lies: digest of an artifact in the store, and index."""


class Seeding:
    """Looks for chunks among the releases that this device keeps."""

    def __init__(self, store: Store, kept: Callable[[], Collection[str]]) -> None:
        """``kept`` returns the manifest digests whose artifacts are worth a look."""
        self._store = store
        self._kept = kept

    def shared_bytes(self, artifact: Artifact) -> int:
        """Return how much of an artifact seems to lie here; nothing is read but manifests."""
        index = self._index(artifact)
        last = artifact.size - (artifact.count - 1) * artifact.chunk_size
        found = (i for i, digits in enumerate(_hashes(artifact)) if digits in index)
        return sum(last if i == artifact.count - 1 else artifact.chunk_size for i in found)

    def seed(self, artifact: Artifact) -> int:
        """Copy what lies here into the part file, and return how many chunks that were.

        Raises:
            StoreError: The part file or its map cannot be written.

        """
        index = self._index(artifact)
        if not index:
            return 0
        disk, name = self._store.disk, f"{FOLDER}/{artifact.digest}"
        known = None
        if disk.path(f"{name}.part").is_file():
            known = read_map(disk, f"{name}.map", artifact)
        have, copied = known or bytearray(artifact.count), 0
        for number, digits in enumerate(_hashes(artifact)):
            place = index.get(digits)
            if have[number] or place is None:
                continue
            with suppress(CorruptError):
                content = artifact.check_chunk(number, self._read(place, artifact.chunk_size))
                disk.patch(f"{name}.part", number * artifact.chunk_size, content)
                have[number] = 1
                copied += 1
        if copied:
            disk.sync(f"{name}.part")
            write_map(disk, f"{name}.map", artifact, have)
        return copied

    def _read(self, place: Place, chunk_size: int) -> bytes:
        digest, number = place
        try:
            with self._store.path(digest).open("rb") as file:
                file.seek(number * chunk_size)
                return file.read(chunk_size)
        except OSError as why:
            raise StoreError(f"{digest[:16]} cannot be read: {why.strerror or why}") from why

    def _index(self, wanted: Artifact) -> dict[str, Place]:
        """Return where the wanted chunks lie, by hash."""
        asked = set(_hashes(wanted))
        found: dict[str, Place] = {}
        looked = 0
        for stored in self._stored(wanted):
            for number, digits in enumerate(_hashes(stored)):
                looked += 1
                if looked > MAX_INDEXED:
                    return found
                if digits in asked:
                    found.setdefault(digits, (stored.digest, number))
        return found

    def _stored(self, wanted: Artifact) -> Iterator[Artifact]:
        seen = {wanted.digest}
        for digest in self._kept():
            try:
                behind = self._store.read_manifest(digest).artifacts
            except AgentError:
                continue  # not fetched yet, or rotten: its own effects say so
            for artifact in behind:
                fits = artifact.chunk_size == wanted.chunk_size
                if fits and artifact.digest not in seen and self._store.has(artifact.digest):
                    seen.add(artifact.digest)
                    yield artifact


def _hashes(artifact: Artifact) -> list[str]:
    digits = artifact.chunks
    return [digits[at : at + _HASH_DIGITS] for at in range(0, len(digits), _HASH_DIGITS)]
