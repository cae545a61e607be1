"""The registry of one fleet: an append-only event log and its projections, in one file.

Rule 1: a change of consequence and its event are written in one transaction.
Rule 2: every method joins the open transaction or, where there is none, makes its own.
Rule 3: single-threaded: the manager's loop is the only reader and writer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.errors import ConflictError, NotFoundError
from fleet.registry.database import Database
from fleet.registry.devices import Devices
from fleet.registry.events import Events
from fleet.registry.machines import Machines
from fleet.registry.models import Models
from fleet.registry.reports import Reports
from fleet.registry.rollouts import Rollouts
from fleet.registry.runs import Runs
from fleet.registry.schema import migrate, refuse_newer, version_of
from fleet.registry.standings import Standings
from fleet.registry.tokens import Tokens


class Registry:
    """Everything the manager remembers; see ``open_registry``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.path = database.path
        self.events = Events(database)
        self.tokens = Tokens(database, self.events)
        self.devices = Devices(database, self.events)
        self.machines = Machines(database)
        self.models = Models(database, self.events)
        self.reports = Reports(database, self.events)
        self.rollouts = Rollouts(database, self.events)
        self.runs = Runs(database, self.events)
        self.standings = Standings(database, self.events)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction: all of it, or nothing if it raises.

        Raises:
            RegistryError: A transaction is open already, or the disk refuses.

        """
        with self._database.transaction():
            yield

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Run the block so that, if it raises, it alone is undone in the open transaction.

        Raises:
            RegistryError: No transaction is open, or the disk refuses.

        """
        with self._database.savepoint():
            yield

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Run the block in the open transaction, or in one of its own."""
        with self._database.joined():
            yield

    def close(self) -> None:
        """Close the file; the registry cannot be used after it."""
        self._database.close()


def open_registry(path: Path, *, create: bool) -> Registry:
    """Open the registry, migrating an older one.

    Raises:
        NotFoundError: ``create`` is false and there is no file.
        ConflictError: ``create`` is true and there is a registry already.
        NewerStateError: It was written by a newer version; left untouched.
        RegistryError: It is not a registry, or the disk refuses.

    """
    version = version_of(path) if path.exists() else None
    refuse_newer(path, version)
    if create and version is not None:
        raise ConflictError(f"there is a registry at {path} already")
    if not create and version is None:
        raise NotFoundError(f"there is no registry at {path}: make one with 'fieldfare init'")
    database = Database(path)
    try:
        migrate(database, version)
    except BaseException:
        database.close()
        raise
    return Registry(database)
