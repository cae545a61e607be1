"""What happened: an append-only log in which every entry names the one before it.

Rule 1: ``digest`` is SHA-256 over the digest before it and the entry's canonical bytes,
        a JSON array of number, kind, subject, at_ms and the body's exact text.
Rule 2: numbers have no holes; triggers in the file refuse to change or remove a row, but
        for the oldest ones once they lie in an archive (``archive``).
Rule 3: a chain cannot show that its end was cut off: write ``head()`` down elsewhere.
"""

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fleet.errors import RegistryError
from fleet.registry.archive import (
    BEFORE_THE_FIRST,
    Archive,
    Entry,
    chained,
    check_archive,
    write_archive,
)
from fleet.registry.database import Database, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One entry of the log.

    Attributes:
        number: Position, from 1 without holes.
        kind: What happened, ``device.enrolled``.
        subject: Whom it happened to: a device, a digest, a rollout, a run.
        body: What else is known.
        at_ms: Wall clock of the manager, ms since 1970.
        digest: SHA-256 of the chain up to this entry, hex.

    """

    number: int
    kind: str
    subject: str
    body: Mapping[str, object]
    at_ms: int
    digest: str


class Events:
    """The log. Entries are never changed or removed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, kind: str, subject: str, body: Mapping[str, object], *, at_ms: int) -> int:
        """Append one entry and return its number."""
        text = msgspec.json.encode(body, order="sorted").decode()
        with self._database.joined():
            last, before = self.head()
            number = last + 1
            self._database.write(
                "INSERT INTO events (number, kind, subject, body, at_ms, digest) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                number,
                kind,
                subject,
                text,
                at_ms,
                chained(before, (number, kind, subject, at_ms, text)),
            )
            return number

    def read(
        self,
        *,
        after: int = 0,
        kinds: Collection[str] = (),
        subject: str | None = None,
        limit: int = 1000,
    ) -> list[Recorded]:
        """Return entries with a number above ``after``, oldest first; no kinds is every kind."""
        where = ["number > ?"]
        values: list[Value] = [after]
        if subject is not None:
            where.append("subject = ?")
            values.append(subject)
        if kinds:
            where.append(f"kind IN ({', '.join('?' * len(kinds))})")
            values.extend(kinds)
        sql = f"SELECT * FROM events WHERE {' AND '.join(where)} ORDER BY number LIMIT ?"  # noqa: S608 - fixed texts
        return [_recorded(row) for row in self._database.rows(sql, *values, limit)]

    def steps(self, kind: str, subject: str) -> list[bytes]:
        """Return the journalled event of every entry of a kind, as JSON, oldest first."""
        found: list[bytes] = []
        after = 0
        while entries := self.read(after=after, kinds=(kind,), subject=subject):
            found.extend(msgspec.json.encode(entry.body["event"]) for entry in entries)
            after = entries[-1].number
        return found

    def head(self) -> tuple[int, str]:
        """Return number and digest of the newest entry: what an auditor writes down."""
        row = self._database.row("SELECT number, digest FROM events ORDER BY number DESC LIMIT 1")
        return (row["number"], row["digest"]) if row else self._begins()

    def archives(self) -> list[Archive]:
        """Return the files in which the beginning of the log lies, oldest first."""
        rows = self._database.rows("SELECT * FROM event_archives ORDER BY last")
        return [Archive(**{name: row[name] for name in row.keys()}) for row in rows]  # noqa: SIM118 - a row is no mapping

    def older(self, before_ms: int, *, limit: int) -> int:
        """Return how many of the oldest entries are from before a moment, at most ``limit``.

        The first younger one ends the count, also where the clock was put back after it.
        """
        rows = self._database.rows("SELECT at_ms FROM events ORDER BY number LIMIT ?", limit)
        return next((n for n, row in enumerate(rows) if row["at_ms"] >= before_ms), len(rows))

    def archive(self, count: int, folder: Path, *, at_ms: int) -> Archive:
        """Move the ``count`` oldest entries to a file.

        Raises:
            RegistryError: The disk refuses, or the chain of these entries does not hold.

        """
        with self._database.joined():
            _, before = self._begins()
            rows = self._database.rows("SELECT * FROM events ORDER BY number LIMIT ?", count)
            if not rows:
                raise RegistryError("the event log holds nothing that could be archived")
            made = write_archive(
                folder, [(_entry(row), row["digest"]) for row in rows], before, at_ms=at_ms
            )
            self._database.write(
                "INSERT INTO event_archives (first, last, before, digest, name, sha256, at_ms) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                made.first,
                made.last,
                made.before,
                made.digest,
                made.name,
                made.sha256,
                made.at_ms,
            )
            self._database.write("DELETE FROM events WHERE number <= ?", made.last)
            return made

    def verify_chain(self, archives: Path | None = None) -> int:
        """Recompute every digest; returns how many archives are not in their folder.

        Args:
            archives: Where they lie; None leaves them out.

        Raises:
            RegistryError: An entry was changed, removed or inserted; names its number.

        """
        before, expected, missing = BEFORE_THE_FIRST, 1, 0
        for archive in self.archives():
            if (archive.first, archive.before) != (expected, before):
                raise RegistryError(f"the archive that begins with event {expected} is missing")
            if archives is not None:
                missing += not check_archive(archives, archive)
            before, expected = archive.digest, archive.last + 1
        while rows := self._database.rows(
            "SELECT * FROM events WHERE number >= ? ORDER BY number LIMIT 1000", expected
        ):
            for row in rows:
                if row["number"] != expected:
                    raise RegistryError(f"event {expected} is missing from the log")
                before = chained(before, _entry(row))
                if before != row["digest"]:
                    raise RegistryError(f"event {expected} is not the one that was recorded")
                expected += 1
        return missing

    def _begins(self) -> tuple[int, str]:
        row = self._database.row("SELECT last, digest FROM event_archives ORDER BY last DESC")
        return (row["last"], row["digest"]) if row else (0, BEFORE_THE_FIRST)


def _entry(row: sqlite3.Row) -> Entry:
    return row["number"], row["kind"], row["subject"], row["at_ms"], row["body"]


def _recorded(row: sqlite3.Row) -> Recorded:
    return Recorded(
        number=row["number"],
        kind=row["kind"],
        subject=row["subject"],
        body=msgspec.json.decode(row["body"], type=dict[str, object]),
        at_ms=row["at_ms"],
        digest=row["digest"],
    )
