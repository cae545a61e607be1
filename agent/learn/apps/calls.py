"""Which system calls an app may not make: a seccomp filter, built here as BPF.

Rule 1: no socket, no other process, no other program; a thread may be started.
Rule 2: no signal, limit or processor set for any process but its own; no tracing at all.
Rule 3: what is not allowed fails with EPERM, so that the app learns of it as an exception;
        clone3(2), whose arguments no filter can see, is ENOSYS, and clone(2) is used.
Rule 4: only 64-bit calls of this machine's own table: x32 and others fail as well.

Source: linux/seccomp.h, linux/filter.h, linux/audit.h and the two tables of numbers.
"""

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from typing import Final

_SET_SECCOMP: Final = 22  # linux/prctl.h
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_THREAD: Final = 0x00010000  # CLONE_THREAD
_X32: Final = 0x40000000
_MAX_DISTANCE: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Numbers of one architecture.

    Attributes:
        audit: How the kernel names it (AUDIT_ARCH).
        denied: Calls that are never allowed.
        clone: Allowed where its flags start a thread.
        own: Allowed where the first argument is this process.
        own_or_none: The same, or 0, which means this process.

    """

    audit: int
    denied: tuple[int, ...]
    clone: int
    clone3: int
    own: tuple[int, ...]
    own_or_none: tuple[int, ...]


TABLES: Final = {
    "x86_64": Table(
        audit=0xC000003E,
        denied=(
            *(41, 57, 58, 59, 322),  # socket fork vfork execve execveat
            *(101, 310, 311, 312, 434, 424, 438, 440, 448),  # ptrace, process_vm_*, kcmp, pidfd_*
            *(129, 200, 297),  # rt_sigqueueinfo tkill rt_tgsigqueueinfo
            *(272, 308, 155, 165, 166, 161),  # unshare setns pivot_root mount umount2 chroot
            *(425, 321, 298, 323, 304),  # io_uring_setup bpf perf_event_open userfaultfd by_handle
            *(248, 249, 250),  # add_key request_key keyctl
            *(141, 142, 144, 314, 251, 256, 279),  # set priority, scheduler, ioprio, move pages
        ),
        clone=56,
        clone3=435,
        own=(62, 234),  # kill tgkill
        own_or_none=(302, 203),  # prlimit64 sched_setaffinity
    ),
    "aarch64": Table(
        audit=0xC00000B7,
        denied=(
            *(198, 221, 281),
            *(117, 270, 271, 272, 434, 424, 438, 440, 448),
            *(138, 130, 240),
            *(97, 268, 41, 40, 39, 51),
            *(425, 280, 241, 282, 265),
            *(217, 218, 219),
            *(140, 118, 119, 274, 30, 238, 239),
        ),
        clone=220,
        clone3=435,
        own=(129, 131),
        own_or_none=(261, 122),
    ),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def deny_calls() -> str:
    """Allow this process nothing that rule 1 and 2 forbid; returns why that cannot be, or nothing.

    One thread must be running, with PR_SET_NO_NEW_PRIVS set: others would go unfiltered.
    """
    table = TABLES.get(platform.machine())
    if table is None:
        return f"no filter of system calls is known for {platform.machine()}"
    program = build_filter(table, os.getpid())
    held = ctypes.create_string_buffer(program, len(program))
    given = _Program(len(program) // 8, ctypes.cast(held, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(given), 0, 0) != 0:
        return f"the kernel takes no filter of system calls: {os.strerror(ctypes.get_errno())}"
    return ""


def build_filter(table: Table, process: int) -> bytes:
    """Return the filter of one process as BPF instructions of eight bytes."""
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    checks: list[bytes] = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, table.audit, yes=1),
        _step(_RETURN, refuse),
        _step(_LOAD, _NUMBER_AT),
        _step(_AT_LEAST, _X32, no=1),
        _step(_RETURN, refuse),
    ]
    for number in table.denied:
        checks += [_step(_EQUAL, number, no=1), _step(_RETURN, refuse)]
    checks += [_step(_EQUAL, table.clone3, no=1), _step(_RETURN, absent)]
    thread = [_step(_ANY_BIT, _THREAD, yes=1), _step(_RETURN, refuse), _step(_RETURN, _ALLOW)]
    checks += _looking_at_first(table.clone, thread)
    own = [_step(_EQUAL, process, yes=1), _step(_RETURN, refuse), _step(_RETURN, _ALLOW)]
    for number in table.own:
        checks += _looking_at_first(number, own)
    for number in table.own_or_none:
        checks += _looking_at_first(number, [_step(_EQUAL, 0, yes=2), *own])
    return b"".join([*checks, _step(_RETURN, _ALLOW)])


def _looking_at_first(number: int, steps: list[bytes]) -> list[bytes]:
    """Return the steps that judge one call by the lower half of its first argument."""
    if len(steps) >= _MAX_DISTANCE:
        raise ValueError("a jump in a filter reaches 255 steps")
    return [
        _step(_EQUAL, number, no=len(steps) + 1),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        *steps,
    ]


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
