"""The beginning of the event log as files: written, read back, and only then removed.

An archive is gzipped text: a line ``{"v": 1, "first", "last", "before"}``, then one line
``[number, kind, subject, at_ms, body, digest]`` for each entry, the body as its exact text.

Rule 1: the chain goes on in the log where an archive ends: the digest of its last entry is
        kept in the registry, where triggers refuse to change or remove it.
Rule 2: an entry leaves the registry only after its file was read back from the medium and
        proved to be the same chain.
Rule 3: a file may be moved away, and may be missing when the chain is checked; one that is
        there must be the one that was written.
"""

import gzip
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Final

import msgspec

from fleet.durable import sync_folder
from fleet.errors import RegistryError

FORMAT: Final = 1
BEFORE_THE_FIRST: Final = "0" * 64
_LINE: Final = msgspec.json.Decoder(tuple[int, str, str, int, str, str])
Entry = tuple[int, str, str, int, str]
"""Number, kind, subject, at_ms and the body's exact text."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of an archive."""

    v: int
    first: int
    last: int
    before: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One file of archived entries, as the registry remembers it.

    Attributes:
        first, last: Numbers of its entries.
        before, digest: The chain before its first and after its last entry, hex.
        name: Of its file.
        sha256: Of its bytes, hex.
        at_ms: When it was made, ms since 1970.

    """

    first: int
    last: int
    before: str
    digest: str
    name: str
    sha256: str
    at_ms: int


def chained(before: str, entry: Entry) -> str:
    """Return the digest of the chain after an entry."""
    return sha256(bytes.fromhex(before) + msgspec.json.encode(entry)).hexdigest()


def write_archive(
    folder: Path, entries: Iterable[tuple[Entry, str]], before: str, *, at_ms: int
) -> Archive:
    """Write entries, each with its digest, and read them back.

    What an interrupted attempt left under the same first number is removed.

    Raises:
        RegistryError: The disk refuses, or the entries are no chain.

    """
    known = list(entries)
    (first, *_), (last, *_) = known[0][0], known[-1][0]
    lines = [msgspec.json.encode(Head(v=FORMAT, first=first, last=last, before=before))]
    lines += [msgspec.json.encode((*entry, digest)) for entry, digest in known]
    content = gzip.compress(b"\n".join(lines) + b"\n", mtime=0)
    path = folder / f"events-{first:012}-{last:012}.jsonl.gz"
    archive = Archive(
        first=first,
        last=last,
        before=before,
        digest=known[-1][1],
        name=path.name,
        sha256=sha256(content).hexdigest(),
        at_ms=at_ms,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in [*folder.glob(f"events-{first:012}-*"), *folder.glob(".new-*")]:
            left.unlink()
        fresh = folder / f".new-{path.name}"
        with fresh.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(folder)
    except OSError as why:
        raise RegistryError(f"archive {path}: {why.strerror or why}") from why
    check_archive(folder, archive)
    return archive


def check_archive(folder: Path, archive: Archive) -> bool:
    """Recompute the chain of an archive; False if its file is not here.

    Raises:
        RegistryError: The file is not the one that was written.

    """
    path = folder / archive.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as why:
        raise RegistryError(f"archive {path}: {why.strerror or why}") from why
    if sha256(content).hexdigest() != archive.sha256:
        raise RegistryError(f"archive {path} is not the one that was written")
    digest, expected = archive.before, archive.first
    for entry, told in read_archive(content, path):
        digest = chained(digest, entry)
        if entry[0] != expected or digest != told:
            raise RegistryError(
                f"archive {path}: event {expected} is not the one that was recorded"
            )
        expected += 1
    if (expected, digest) != (archive.last + 1, archive.digest):
        raise RegistryError(f"archive {path} ends before event {archive.last}")
    return True


def read_archive(content: bytes, path: Path) -> Iterator[tuple[Entry, str]]:
    """Yield every entry of an archive's bytes, with its digest.

    Raises:
        RegistryError: The bytes are no archive, or of a newer form.

    """
    try:
        with gzip.open(BytesIO(content)) as lines:
            head = msgspec.json.decode(next(lines, b""), type=Head)
            if head.v != FORMAT:
                raise RegistryError(
                    f"archive {path} has form {head.v}, this program knows {FORMAT}"
                )
            for line in lines:
                number, kind, subject, at_ms, body, digest = _LINE.decode(line)
                yield (number, kind, subject, at_ms, body), digest
    except (OSError, EOFError, ValueError, msgspec.MsgspecError) as why:
        raise RegistryError(f"archive {path} cannot be read: {why}") from why
