"""Which releases are published, by the digest of their manifest."""

from dataclasses import dataclass

from agent.contract.manifest import Release
from agent.contract.messages import Assigned


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

    def add(self, manifest: bytes, release: Release, digest: str, *, at_ms: int) -> Published:
        """Add a release; the same bytes again change nothing.

        Raises:
            RefusedError: ``digest`` or ``release`` is not that of ``manifest``.
            ConflictError: The target exists with other bytes, or the counter does not grow.

        """
        raise NotImplementedError

    def find(self, digest: str) -> Published | None:
        """Return the release with this manifest digest."""
        raise NotImplementedError

    def require(self, digest: str) -> Published:
        """Return the release with this manifest digest.

        Raises:
            NotFoundError: There is none.

        """
        raise NotImplementedError

    def by_version(self, family: str, version: str) -> Published | None:
        """Return a release by its name."""
        raise NotImplementedError

    def by_target(self, target: str) -> Published | None:
        """Return a release by its TUF target name."""
        raise NotImplementedError

    def listing(self, slot: str | None = None) -> list[Published]:
        """Return releases, oldest first."""
        raise NotImplementedError

    def next_counter(self, slot: str) -> int:
        """Return the counter that the slot's next release takes, from 1."""
        raise NotImplementedError

    def newest(self, slot: str) -> Published | None:
        """Return the slot's release with the highest counter."""
        raise NotImplementedError

    def lineage(self, digest: str) -> list[Published]:
        """Return the known ancestors, nearest first, each once.

        Raises:
            NotFoundError: The release itself is unknown.

        """
        raise NotImplementedError
