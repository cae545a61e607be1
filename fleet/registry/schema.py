"""How a registry's file becomes one of this version, and which are left alone.

Rule 1: all steps that a file needs run in one transaction.
Rule 2: a file of a newer version is read only as far as its version, and left alone.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sqlite_utils import Database as Tables

from fleet.errors import NewerStateError, RegistryError
from fleet.registry.database import Database
from fleet.registry.tables import STEPS, Step

__all__ = ["STEPS", "migrate", "refuse_newer", "version_of"]


def version_of(path: Path) -> int | None:
    """Return the schema version of a file without changing it; None for an empty one.

    Raises:
        RegistryError: It is not a registry.

    """
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            if not tables:
                return None
            if "registry_schema" not in tables:
                raise RegistryError(f"{path} is a database, but not a Fieldfare registry")
            (version,) = connection.execute("SELECT version FROM registry_schema").fetchone()
            return int(version)
        finally:
            connection.close()
    except (sqlite3.Error, TypeError, ValueError) as why:
        raise RegistryError(f"{path} is not a Fieldfare registry: {why}") from why


def refuse_newer(path: Path, version: int | None, steps: Sequence[Step] = STEPS) -> None:
    """Return if this program knows the version.

    Raises:
        NewerStateError: It does not.

    """
    if version is not None and version > len(steps):
        raise NewerStateError(
            f"registry {path} has schema version {version}, this program knows {len(steps)}: "
            "install the newer version again; the file is left untouched"
        )


def migrate(database: Database, version: int | None, steps: Sequence[Step] = STEPS) -> None:
    """Bring a file to the newest version, all steps in one transaction."""
    if version == len(steps):
        return
    with database.transaction():
        tables = Tables(database.connection, recursive_triggers=False, execute_plugins=False)
        if version is None:
            tables["registry_schema"].create({"version": int}, strict=True)
            database.write("INSERT INTO registry_schema (version) VALUES (0)")
        for made in steps[version or 0 :]:
            made(tables)
        database.write("UPDATE registry_schema SET version = ?", len(steps))
