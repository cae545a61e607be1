"""A name that stays: what was made or renamed in a folder outlives a power cut."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the medium.

    Raises:
        OSError: The disk refuses.

    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
