"""The bytes behind releases, each under the name of its own SHA-256.

Rule 1: a name without a suffix is complete and was verified before it got that name.
Rule 2: ``.part`` and ``.map`` belong to a fetch in progress, ``.new`` to a torn write.
Rule 3: eviction never touches a kept release or an artifact behind it; when a kept
        manifest cannot be read, nothing is evicted. A source is kept until its artifact
        is made.
"""

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from hashlib import file_digest
from pathlib import Path
from typing import Final

from agent.contract.frames import check_attachment
from agent.contract.limits import DIGEST_PATTERN
from agent.contract.manifest import Artifact, Release, decode_release
from agent.disk import Disk
from agent.errors import AgentError, CorruptError, DiskFullError, StoreError
from agent.refusals import RottenError, WrongArtifactError
from agent.update.seals import Seals, read_seal

FOLDER: Final = "store"
_UNFINISHED: Final = (".part", ".map", ".map.new", ".new")
_DIGEST: Final = re.compile(DIGEST_PATTERN)


class Store:
    """Content-addressed files below ``store/``; manifests and artifacts alike."""

    def __init__(self, disk: Disk, seals: Seals | None = None) -> None:
        """``seals`` spares ``require`` from hashing again what was hashed lately."""
        self.disk = disk
        self.seals = seals or Seals()

    def path(self, digest: str) -> Path:
        """Return where the bytes of a digest lie, or would lie."""
        return self.disk.path(_name(digest))

    def has(self, digest: str) -> bool:
        """Return whether the bytes of a digest are complete in the store."""
        return self.path(digest).is_file()

    def put(self, digest: str, content: bytes) -> None:
        """Keep bytes that are at hand whole, such as a manifest.

        Raises:
            CorruptError: Their SHA-256 is not ``digest``.
            DiskFullError: No space is left; nothing is kept.

        """
        _verified(digest, content)
        if self.disk.read(_name(digest)) != content:  # absent, or rotten
            self.disk.replace(_name(digest), content)

    def put_blocks(self, digest: str, blocks: Iterable[bytes]) -> None:
        """Keep bytes that come block by block, hashed from the disk before they get their name.

        Raises:
            CorruptError: Their SHA-256 is not ``digest``; nothing is kept.
            AgentError: Whatever ``blocks`` raises; nothing is kept.
            DiskFullError: No space is left; nothing is kept.

        """
        new = f"{_name(digest)}.new"
        self.disk.remove(new)  # what a power cut left of another try
        try:
            at = 0
            for block in blocks:
                self.disk.patch(new, at, block)
                at += len(block)
            self.disk.sync(new)
            found = self._hash(new)
            if found != digest:
                raise WrongArtifactError(
                    f"what was made for {digest[:16]} has SHA-256 {found[:16]}"
                )
        except AgentError:
            self.disk.remove(new)
            raise
        self.disk.rename(new, _name(digest))
        self.seal(digest)

    def _hash(self, name: str) -> str:
        try:
            with self.disk.path(name).open("rb") as file:
                return file_digest(file, "sha256").hexdigest()
        except OSError as why:
            raise StoreError(f"{name} cannot be read: {why.strerror or why}") from why

    def verify(self, digest: str) -> None:
        """Return if the bytes on the disk still have their digest; reads all of them.

        Raises:
            CorruptError: They do not.
            StoreError: They are not there.

        """
        try:
            with self.path(digest).open("rb") as file:
                seal = read_seal(file.fileno())
                found = file_digest(file, "sha256").hexdigest()
        except OSError as why:
            raise StoreError(f"{_name(digest)} cannot be read: {why.strerror or why}") from why
        if found != digest:
            raise RottenError(f"{_name(digest)} now has SHA-256 {found}: the medium may be failing")
        self.seals.keep(digest, seal)

    def require(self, digest: str) -> None:
        """Return if the bytes have their digest; hashes only what no unbroken seal vouches for.

        Raises:
            CorruptError: They do not.
            StoreError: They are not there.

        """
        if not self.seals.unbroken(digest, self.path(digest)):
            self.verify(digest)

    def seal(self, digest: str) -> None:
        """Note that the bytes of a digest were hashed from the disk this moment."""
        with suppress(OSError):
            self.seals.keep(digest, read_seal(self.path(digest)))

    def discard(self, digest: str) -> None:
        """Remove one file and what a fetch left of it."""
        for suffix in ("", *_UNFINISHED):
            if self.disk.path(_name(digest) + suffix).exists():
                self.disk.remove(_name(digest) + suffix)

    def discard_rotten(self, digest: str) -> tuple[str, ...]:
        """Remove what of a release no longer has its digest, so that it is fetched again.

        Reads every byte behind the release: only for one that was found rotten.

        Returns:
            The digests that were removed.

        """
        try:
            behind = tuple(a.digest for a in self.read_manifest(digest).artifacts)
        except AgentError:
            behind = ()
        rotten = []
        for name in dict.fromkeys((digest, *behind)):
            try:
                if self.has(name):
                    self.verify(name)
            except CorruptError:
                self.discard(name)
                rotten.append(name)
        return tuple(rotten)

    def read_manifest(self, digest: str) -> Release:
        """Return a release whose manifest is in the store; its hash is checked again.

        Raises:
            StoreError: It is not there.
            CorruptError: The bytes are no longer the ones that were believed.
            ContractError: They are the right bytes, but not a manifest known here.

        """
        return decode_release(self.read(digest))

    def read(self, digest: str) -> bytes:
        """Return the bytes of a manifest.

        Raises:
            StoreError: They are not there.
            CorruptError: They are no longer the ones of their digest.

        """
        content = self.disk.read(_name(digest))
        if content is None:
            raise StoreError(f"manifest {digest[:16]} is not in the store")
        return _verified(digest, content)

    def missing(self, artifacts: Collection[Artifact]) -> tuple[Artifact, ...]:
        """Return the artifacts that are not complete in the store, in order.

        Give ``release.artifacts``, or only the chosen variant's model and the golden file.
        """
        return tuple(a for a in artifacts if not self._holds(a))

    def used_bytes(self, besides: Collection[str]) -> int:
        """Return what the store takes on the disk, without the files of some digests.

        Raises:
            StoreError: The store cannot be looked at.

        """
        try:
            found = [
                self.disk.path(f"{FOLDER}/{name}").stat().st_blocks
                for name in self.disk.names(FOLDER)
                if name[:64] not in besides
            ]
        except OSError as why:
            raise StoreError(f"{FOLDER} cannot be looked at: {why.strerror or why}") from why
        return 512 * sum(found)

    def evict(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove what none of the releases ``keep`` (manifest digests) needs.

        Returns:
            The names that were removed, sorted.

        """
        needed = self._needed(keep)
        if needed is None:
            return ()
        gone = []
        for name in self.disk.names(FOLDER):
            digest, suffix = name[:64], name[64:]
            finished = digest in needed and self.has(digest)
            if digest not in needed or suffix.endswith(".new") or (suffix and finished):
                self.disk.remove(f"{FOLDER}/{name}")
                gone.append(name)
        return tuple(gone)

    def _needed(self, keep: Collection[str]) -> set[str] | None:
        needed = set(keep)
        for digest in keep:
            # a release whose fetch only begins has no manifest yet, and nothing behind it
            if self.has(digest):
                try:
                    behind = self.read_manifest(digest).artifacts
                    needed |= {a.digest for a in behind}
                    unmade = (a for a in behind if not self.has(a.digest))
                    needed |= {source.digest for a in unmade for source in a.sources}
                except AgentError:
                    return None
        return needed

    def _holds(self, artifact: Artifact) -> bool:
        try:
            return self.path(artifact.digest).stat().st_size == artifact.size
        except FileNotFoundError:
            return False
        except OSError as why:
            raise StoreError(f"{_name(artifact.digest)}: {why.strerror or why}") from why


def require_room(disk: Disk, need_bytes: int, reserve_bytes: int) -> None:
    """Return if ``need_bytes`` more leave ``reserve_bytes`` free.

    Raises:
        DiskFullError: They would not; the sentence has the three figures.

    """
    free = disk.free_bytes()
    if free < need_bytes + reserve_bytes:
        raise DiskFullError(
            f"{need_bytes} bytes are needed beside a reserve of {reserve_bytes}, "
            f"and {disk.root} has {free} free: free some space there"
        )


def _verified(digest: str, content: bytes) -> bytes:
    try:
        return check_attachment(content, digest)
    except CorruptError as why:
        raise CorruptError(f"bytes are not the ones of digest {digest[:16]}") from why


def _name(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise StoreError(f"{digest[:80]!r} is not a SHA-256 in hex and cannot name a file")
    return f"{FOLDER}/{digest}"
