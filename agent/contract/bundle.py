"""An update in one file, for devices without a network: metadata, assignments, artifacts.

    ``FFB`` version(1) record… end

    record    kind(1) length of the name(u8) length of the content(u64 BE) name content
    M         trust metadata or a target, under its name in the repository
    A         the signed assignment of a device, under the device's id
    F         a file behind a release, under its SHA-256
    E         the end: the SHA-256 of everything before it but the contents of F

Rule 1: nothing in it is believed because it came by hand: metadata, assignment and files
        are verified as if they had come over the air. The digests only tell a damaged
        copy from a refused one.
Rule 2: records stand in the order M, A, F, E, each name once; nothing follows the end.
Rule 3: a reader keeps the metadata and one assignment, and where the files lie. Lengths are
        checked before anything is read.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import BinaryIO, Final

from agent.contract.limits import (
    DIGEST_PATTERN,
    MAX_ARTIFACT_BYTES,
    MAX_DOCUMENT_BYTES,
    MAX_MANIFEST_BYTES,
    NAME_PATTERN,
    TARGET_PATTERN,
)
from agent.refusals import AlteredBundleError, BadBundleError, TruncatedBundleError

MAX_METADATA_TOTAL: Final = 16 * 1024 * 1024
MAX_ASSIGNMENTS: Final = 100_000
MAX_FILES: Final = 1024
MAX_METADATA_RECORDS: Final = 1024
BLOCK_BYTES: Final = 256 * 1024
_MAGIC: Final = b"FFB\x01"
_RECORD: Final = struct.Struct(">cBQ")
_ORDER: Final = b"MAFE"
_NAMES: Final = {
    b"M": re.compile(TARGET_PATTERN),
    b"A": re.compile(NAME_PATTERN),
    b"F": re.compile(DIGEST_PATTERN),
    b"E": re.compile(r"^$(?!\n)"),
}
_LARGEST: Final = {
    b"M": MAX_MANIFEST_BYTES,
    b"A": MAX_DOCUMENT_BYTES,
    b"F": MAX_ARTIFACT_BYTES,
    b"E": sha256().digest_size,
}
_MOST: Final = {b"M": MAX_METADATA_RECORDS, b"A": MAX_ASSIGNMENTS, b"F": MAX_FILES, b"E": 1}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies in a bundle: offset and length, bytes."""

    at: int
    size: int


@dataclass(slots=True, kw_only=True)
class Bundle:
    """What one device needs to know of a bundle; nothing of it is believed yet.

    Attributes:
        metadata: Trust metadata and targets by name.
        assignment: That of the device; None where there is none.
        devices: How many devices it holds assignments for.
        files: Where the files behind releases lie, by SHA-256.

    """

    metadata: dict[str, bytes] = field(default_factory=dict)
    assignment: bytes | None = None
    devices: int = 0
    files: dict[str, Place] = field(default_factory=dict)


