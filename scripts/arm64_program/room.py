"""One command in the arm64 tree, as in a small container; nothing of it stays behind.

Rule 1: everything is mounted in a mount namespace of its own, which vanishes with its last
        process however that ends; nothing of the machine is mounted, unmounted or changed.
Rule 2: the command is the child of process 1 of a process namespace of its own; when
        process 1 ends, or whoever started it dies, the kernel kills all that is left in it.
Rule 3: the tree and the checkout are read-only; /tmp (TMPDIR) is the machine's own, and so
        is the network; /root, /run and /var/tmp are empty at each start.
Rule 4: signals reach the command as if nobody stood in between; its status is ours.

The kernel hands aarch64 programs to qemu by the registration line of Debian's own package.
Since Linux 6.7 a registration is forgotten with the last mount of binfmt_misc; before, it
stays until the machine is started anew, as after installing the package with systemd.
"""

import argparse
import contextlib
import ctypes
import errno
import os
import platform
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from processor import describe

CANNOT = 69
"""Exit status where this machine lacks what is needed (EX_UNAVAILABLE of sysexits.h)."""
CHECKOUT = "/fieldfare"
DEVICE = "/opt/device"
DEVELOPER = "/opt/dev"

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_PROCESSES = 0x0002_0000, 0x2000_0000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x4_0000
_PARENT_DEATH_SIGNAL = 1
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_LINE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_WATCHED = _FORWARDED | {signal.SIGCHLD}
_FROM_KERNEL = 0x80


class CannotError(Exception):
    """This machine cannot do it; the sentence says what is missing."""


