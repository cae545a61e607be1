"""Telling mosquitto to read its files again.

Rule 1: a signal goes only to a process whose name is mosquitto; the number in its file may
        have become another's.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from fleet.errors import UnreachableError


def have_it_read(pid_file: Path, what: str) -> None:
    """Send SIGHUP to the mosquitto that wrote a file with its number.

    Args:
        pid_file: The file.
        what: It is to read, for the sentence.

    Raises:
        UnreachableError: None runs under that number, or it is another user's.

    """
    pid = 0
    with suppress(OSError, ValueError):
        number = int(pid_file.read_text())
        if Path(f"/proc/{number}/comm").read_text().strip() == "mosquitto":
            pid = number
    if not pid:
        raise UnreachableError(
            f"no mosquitto runs under the number in {pid_file}: start it with 'fieldfare broker "
            f"run' on this machine; it reads {what} from files, which no other machine can change"
        )
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as why:
        raise UnreachableError(
            f"mosquitto ({pid}) may not be told to read {what}: {why.strerror}; let it run as the "
            "user of the manager"
        ) from why
