"""The bytes behind releases, one file each, named by their SHA-256."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from io import FileIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from agent.contract.limits import DIGEST_PATTERN
from fleet.errors import NotFoundError, RegistryError

_DIGEST: Final = re.compile(DIGEST_PATTERN)


class Artifacts:
    """Content-addressed files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Keep some bytes durably and return their digest; known bytes are a no-op.

        Raises:
            RegistryError: The disk refuses.

        """
        digest = sha256(content).hexdigest()
        target = self.folder / digest
        with _named(target):
            if target.exists():
                return digest
            self.folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.folder, prefix=".new-", delete=False) as file:
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).replace(target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            opened = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        return digest

    def has(self, digest: str) -> bool:
        """Return whether the bytes of this digest are kept."""
        return bool(_DIGEST.fullmatch(digest)) and (self.folder / digest).is_file()

    def size(self, digest: str) -> int:
        """Return the length in bytes.

        Raises:
            NotFoundError: They are not kept here.

        """
        path = self._kept(digest)
        with _named(path):
            return path.stat().st_size

    def read(self, digest: str) -> bytes:
        """Return all bytes, checked against the digest.

        Raises:
            NotFoundError: They are not kept here.
            RegistryError: The file is damaged.

        """
        path = self._kept(digest)
        with _named(path):
            content = path.read_bytes()
        if sha256(content).hexdigest() != digest:
            raise RegistryError(f"artifact {path} is damaged: restore it from a backup")
        return content

    def read_range(
        self, digest: str, first: int, count: int, chunk_size: int
    ) -> tuple[int, list[bytes]]:
        """Return the total number of chunks, and chunks ``first`` to ``first + count - 1``.

        Chunks past the end are left out. Not checked against the digest: the reader checks
        each by the signed manifest.

        Raises:
            NotFoundError: They are not kept here.

        """
        path = self._kept(digest)
        with _named(path), path.open("rb") as file:
            total = -(-os.fstat(file.fileno()).st_size // chunk_size)
            file.seek(first * chunk_size)
            last = min(first + count, total)
            return total, [file.read(chunk_size) for _ in range(first, last)]

    def open(self, digest: str) -> FileIO:
        """Return the open file of this digest, for many reads; the caller closes it.

        Raises:
            NotFoundError: They are not kept here.

        """
        path = self._kept(digest)
        with _named(path):
            return FileIO(path)

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise NotFoundError(f"{digest[:80]!r} is no digest of an artifact")
        return self.folder / digest

    def _kept(self, digest: str) -> Path:
        path = self._path(digest)
        if not path.is_file():
            raise NotFoundError(f"artifact {digest[:16]} is not kept here")
        return path


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise RegistryError(f"artifact {path}: {why.strerror or why}") from why
