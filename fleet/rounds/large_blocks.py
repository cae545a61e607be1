"""Memory of models goes back to the system as soon as nobody holds it.

The C library learns from the first large block that is freed to keep those that follow
(mallopt(3), "M_MMAP_THRESHOLD ... dynamic"), in one heap for each thread. With models in the
tens of megabytes that was half of what a manager held during a round. A threshold that is
set does not move.
"""

import ctypes
from contextlib import suppress
from typing import Final

AT_LEAST_BYTES: Final = 1024 * 1024
_MMAP_THRESHOLD: Final = -3  # malloc.h


def give_back() -> None:
    """Let large blocks of this process be mapped one by one; nothing where that cannot be."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, AT_LEAST_BYTES)
