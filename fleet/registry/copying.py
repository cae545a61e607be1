"""A consistent copy of the registry, also while a manager works in it."""

import sqlite3
from pathlib import Path

from fleet.errors import RegistryError
from fleet.registry.database import Database
from fleet.registry.schema import STEPS, refuse_newer, version_of
from fleet.registry.sqlite import Registry


def copy_registry(source: Path, target: Path) -> int:
    """Copy a registry as it is at one moment, checked; returns the number of its last event.

    Writers are not held up: they go on in the log beside the file (``sqlite3_backup``,
    all pages in one step).

    Raises:
        NewerStateError: It was written by a newer version.
        RegistryError: It is no registry, its chain does not hold, or the disk refuses.

    """
    version = version_of(source)
    refuse_newer(source, version)
    if version is None:
        raise RegistryError(f"registry {source} is empty")
    try:
        reader, writer = sqlite3.connect(source), sqlite3.connect(target)
        try:
            reader.backup(writer)
        finally:
            reader.close()
            writer.close()
        last = 0
        if version == len(STEPS):  # an older one is copied before it becomes a newer one
            last = _checked(target)
        settled = sqlite3.connect(target)
        try:
            # One file, without the two that stand beside a registry in use.
            settled.execute("PRAGMA journal_mode=DELETE").fetchall()
            found = settled.execute("PRAGMA quick_check").fetchone()[0]
        finally:
            settled.close()
    except sqlite3.Error as why:
        raise RegistryError(f"registry {source} cannot be copied: {why}") from why
    if found != "ok":
        raise RegistryError(f"registry {source} is damaged: {found}")
    return last


def _checked(path: Path) -> int:
    registry = Registry(Database(path))
    try:
        registry.events.verify_chain()
        return registry.events.head()[0]
    finally:
        registry.close()
