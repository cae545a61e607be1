"""Giving freed memory back: a library's arena stays with the process otherwise."""

import ctypes


def trim() -> None:
    """Return what is free on the heap to the operating system, where the C library can."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)
