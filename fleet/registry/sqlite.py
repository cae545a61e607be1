"""The registry of one fleet: an append-only event log and its projections, in one file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.registry.devices import Devices
from fleet.registry.events import Events
from fleet.registry.models import Models
from fleet.registry.reports import Reports
from fleet.registry.rollouts import Rollouts
from fleet.registry.runs import Runs
from fleet.registry.tokens import Tokens


class Registry:
    """Everything the manager remembers; see ``open_registry``.

    Every method that changes something joins the open ``transaction()`` or, where there
    is none, makes one of its own; it records its event in the same transaction.
    """

    path: Path
    events: Events
    tokens: Tokens
    devices: Devices
    models: Models
    reports: Reports
    rollouts: Rollouts
    runs: Runs

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one transaction: all of it, or nothing if it raises.

        Raises:
            RegistryError: A transaction is open already, or the disk refuses.

        """
        raise NotImplementedError
        yield

    def close(self) -> None:
        """Close the file; the registry cannot be used after it."""
        raise NotImplementedError


def open_registry(path: Path, *, create: bool) -> Registry:
    """Open the registry, migrating an older one.

    Raises:
        NotFoundError: ``create`` is false and there is no file.
        ConflictError: ``create`` is true and there is one already.
        NewerStateError: It was written by a newer version; left untouched.
        RegistryError: It is not a registry, or the disk refuses.

    """
    raise NotImplementedError
