"""Giving freed memory back: a library's arena stays with the process otherwise."""

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8
"""Of mallopt(3)."""


def trim() -> None:
    """Return what is free on the heap to the operating system, where the C library can."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)


def keep_one_arena() -> None:
    """Let every thread take memory from one heap, where the C library can.

    glibc else begins one for each thread, which holds what that thread once needed. Threads
    that hold Python's lock hardly compete.
    """
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(_M_ARENA_MAX, 1)
