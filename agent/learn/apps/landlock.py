"""Which files an app may see: Landlock, which needs no rights and hides all others.

Source: linux/landlock.h and its documentation; versions (ABI) 1 to 6.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on x86_64 and aarch64
_VERSION: Final = 1
_BENEATH: Final = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGES: Final = 0b1_1111_1111_0000  # remove and make whatever lies in a folder
_REFER, _TRUNCATE, _DEVICE = 1 << 13, 1 << 14, 1 << 15
_OF_A_FILE: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _DEVICE
_NETWORK: Final = 0b11  # bind and connect TCP
_SCOPES: Final = 0b11  # abstract sockets and signals


def restrict_files(read: Iterable[Path], write: Iterable[Path]) -> str:
    """Let this process see only what lies below these; returns why that cannot be, or nothing.

    Nothing may be executed as a program. What is not there is left out. PR_SET_NO_NEW_PRIVS
    must be set.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return "this kernel has no Landlock"
    files = (1 << 13) - 1
    files |= _REFER if version >= 2 else 0  # noqa: PLR2004 - a version of the interface
    files |= _TRUNCATE if version >= 3 else 0  # noqa: PLR2004 - a version of the interface
    files |= _DEVICE if version >= 5 else 0  # noqa: PLR2004 - a version of the interface
    network = _NETWORK if version >= 4 else 0  # noqa: PLR2004 - a version of the interface
    scopes = _SCOPES if version >= 6 else 0  # noqa: PLR2004 - a version of the interface
    wanted = struct.pack("=QQQ", files, network, scopes)
    size = 8 if version < 4 else 16 if version < 6 else 24  # noqa: PLR2004 - a version of the interface
    rules = libc.syscall(_CREATE, wanted, ctypes.c_size_t(size), 0)
    if rules < 0:
        return f"Landlock makes no rules: {os.strerror(ctypes.get_errno())}"
    reading, writing = _READ_FILE | _READ_FOLDER, _WRITE_FILE | _CHANGES | _REFER | _TRUNCATE
    try:
        for path in read:
            _allow(libc, rules, path, reading & files)
        for path in write:
            _allow(libc, rules, path, (reading | writing) & files)
        if libc.syscall(_RESTRICT, rules, 0) != 0:
            return f"Landlock does not begin: {os.strerror(ctypes.get_errno())}"
    except OSError as why:
        return f"Landlock takes no rule for {why.filename}: {why.strerror}"
    finally:
        os.close(rules)
    return ""


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights &= -1 if path.is_dir() else _OF_A_FILE
        rule = struct.pack("=Qi", rights, place)
        if libc.syscall(_ADD, rules, _BENEATH, rule, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(place)
