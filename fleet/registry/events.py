"""What happened: an append-only log in which every entry names the one before it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One entry of the log.

    Attributes:
        number: Position, from 1 without holes.
        kind: What happened, ``device.enrolled``.
        subject: Whom it happened to: a device, a digest, a rollout, a run.
        body: What else is known.
        at_ms: Wall clock of the manager, ms since 1970.
        digest: SHA-256 over the digest before it and this entry's canonical bytes, hex.

    """

    number: int
    kind: str
    subject: str
    body: Mapping[str, object]
    at_ms: int
    digest: str


class Events:
    """The log. Entries are never changed or removed."""

    def record(self, kind: str, subject: str, body: Mapping[str, object], *, at_ms: int) -> int:
        """Append one entry and return its number."""
        raise NotImplementedError

    def read(
        self,
        *,
        after: int = 0,
        kinds: Collection[str] = (),
        subject: str | None = None,
        limit: int = 1000,
    ) -> list[Recorded]:
        """Return entries with a number above ``after``, oldest first; no kinds is every kind."""
        raise NotImplementedError

    def head(self) -> tuple[int, str]:
        """Return number and digest of the newest entry: what an auditor writes down."""
        raise NotImplementedError

    def verify_chain(self) -> None:
        """Recompute every digest.

        Raises:
            RegistryError: An entry was changed, removed or inserted; names its number.

        """
        raise NotImplementedError
