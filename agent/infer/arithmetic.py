"""How this process computes with floats stays as it was, whatever a library does on loading.

tflite-runtime for aarch64 begins with GCC's fast-math start-up code, which makes the thread
that loads it, and each that this one starts, take the smallest floats for zero.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_LARGEST_ENVIRONMENT = 64
"""Bytes; more than a ``fenv_t`` has on any machine that we support."""


@contextmanager
def kept_arithmetic() -> Iterator[None]:
    """Put the floating-point environment of this thread back afterwards (C11, 7.6.4)."""
    library = ctypes.CDLL(None)
    kept = ctypes.create_string_buffer(_LARGEST_ENVIRONMENT)
    known = hasattr(library, "fegetenv") and library.fegetenv(kept) == 0
    try:
        yield
    finally:
        if known:
            library.fesetenv(kept)
