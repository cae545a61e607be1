"""Which releases are published, by the digest of their manifest."""

import sqlite3
from dataclasses import dataclass
from hashlib import sha256

from agent.contract.manifest import Release, decode_release
from agent.contract.messages import Assigned
from fleet.errors import ConflictError, NotFoundError, RefusedError
from fleet.registry.database import Database
from fleet.registry.events import Events
from fleet.registry.lineage import ancestors


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A release that the fleet has signed.

    Attributes:
        digest: SHA-256 of the manifest bytes, hex.
        manifest: The exact bytes: the TUF target.
        added_ms: Wall clock of the manager, ms since 1970.

    """

    digest: str
    manifest: bytes
    release: Release
    added_ms: int

    @property
    def assigned(self) -> Assigned:
        """What an assignment says to want this release."""
        return Assigned(
            target=self.release.target, digest=self.digest, counter=self.release.counter
        )


class Models:
    """Published releases."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def add(self, manifest: bytes, release: Release, digest: str, *, at_ms: int) -> Published:
        """Add a release; the same bytes again change nothing.

        Raises:
            RefusedError: ``digest`` or ``release`` is not that of ``manifest``.
            ConflictError: The target exists with other bytes, or the counter does not grow.

        """
        if sha256(manifest).hexdigest() != digest or decode_release(manifest) != release:
            raise RefusedError(f"{release.target}: digest, release and manifest do not agree")
        with self._database.joined():
            known = self.by_target(release.target)
            if known is not None and known.digest == digest:
                return known
            other = self.by_version(release.family, release.version)
            if known is None and other is not None:
                raise ConflictError(
                    f"{release.family} {release.version} is published already, as "
                    f"{other.release.target}"
                )
            if known is not None:
                raise ConflictError(f"{release.target} is published already with other bytes")
            if release.counter < self.next_counter(release.slot):
                raise ConflictError(
                    f"counter {release.counter} of {release.target} is not above those of slot "
                    f"{release.slot}; the next is {self.next_counter(release.slot)}"
                )
            self._database.write(
                "INSERT INTO models "
                "(digest, target, family, version, slot, counter, manifest, added_ms) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                digest,
                release.target,
                release.family,
                release.version,
                release.slot,
                release.counter,
                manifest,
                at_ms,
            )
            body = {"target": release.target, "slot": release.slot, "counter": release.counter}
            self._events.record("release.published", digest, body, at_ms=at_ms)
        return Published(digest=digest, manifest=manifest, release=release, added_ms=at_ms)

    def find(self, digest: str) -> Published | None:
        """Return the release with this manifest digest."""
        row = self._database.row("SELECT * FROM models WHERE digest = ?", digest)
        return _published(row) if row else None

    def require(self, digest: str) -> Published:
        """Return the release with this manifest digest.

        Raises:
            NotFoundError: There is none.

        """
        found = self.find(digest)
        if found is None:
            raise NotFoundError(f"no release {digest[:16]} is published")
        return found

    def by_version(self, family: str, version: str) -> Published | None:
        """Return a release by its name."""
        places = (f"models/{family}/{part}{version}.json" for part in ("", "rounds/"))
        return next((found for place in places if (found := self.by_target(place))), None)

    def by_target(self, target: str) -> Published | None:
        """Return a release by its TUF target name."""
        row = self._database.row("SELECT * FROM models WHERE target = ?", target)
        return _published(row) if row else None

    def listing(self, slot: str | None = None) -> list[Published]:
        """Return releases, oldest first."""
        rows = self._database.rows(
            "SELECT * FROM models WHERE ?1 IS NULL OR slot = ?1 ORDER BY rowid", slot
        )
        return [_published(row) for row in rows]

    def next_counter(self, slot: str) -> int:
        """Return the counter that the slot's next release takes, from 1."""
        row = self._database.row("SELECT max(counter) AS top FROM models WHERE slot = ?", slot)
        return 1 + ((row["top"] if row else None) or 0)

    def newest(self, slot: str) -> Published | None:
        """Return the slot's release with the highest counter."""
        row = self._database.row(
            "SELECT * FROM models WHERE slot = ? ORDER BY counter DESC LIMIT 1", slot
        )
        return _published(row) if row else None

    def lineage(self, digest: str) -> list[Published]:
        """Return the known ancestors, nearest first, each once.

        Raises:
            NotFoundError: The release itself is unknown.

        """
        self.require(digest)
        found = {
            parent: release
            for parent in ancestors(self._parents, digest)
            if (release := self.find(parent)) is not None
        }
        return list(found.values())

    def _parents(self, digest: str) -> tuple[str, ...]:
        found = self.find(digest)
        return found.release.lineage.parents if found else ()


def _published(row: sqlite3.Row) -> Published:
    return Published(
        digest=row["digest"],
        manifest=row["manifest"],
        release=decode_release(row["manifest"]),
        added_ms=row["added_ms"],
    )
