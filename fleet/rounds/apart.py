"""What the Flower child gives up before it loads an operator's app: the network, and root.

    network   a network namespace of its own, in which nothing is reachable (unshare(2));
              without root it takes a user namespace for that, where the kernel gives one
    root      becomes ``fieldfare-rounds`` where there is such a user, else ``nobody``
    more      execution never gains privileges again (PR_SET_NO_NEW_PRIVS, prctl(2))

Rule 1: this comes first in its process: one thread, and none of the app's libraries.
Rule 2: it stays what it is where the other user could not read the program or the app.
Rule 3: what could not be given up is told to the manager, which writes it to its log.
"""

import ctypes
import os
import pwd
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fleet.rounds.pipe import Apart

_PACKAGES: Final = ("agent", "fleet", "flwr", "msgspec", "nacl", "numpy")
OWN_USER: Final = "fieldfare-rounds"
_NEW_USER: Final = 0x10000000  # CLONE_NEWUSER, and the next: linux/sched.h
_NEW_NETWORK: Final = 0x40000000
_NO_NEW_PRIVILEGES: Final = 38  # linux/prctl.h


def leave_network() -> str:
    """Enter an empty network; returns why that cannot be, or nothing."""
    uid, gid = os.geteuid(), os.getegid()
    wanted = _NEW_NETWORK if uid == 0 else _NEW_NETWORK | _NEW_USER
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(wanted) != 0:
        return f"it keeps the network: {os.strerror(ctypes.get_errno())}"
    if wanted & _NEW_USER:
        try:
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", encoding="ascii")
        except OSError:
            return ""  # without a name in there, and without the network all the same
    return ""


def leave_root(readable: Iterable[Path], home: str) -> str:
    """Become another user than root; returns why that cannot be, or nothing.

    Args:
        readable: Folders with modules, which that user must be able to read.
        home: The folder that it may write.

    """
    if os.geteuid() != 0:
        return ""
    try:
        user = pwd.getpwnam(OWN_USER)
    except KeyError:
        user = pwd.getpwnam("nobody")
    groups = os.getgroups()
    try:
        os.setgroups([])
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        closed = next((path for path in readable if not _is_open(path)), None)
        os.seteuid(0)
        if closed is not None:
            os.setegid(os.getgid())
            os.setgroups(groups)
            return f"it stays root: user {user.pw_name} cannot read {closed}"
        os.chown(home, user.pw_uid, user.pw_gid)
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as why:
        if os.geteuid() != 0 and os.getuid() == 0:
            os.seteuid(0)
        return f"it stays root: {why.strerror}"
    return ""


def set_apart(app_folder: str) -> Apart:
    """Give up network and root; returns what this process now is.

    Args:
        app_folder: Where the operator's app lies; empty for the built-in one.

    """
    network = leave_network()
    here = str(Path(__file__).resolve().parents[2])
    readable = [Path(p) for p in (*sys.path, here, app_folder) if p]
    readable += [folder / name for folder in readable for name in _PACKAGES]
    root = leave_root([p for p in readable if p.is_dir()], os.environ["HOME"])
    ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    why = "; ".join(filter(None, (network, root)))
    return Apart(user=os.geteuid(), network=bool(network), why=why)


def _is_open(folder: Path) -> bool:
    """Return whether this user can read a folder, and the modules in it."""
    if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
        return False
    return all(os.access(m, os.R_OK, effective_ids=True) for m in folder.glob("*.py"))


def main() -> None:
    """Be the Flower child, apart from the manager."""
    apart = set_apart(sys.argv[1] if len(sys.argv) > 1 else "")
    from fleet.rounds import child  # noqa: PLC0415 - its libraries start threads

    child.main(apart)


if __name__ == "__main__":
    main()
