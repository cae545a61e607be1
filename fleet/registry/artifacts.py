"""The bytes behind releases, one file each, named by their SHA-256."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from io import FileIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Final

from agent.contract.limits import DIGEST_PATTERN
from fleet.durable import sync_folder
from fleet.errors import DiskFullError, NotFoundError, RefusedError, RegistryError
from fleet.registry.room import require_room

_DIGEST: Final = re.compile(DIGEST_PATTERN)
_UNFINISHED: Final = ".new-"
_LOOK_BYTES: Final = 8 * 1024 * 1024
"""After so many bytes of an upload, the room on the disk is looked at again."""


class Artifacts:
    """Content-addressed files in one folder.

    Args:
        folder: Made when the first comes.
        reserve_bytes: What stays free on its disk.

    """

    def __init__(self, folder: Path, *, reserve_bytes: int = 0) -> None:
        self.folder = folder
        self._reserve_bytes = reserve_bytes

    def put(self, content: bytes) -> str:
        """Keep some bytes durably and return their digest; known bytes are a no-op.

        Raises:
            RegistryError: The disk refuses.

        """
        digest = sha256(content).hexdigest()
        if not self.has(digest):
            with self.receive(digest, len(content)) as upload:
                upload.write(content)
        return digest

    @contextmanager
    def receive(self, digest: str, size_bytes: int = 0) -> Iterator["Upload"]:
        """Take the bytes of a digest piece by piece; they are kept once all came and fit it.

        Args:
            digest: Theirs, hex.
            size_bytes: How many will come, as far as that is known.

        Raises:
            NotFoundError: It is no digest.
            RefusedError: The bytes are of another digest; nothing is kept.
            DiskFullError: There is no room for them beside the reserve; nothing is kept.
            RegistryError: The disk refuses; nothing is kept.

        """
        target = self._path(digest)
        require_room(self.folder, size_bytes, self._reserve_bytes)
        with _named(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.folder, prefix=_UNFINISHED, delete=False) as file:
                try:
                    upload = Upload(file, target, self._reserve_bytes)
                    yield upload
                    upload.require(digest)
                    file.flush()
                    os.fsync(file.fileno())
                    Path(file.name).replace(target)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            sync_folder(self.folder)

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

    def check(self, digest: str) -> None:
        """Read everything once, in pieces, against the digest.

        Raises:
            NotFoundError: They are not kept here.
            RegistryError: The file is damaged.

        """
        path = self._kept(digest)
        with _named(path), path.open("rb") as file:
            found = file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise RegistryError(f"artifact {path} is damaged: restore it from a backup")

    def older(self, before_ms: int) -> dict[str, int]:
        """Return name and size of every file that is from before a moment.

        Uploads that a crash cut off are among them.
        """
        found = {}
        with _named(self.folder):
            for entry in os.scandir(self.folder) if self.folder.is_dir() else ():
                if not _DIGEST.fullmatch(entry.name) and not entry.name.startswith(_UNFINISHED):
                    continue
                told = entry.stat(follow_symlinks=False)
                if told.st_mtime_ns // 1_000_000 < before_ms:
                    found[entry.name] = told.st_size
        return found

    def remove(self, name: str) -> None:
        """Remove a file that ``older`` named; one that is gone is no error."""
        path = self.folder / name
        with _named(path):
            path.unlink(missing_ok=True)

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


class Upload:
    """What came of an artifact so far."""

    def __init__(self, file: IO[bytes], target: Path, reserve_bytes: int) -> None:
        self._file, self._target, self._seen = file, target, sha256()
        self._reserve_bytes, self._unlooked_bytes = reserve_bytes, 0

    def write(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            DiskFullError: There is no room for them beside the reserve.
            RegistryError: The disk refuses.

        """
        self._unlooked_bytes += len(piece)
        if self._unlooked_bytes > _LOOK_BYTES:
            require_room(self._target.parent, len(piece), self._reserve_bytes)
            self._unlooked_bytes = 0
        with _named(self._target):
            self._file.write(piece)
        self._seen.update(piece)

    def require(self, digest: str) -> None:
        """Return if all bytes of a digest came.

        Raises:
            RefusedError: They are of another one.

        """
        found = self._seen.hexdigest()
        if found != digest:
            raise RefusedError(f"the uploaded bytes have digest {found}, not {digest}")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        kind = DiskFullError if why.errno in {errno.ENOSPC, errno.EDQUOT} else RegistryError
        raise kind(f"artifact {path}: {why.strerror or why}") from why
