"""What an app's process gives up before it loads the app, in this order.

    limits     address space, processor time, files, their size, threads (setrlimit)
    manners    niceness, idle disk (ioprio_set), and death with its parent
    root       becomes ``fieldfare-app``, else ``nobody``, where that user can read what an
               app needs; where it cannot, it stays root without any capability
    more       execution never gains privileges again (PR_SET_NO_NEW_PRIVS)
    files      only Python's folders, the app and its own folder (Landlock)
    calls      no sockets, no processes (seccomp)

Rule 1: this comes first in its process: one thread, and none of the app's libraries.
Rule 2: the app is not loaded where the calls are not denied, or where neither another user
        nor Landlock keeps it from the agent's files.
"""

import ctypes
import os
import platform
import pwd
import resource
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.learn.apps.calls import deny_calls
from agent.learn.apps.landlock import restrict_files

OWN_USER: Final = "fieldfare-app"
MAX_OPEN_FILES: Final = 256
MAX_THREADS: Final = 64
_PARENT_DEATH, _NO_NEW_PRIVILEGES, _DROP_BOUND = 1, 38, 24  # linux/prctl.h
_LAST_CAPABILITY: Final = 63
_CAPABILITIES_V3: Final = 0x20080522
_IDLE_DISK: Final = 3 << 13  # linux/ioprio.h
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30}
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}
_SYSTEM: Final = tuple(
    Path(name)
    for name in (
        *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/ld.so.conf"),
        *("/etc/ld.so.conf.d", "/etc/localtime", "/proc/self", "/proc/cpuinfo", "/proc/meminfo"),
        *("/sys/devices/system/cpu", "/dev/urandom", "/dev/zero"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one app may use; sizes in bytes."""

    memory_bytes: int
    cpu_seconds: int
    file_bytes: int
    nice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What this process now is.

    Attributes:
        user: Its effective user id.
        hidden: By what the agent's files are kept from it: ``landlock``, ``user`` or both.
        why: What keeps the app from being loaded; empty where nothing does.

    """

    user: int
    hidden: tuple[str, ...]
    why: str


def set_apart(
    bounds: Bounds, *, parent: int, readable: Iterable[Path], folder: Path, secret: Path
) -> Standing:
    """Give everything up.

    Args:
        bounds: Limits.
        parent: Process id of who started this one.
        readable: Folders with Python, its modules and the app.
        folder: The folder that the app may write.
        secret: The agent's state directory, which must not be readable after.

    """
    readable = tuple(readable)
    machine, libc = platform.machine(), ctypes.CDLL(None, use_errno=True)
    limit(bounds)
    if machine in _IOPRIO_SET:
        libc.syscall(_IOPRIO_SET[machine], 1, 0, _IDLE_DISK)
    another = leave_root(readable, folder)
    libc.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)  # a change of user has taken it away
    if os.getppid() != parent:
        raise SystemExit(1)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    landlock = restrict_files((*_SYSTEM, *readable), (folder, Path("/dev/null")))
    calls = deny_calls()
    hidden = tuple(name for name, held in (("user", another), ("landlock", not landlock)) if held)
    why = calls
    if not why and os.access(secret, os.R_OK | os.X_OK, effective_ids=True):
        try:
            next(secret.iterdir(), None)
            why = f"nothing keeps an app from the agent's files: {landlock or 'they are readable'}"
        except OSError:
            pass  # access(2) does not ask Landlock
    return Standing(user=os.geteuid(), hidden=hidden, why=why)


def limit(bounds: Bounds) -> None:
    """Set the limits of this process."""
    for what, wanted in (
        (resource.RLIMIT_AS, bounds.memory_bytes),
        (resource.RLIMIT_FSIZE, bounds.file_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(what, (most, most))
    # at the first of the two a signal tells the reason, at the second it is over
    resource.setrlimit(resource.RLIMIT_CPU, (bounds.cpu_seconds, bounds.cpu_seconds + 1))
    os.nice(bounds.nice)


def leave_root(readable: Iterable[Path], folder: Path) -> bool:
    """Become another user than root, or one without capabilities; returns whether another."""
    if os.geteuid() != 0:
        _limit_threads(os.geteuid())
        return False
    try:
        user = pwd.getpwnam(OWN_USER)
    except KeyError:
        user = pwd.getpwnam("nobody")
    there = [path for path in readable if path.exists()]
    os.setgroups([])
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    open_to_it = all(os.access(path, os.R_OK | os.X_OK, effective_ids=True) for path in there)
    os.seteuid(0)
    os.setegid(0)
    _limit_threads(user.pw_uid if open_to_it else 0)
    if not open_to_it:
        _drop_capabilities()
        return False
    for path in (folder, *folder.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    return True


def _limit_threads(user: int) -> None:
    """Bound the threads of a user: so many more than it has now."""
    held = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if entry.stat().st_uid == user:
                held += sum(1 for _ in (entry / "task").iterdir())
        except OSError:
            continue  # it ended meanwhile
    resource.setrlimit(resource.RLIMIT_NPROC, (held + MAX_THREADS, held + MAX_THREADS))


def _drop_capabilities() -> None:
    libc, machine = ctypes.CDLL(None, use_errno=True), platform.machine()
    for number in range(_LAST_CAPABILITY + 1):
        libc.prctl(_DROP_BOUND, number, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    none = (ctypes.c_uint32 * 6)()
    libc.syscall(_CAPSET.get(machine, -1), header, none)
