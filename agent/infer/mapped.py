"""A model's file as it lies on the disk: read through a memory map, never copied."""

import mmap
from pathlib import Path

from agent.errors import NotAModelError, StoreError


def map_model(path: Path, what: str) -> memoryview:
    """Return the bytes of a file; the map closes with its last view.

    Args:
        path: The file.
        what: Its name in sentences.

    Raises:
        NotAModelError: It is empty.
        StoreError: It cannot be read.

    """
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise NotAModelError(f"{what} is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as why:
        raise StoreError(f"{what} cannot be read: {why.strerror or why}") from why
