"""Room on the manager's disk: kept in reserve for what devices say.

Rule 1: what an operator starts (uploads, archives, backups) ends while there is still room
        for the registry: a manager whose registry cannot write must stop.
"""

import os
from pathlib import Path

from fleet.errors import DiskFullError

MEGABYTE = 1_000_000


def free_bytes(folder: Path) -> int:
    """Return what this user may still write where a folder is, or will be.

    Raises:
        DiskFullError: It cannot be told.

    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        told = os.statvfs(there)
    except OSError as why:
        raise DiskFullError(f"the room at {there} is unknown: {why.strerror or why}") from why
    return told.f_bavail * told.f_frsize


def require_room(folder: Path, wanted_bytes: int, reserve_bytes: int) -> None:
    """Return if so much may be written and the reserve stays free.

    Raises:
        DiskFullError: It would not.

    """
    free = free_bytes(folder)
    if free - wanted_bytes < reserve_bytes:
        raise DiskFullError(
            f"the disk of {folder} has {free // MEGABYTE} MB free; "
            f"{-(-wanted_bytes // MEGABYTE)} MB are wanted and {reserve_bytes // MEGABYTE} MB stay "
            "in reserve (retention.reserve_mb): free some, or see 'fieldfare prune --dry-run'"
        )
