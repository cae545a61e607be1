"""Looking with the agent's own eyes: as root, the doctor first becomes the state's owner.

Rule 1: what only root may read, the agent cannot read either, and must be named as such.
Rule 2: models are never loaded with more rights than the agent has. There is no way back.
"""

import encodings.idna  # noqa: F401 - names of hosts need it, when root's files may be closed
import os
import pwd
from pathlib import Path

from agent.errors import PlatformError


def become_owner(place: Path) -> None:
    """Give up root for the user that a state directory belongs to; any other user stays.

    Raises:
        PlatformError: The operating system does not let us.

    """
    if os.geteuid() != 0:
        return
    try:
        stat = place.stat()
    except OSError:
        return  # there is none: nothing is loaded either
    if stat.st_uid == 0:
        return
    try:
        try:
            os.initgroups(pwd.getpwuid(stat.st_uid).pw_name, stat.st_gid)
        except KeyError:  # a user without a name
            os.setgroups([stat.st_gid])
        os.setgid(stat.st_gid)
        os.setuid(stat.st_uid)
    except OSError as why:
        raise PlatformError(
            f"root cannot become user {stat.st_uid}, whose state {place} is: {why.strerror or why}"
        ) from why
