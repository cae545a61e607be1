"""What happened: an append-only log in which every entry names the one before it.

Rule 1: ``digest`` is SHA-256 over the digest before it and the entry's canonical bytes,
        a JSON array of number, kind, subject, at_ms and the body's exact text.
Rule 2: numbers have no holes; triggers in the file refuse to change or remove a row.
Rule 3: a chain cannot show that its end was cut off: write ``head()`` down elsewhere.
"""

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256

import msgspec

from fleet.errors import RegistryError
from fleet.registry.database import Database, Value

_BEFORE_THE_FIRST = "0" * 64


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
                _digest(before, (number, kind, subject, at_ms, text)),
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
        return (row["number"], row["digest"]) if row else (0, _BEFORE_THE_FIRST)

    def verify_chain(self) -> None:
        """Recompute every digest.

        Raises:
            RegistryError: An entry was changed, removed or inserted; names its number.

        """
        before, expected = _BEFORE_THE_FIRST, 1
        while rows := self._database.rows(
            "SELECT * FROM events WHERE number >= ? ORDER BY number LIMIT 1000", expected
        ):
            for row in rows:
                if row["number"] != expected:
                    raise RegistryError(f"event {expected} is missing from the log")
                entry = (expected, row["kind"], row["subject"], row["at_ms"], row["body"])
                before = _digest(before, entry)
                if before != row["digest"]:
                    raise RegistryError(f"event {expected} is not the one that was recorded")
                expected += 1


def _digest(before: str, entry: tuple[int, str, str, int, str]) -> str:
    return sha256(bytes.fromhex(before) + msgspec.json.encode(entry)).hexdigest()


def _recorded(row: sqlite3.Row) -> Recorded:
    return Recorded(
        number=row["number"],
        kind=row["kind"],
        subject=row["subject"],
        body=msgspec.json.decode(row["body"], type=dict[str, object]),
        at_ms=row["at_ms"],
        digest=row["digest"],
    )
