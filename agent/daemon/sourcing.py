"""What an artifact is made from on this device: its own bytes, or a source of it.

Rule 1: where a smaller source can be used here, it is fetched instead of the artifact. What
        lies in the store already is copied; a source that is larger than what is then still
        missing is left alone.
Rule 2: a source that fails is not used again in this life of the agent: after a delta comes
        compressed full, and after that the artifact itself, so that a try never costs more
        than twice its bytes and a delta.
Rule 3: an encrypted artifact is only made from its sealed sources. The full one is never
        given up for want of network.
"""

from collections.abc import Iterable
from typing import Final

from agent.contract.manifest import Artifact, Source
from agent.contract.sources import choose_source
from agent.daemon.host import event, log
from agent.daemon.seeding import Seeding
from agent.disk import Disk
from agent.errors import AgentError, StalledError, UnavailableError, UnsupportedError
from agent.link.fetch import FetchFailed
from agent.refusals import WrongArtifactError, WrongChunkError
from agent.update.store import FOLDER

_OF_THE_SOURCE: Final = frozenset(
    kind.code for kind in (StalledError, UnavailableError, WrongChunkError, WrongArtifactError)
)
"""Failures that speak of what is fetched, not of this device's disk."""


class Sourcing:
    """Which sources may be used, and which failed in this life."""

    def __init__(self, disk: Disk, seeding: Seeding | None) -> None:
        """``seeding`` knows what lies in the store; without it, every chunk is fetched."""
        self._disk = disk
        self._seeding = seeding
        self._refused: set[str] = set()
        self._stalled: set[str] = set()
        self._reasons: dict[str, AgentError] = {}

    def choose(self, wanted: Artifact) -> Source | None:
        """Return what to fetch instead of an artifact, if anything."""
        if self.is_here(wanted):
            return None
        source = choose_source(wanted, self._size_of, self._refused)
        if wanted.encrypted:
            return source
        here = self._seeding.shared_bytes(wanted) if self._seeding and source else 0
        return source if source and source.size < wanted.size - here else None

    def is_here(self, wanted: Artifact) -> bool:
        """Return whether an artifact lies in the store, as far as its length tells."""
        return self._size_of(wanted.digest) == wanted.size

    def seed(self, wanted: Artifact) -> None:
        """Copy the chunks of an artifact that lie in the store.

        Raises:
            StoreError: They cannot be written.

        """
        copied = self._seeding.seed(wanted) if self._seeding else 0
        if copied:
            log.info(event("copied", artifact=wanted.digest[:16], chunks=copied, of=wanted.count))

    def cannot_open(self, wanted: Artifact) -> FetchFailed:
        """Say why an encrypted artifact cannot be made; no other bytes of it travel."""
        plain = UnsupportedError("this agent knows none of the ways in which it was encrypted")
        why = self._reasons.get(wanted.digest, plain)
        return FetchFailed(digest=wanted.digest, code=why.code, why=str(why), retryable=False)

    def gives_up(self, wanted: Artifact, source: Source, failure: FetchFailed) -> bool:
        """Return whether the artifact is now fetched whole: its source is bad, or stalled twice."""
        if wanted.encrypted and source.base is None:
            return False  # there is nothing else to be had
        first = failure.code == StalledError.code and source.digest not in self._stalled
        if first or failure.code not in _OF_THE_SOURCE:
            self._stalled.add(source.digest)
            return False
        log.warning(event("source-refused", source=source.digest[:16], why=failure.why))
        return True

    def could_not_make(self, digest: str, source: Source, why: AgentError) -> None:
        """Remember why an artifact could not be made of a source."""
        log.warning(event("source-refused", source=source.digest[:16], kind=source.kind, why=why))
        self._reasons[digest] = why

    def refuse(self, source: Source, made: Iterable[Artifact]) -> None:
        """Leave a source alone; a delta that fails takes the artifact's other deltas with it."""
        self._refused.add(source.digest)
        if source.base is None:
            return
        for wanted in made:
            if source in wanted.sources:
                self._refused |= {s.digest for s in wanted.sources if s.base is not None}

    def _size_of(self, digest: str) -> int | None:
        path = self._disk.path(f"{FOLDER}/{digest}")
        return path.stat().st_size if path.is_file() else None
