"""One process at a time works in a manager's home."""

import fcntl
from pathlib import Path
from typing import IO

from fleet.errors import ConflictError


def occupy(home: Path) -> IO[bytes]:
    """Take a home for this process, until the file that is returned is closed.

    Raises:
        ConflictError: Another process holds it.

    """
    file = (home / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as why:
        file.close()
        raise ConflictError(f"another manager works in {home}; stop it first") from why
    return file
