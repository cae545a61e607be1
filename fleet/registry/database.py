"""One SQLite connection: transactions that join, and errors that name the file.

Rule 1: one thread, the manager's loop, uses it; another one is refused by sqlite3.
Rule 2: WAL and ``synchronous=FULL``: what a transaction committed survives a power cut.
Rule 3: ``BEGIN IMMEDIATE``: a transaction that begins can also commit.
"""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fleet.errors import DiskFullError, RegistryError

Value = str | bytes | int | float | None

_BUSY_SECONDS: Final = 10.0


class Database:
    """An open registry file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._named():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self.connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self.connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self.connection.execute(f"PRAGMA {pragma}").fetchall()

    def close(self) -> None:
        """Close the file."""
        with self._named():
            self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction.

        Raises:
            RegistryError: One is open already, or the disk refuses.

        """
        if self.connection.in_transaction:
            raise RegistryError(f"{self.path}: a transaction is open already")
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self.connection.rollback()
            raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Run the block inside the open transaction so that, if it raises, it alone is undone.

        Raises:
            RegistryError: No transaction is open, or the disk refuses.

        """
        if not self.connection.in_transaction:
            raise RegistryError(f"{self.path}: no transaction is open")
        self._execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            # A full disk may have ended the whole transaction already.
            if self.connection.in_transaction:
                self._execute("ROLLBACK TO part")
                self._execute("RELEASE part")
            raise
        self._execute("RELEASE part")

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Run the block in the open transaction, or in one of its own."""
        if self.connection.in_transaction:
            yield
        else:
            with self.transaction():
                yield

    def rows(self, sql: str, *values: Value) -> list[sqlite3.Row]:
        """Return every row of a query."""
        with self._named():
            return self.connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Value) -> sqlite3.Row | None:
        """Return the first row of a query."""
        with self._named():
            found: sqlite3.Row | None = self.connection.execute(sql, values).fetchone()
            return found

    def write(self, sql: str, *values: Value) -> int:
        """Run one statement and return how many rows it changed."""
        return self._execute(sql, values).rowcount

    def write_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run one statement for many rows and return how many it changed."""
        with self._named():
            return self.connection.executemany(sql, rows).rowcount

    def _execute(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Cursor:
        with self._named():
            return self.connection.execute(sql, values)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as why:
            code = getattr(why, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_FULL or getattr(why, "errno", None) == errno.ENOSPC:
                raise DiskFullError(f"registry {self.path}: {why}: free some room there") from why
            raise RegistryError(f"registry {self.path}: {why}") from why
