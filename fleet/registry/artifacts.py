"""The bytes behind releases, one file each, named by their SHA-256."""

from pathlib import Path


class Artifacts:
    """Content-addressed files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Keep some bytes durably and return their digest; known bytes are a no-op.

        Raises:
            RegistryError: The disk refuses.

        """
        raise NotImplementedError

    def has(self, digest: str) -> bool:
        """Return whether the bytes of this digest are kept."""
        raise NotImplementedError

    def size(self, digest: str) -> int:
        """Return the length in bytes.

        Raises:
            NotFoundError: They are not kept here.

        """
        raise NotImplementedError

    def read(self, digest: str) -> bytes:
        """Return all bytes, checked against the digest.

        Raises:
            NotFoundError: They are not kept here.
            RegistryError: The file is damaged.

        """
        raise NotImplementedError

    def read_range(
        self, digest: str, first: int, count: int, chunk_size: int
    ) -> tuple[int, list[bytes]]:
        """Return the total number of chunks, and chunks ``first`` to ``first + count - 1``.

        Chunks past the end are left out. Not checked against the digest: the reader checks
        each by the signed manifest.

        Raises:
            NotFoundError: They are not kept here.

        """
        raise NotImplementedError
