"""The bytes behind releases, each under the name of its own SHA-256.

Rule 1: a name without a suffix is complete and was verified before it got that name.
Rule 2: ``.part`` and ``.map`` belong to a fetch in progress, ``.new`` to a torn write.
Rule 3: eviction never touches a kept release or an artifact behind it; when a kept
        manifest cannot be read, nothing is evicted.
"""

from collections.abc import Collection
from pathlib import Path

from agent.contract.manifest import Artifact, Release
from agent.disk import Disk

FOLDER = "store"


class Store:
    """Content-addressed files below ``store/``; manifests and artifacts alike."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def path(self, digest: str) -> Path:
        """Return where the bytes of a digest lie, or would lie."""
        raise NotImplementedError

    def has(self, digest: str) -> bool:
        """Return whether the bytes of a digest are complete in the store."""
        raise NotImplementedError

    def put(self, digest: str, content: bytes) -> None:
        """Keep bytes that are at hand whole, such as a manifest.

        Raises:
            CorruptError: Their SHA-256 is not ``digest``.
            DiskFullError: No space is left; nothing is kept.

        """
        raise NotImplementedError

    def verify(self, digest: str) -> None:
        """Return if the bytes on the disk still have their digest; reads all of them.

        Raises:
            CorruptError: They do not.
            StoreError: They are not there.

        """
        raise NotImplementedError

    def discard(self, digest: str) -> None:
        """Remove one file and what a fetch left of it."""
        raise NotImplementedError

    def read_manifest(self, digest: str) -> Release:
        """Return a release whose manifest is in the store; its hash is checked again.

        Raises:
            StoreError: It is not there.
            CorruptError: The bytes are no longer the ones that were believed.

        """
        raise NotImplementedError

    def missing(self, artifacts: Collection[Artifact]) -> tuple[Artifact, ...]:
        """Return the artifacts that are not complete in the store, in order.

        Give ``release.artifacts``, or only the chosen variant's model and the golden file.
        """
        raise NotImplementedError

    def evict(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove what none of the releases ``keep`` (manifest digests) needs.

        Returns:
            The names that were removed, sorted.

        """
        raise NotImplementedError


def require_room(disk: Disk, need_bytes: int, reserve_bytes: int) -> None:
    """Return if ``need_bytes`` more leave ``reserve_bytes`` free.

    Raises:
        DiskFullError: They would not; the sentence has the three figures.

    """
    raise NotImplementedError