class BundleWriter:
    """Writes a bundle, record by record; in the order of the format."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = sha256()
        self._write(_MAGIC)

    def metadata(self, name: str, content: bytes) -> None:
        """Add trust metadata or a target."""
        self._write(_head(b"M", name, len(content)) + content)

    def assignment(self, device: str, document: bytes) -> None:
        """Add the signed assignment of a device."""
        self._write(_head(b"A", device, len(document)) + document)

    def file(self, digest: str, size: int, blocks: Iterable[bytes]) -> None:
        """Add a file of ``size`` bytes.

        Raises:
            AlteredBundleError: The blocks are not the bytes of this digest.

        """
        self._write(_head(b"F", digest, size))
        found, left = sha256(), size
        for block in blocks:
            self._out.write(block)
            found.update(block)
            left -= len(block)
        if left or found.hexdigest() != digest:
            raise AlteredBundleError(f"what came for file {digest[:16]} are not its bytes")

    def end(self) -> None:
        """Write the end; without it, nobody takes the bundle."""
        head = _head(b"E", "", self._hash.digest_size)
        self._out.write(head + self._hash.digest())

    def _write(self, content: bytes) -> None:
        self._hash.update(content)
        self._out.write(content)


def read_bundle(source: BinaryIO, device: str) -> Bundle:
    """Read a bundle to its end, and check that it is whole.

    Args:
        source: The file, at its beginning.
        device: Whose assignment is wanted.

    Raises:
        BadBundleError: It is no bundle, or is not written as one.
        TruncatedBundleError: It ends before its end.
        AlteredBundleError: Its bytes are not the ones that were written.

    """
    return _Reader(source, device).read()


class _Reader:
    def __init__(self, source: BinaryIO, device: str) -> None:
        self._source = source
        self._device = device
        self._hash = sha256()
        self._at = 0
        self._found = Bundle()
        self._seen: dict[bytes, set[str]] = {bytes((kind,)): set() for kind in _ORDER}
        self._metadata_bytes = 0

    def read(self) -> Bundle:
        if self._take(len(_MAGIC)) != _MAGIC:
            raise BadBundleError("this is no update bundle of a version that this program knows")
        before = b"M"
        while True:
            covered = self._hash.digest()
            kind, name, size = self._head(before)
            before = kind
            if kind == b"E":
                self._end(covered)
                return self._found
            self._keep(kind, name, size)

    def _head(self, before: bytes) -> tuple[bytes, str, int]:
        kind, length, size = _RECORD.unpack(self._take(_RECORD.size))
        if kind not in _NAMES or _ORDER.index(kind) < _ORDER.index(before):
            raise BadBundleError(f"the bundle has a record of kind {kind!r} where none belongs")
        name = self._take(length).decode("ascii", errors="replace")
        if not _NAMES[kind].fullmatch(name) or name in self._seen[kind]:
            raise BadBundleError(f"the bundle has a record with the name {name[:40]!r}")
        largest = _LARGEST[kind]
        if size > largest or (kind == b"E" and size != largest):
            raise BadBundleError(f"the bundle has a record of {size} bytes, at most {largest}")
        self._seen[kind].add(name)
        if len(self._seen[kind]) > _MOST[kind]:
            raise BadBundleError(f"the bundle has more than {_MOST[kind]} records of a kind")
        return kind, name, size

    def _keep(self, kind: bytes, name: str, size: int) -> None:
        match kind:
            case b"M":
                self._metadata_bytes += size
                if self._metadata_bytes > MAX_METADATA_TOTAL:
                    raise BadBundleError(f"the bundle has over {MAX_METADATA_TOTAL} of metadata")
                self._found.metadata[name] = self._take(size)
            case b"A":
                document = self._take(size)
                self._found.devices += 1
                if name == self._device:
                    self._found.assignment = document
            case _:
                self._found.files[name] = Place(self._at, size)
                self._pass_over(name, size)

    def _end(self, covered: bytes) -> None:
        if self._take(len(covered)) != covered:
            raise AlteredBundleError("the bundle was changed since it was written: copy it again")
        if self._source.read(1):
            raise BadBundleError("the bundle goes on after its end")

    def _pass_over(self, digest: str, size: int) -> None:
        found, left = sha256(), size
        while left:
            block = self._source.read(min(left, BLOCK_BYTES))
            if not block:
                raise self._cut()
            found.update(block)
            left -= len(block)
        self._at += size
        if found.hexdigest() != digest:
            raise AlteredBundleError(
                f"file {digest[:16]} of the bundle was changed since it was written: copy it again"
            )

    def _take(self, size: int) -> bytes:
        content = self._source.read(size)
        self._at += len(content)
        if len(content) < size:
            raise self._cut()
        self._hash.update(content)
        return content

    def _cut(self) -> TruncatedBundleError:
        return TruncatedBundleError("the bundle ends before its end: copy it again")


def _head(kind: bytes, name: str, size: int) -> bytes:
    text = name.encode()
    return _RECORD.pack(kind, len(text), size) + text