def main() -> int:
    """Run the command and return its exit status."""
    wanted = _arguments()
    if platform.machine() != "x86_64":
        raise CannotError(f"this emulates aarch64 on x86_64; here is {platform.machine()}")
    if os.geteuid():
        raise CannotError("this mounts a tree, which needs root: run it with sudo")
    if wanted.writable or not wanted.tree:  # a part of the tree is made: not without its maker
        _call("it cannot be tied to its parent", _LIBC.prctl, _PARENT_DEATH_SIGNAL, signal.SIGKILL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    _call("process namespaces cannot be made", _LIBC.unshare, _NEW_PROCESSES)
    sys.stdout.flush()
    first = os.fork()
    if first == 0:
        os._exit(_guarded(_be_first, wanted, mask))
    return _watch(first)


def _be_first(wanted: argparse.Namespace, mask: set[signal.Signals]) -> int:
    """Be process 1: furnish the room, start the command, and wait for it."""
    _call("it cannot be tied to its parent", _LIBC.prctl, _PARENT_DEATH_SIGNAL, signal.SIGKILL)
    _call("mount namespaces cannot be made", _LIBC.unshare, _NEW_MOUNTS)
    _mount("none", "/", flags=_RECURSIVE | _PRIVATE)
    _mount("proc", "/proc", kind="proc")
    register()
    if wanted.tree:
        _furnish(wanted)
    command = os.fork()
    if command == 0:
        os._exit(_guarded(_be_command, wanted, mask))
    return _watch(command)


def register() -> None:
    """Let the kernel hand aarch64 programs to qemu; what is registered stays as it is.

    Raises:
        CannotError: This kernel, or this container, does not let us.

    """
    if not (_BINFMT / "register").exists():
        try:
            _mount("binfmt_misc", str(_BINFMT), kind="binfmt_misc")
        except CannotError as why:
            raise CannotError(f"foreign programs cannot be registered here: {why}") from why
    if any(_serves(_BINFMT / name) for name in ("qemu-aarch64", "fieldfare-aarch64")):
        return
    try:
        line = _LINE.read_bytes()
    except OSError as why:
        raise CannotError(f"{_LINE} of qemu-user-static cannot be read: {why.strerror}") from why
    if (_BINFMT / "qemu-aarch64").exists():  # there, but of no use inside a tree: keep it
        line = line.replace(b":qemu-aarch64:", b":fieldfare-aarch64:", 1)
    try:
        (_BINFMT / "register").write_bytes(line.strip())
    except OSError as why:
        if why.errno != errno.EEXIST:  # somebody else was quicker
            words = f"{_BINFMT}/register does not take qemu's line: {why.strerror}"
            raise CannotError(words) from why


def _serves(entry: Path) -> bool:
    """Return whether an entry is enabled and keeps its interpreter open (F) for any tree."""
    try:
        lines = entry.read_text().splitlines()
    except OSError:
        return False
    return lines[0] == "enabled" and any(s.startswith("flags:") and "F" in s for s in lines)


def _furnish(wanted: argparse.Namespace) -> None:
    tree = str(wanted.tree)
    temporary = tempfile.gettempdir()
    _mount(tree, tree, flags=_BIND)
    _mount("proc", f"{tree}/proc", kind="proc")
    _mount("/dev", tree + "/dev", flags=_BIND | _RECURSIVE)
    for name in ("/root", "/run", "/var/tmp"):  # noqa: S108 -- the tree's
        _mount("tmpfs", tree + name, kind="tmpfs")
    cpuinfo = describe(Path(tree + "/run"))
    if cpuinfo is not None:
        _mount(str(cpuinfo), f"{tree}/proc/cpuinfo", flags=_BIND)
        _mount(f"{tree}/run/sys", f"{tree}/sys", flags=_BIND)
    Path(tree + temporary).mkdir(parents=True, exist_ok=True)
    _mount(temporary, tree + temporary, flags=_BIND)
    for name in ("/etc/hosts", "/etc/resolv.conf"):
        if Path(name).exists():
            _mount(name, tree + name, flags=_BIND)
    _mount(str(wanted.checkout), tree + CHECKOUT, flags=_BIND)
    _mount("none", tree + CHECKOUT, flags=_BIND | _REMOUNT | _READ_ONLY)
    if not wanted.writable:
        _mount("none", tree, flags=_BIND | _REMOUNT | _READ_ONLY)


def _be_command(wanted: argparse.Namespace, mask: set[signal.Signals]) -> int:
    for ours in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, a command does not
        signal.signal(ours, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if wanted.tree:
        os.chroot(wanted.tree)
        os.chdir(CHECKOUT)
        _take_on_environment(DEVELOPER if wanted.dev else DEVICE)
    try:
        os.execvp(wanted.command[0], wanted.command)  # noqa: S606 -- what was asked for
    except OSError as why:
        print(f"arm64: {wanted.command[0]}: {why.strerror}", file=sys.stderr)
        return 126 if why.errno in (errno.EACCES, errno.ENOEXEC) else 127


def _take_on_environment(place: str) -> None:
    for name in list(os.environ):
        if name.startswith(("PYTHON", "LD_", "PIP_", "VIRTUAL_ENV")):
            del os.environ[name]
    rest = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ |= {"PATH": f"{place}/bin:{rest}", "HOME": "/root", "LC_ALL": "C.UTF-8"}


def _watch(child: int) -> int:
    """Hand signals on until a child ends, reap everybody else's, and return its status."""
    while True:
        told = signal.sigwaitinfo(_WATCHED)
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != _FROM_KERNEL:  # a terminal tells everybody itself
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, told.si_signo)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    status = os.waitstatus_to_exitcode(ended[1])
                    return status if status >= 0 else 128 - status


def _guarded(act, wanted: argparse.Namespace, mask: set[signal.Signals]) -> int:  # noqa: ANN001
    """Do what a forked process is for; it must never return into its parent's frames."""
    try:
        return act(wanted, mask)
    except CannotError as why:
        print(f"arm64: {why}", file=sys.stderr)
        return CANNOT
    except BaseException:  # noqa: BLE001 -- the top of this process
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def _mount(source: str, target: str, *, kind: str | None = None, flags: int = 0) -> None:
    words = [source.encode(), target.encode(), kind.encode() if kind else None]
    _call(f"{source} cannot be mounted on {target}", _LIBC.mount, *words, flags, None)


def _call(refusal: str, function, *arguments: object) -> None:  # noqa: ANN001 -- of libc
    if function(*arguments):
        raise CannotError(f"{refusal}: {os.strerror(ctypes.get_errno())}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, help="absent: this machine's own files")
    parser.add_argument("--checkout", type=Path)
    parser.add_argument("--writable", action="store_true", help="while the tree is made")
    parser.add_argument("--dev", action="store_true", help="the environment of tests")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotError as sentence:
        print(f"arm64: {sentence}", file=sys.stderr)
        sys.exit(CANNOT)
