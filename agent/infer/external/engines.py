"""What a provider compiled for this device, kept beside the models it was compiled from.

A graph compiler takes minutes on a small board, once for each model, version of the library
and options. What it makes lies in a folder of its own under ``engines/``; a worker is given
that folder and decides what to put there.

Rule 1: a folder counts from the moment that the worker has answered an inference with what
        is in it, and every file of it is on the medium; what a power cut left half is thrown
        away.
Rule 2: an engine goes with its model: the store decides what is kept.
Rule 3: an engine that does not start is forgotten, and compiled anew.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from agent.disk import Disk
from agent.errors import StoreError

FOLDER: Final = "engines"
_BUILT: Final = ".built"
_DIGEST_CHARACTERS: Final = 64


class Engine:
    """The folder of one model under one runtime; it need not exist yet."""

    def __init__(
        self,
        disk: Disk,
        model: str,
        *,
        runtime: str,
        version: str,
        providers: Sequence[str],
        options: Mapping[str, Mapping[str, str]],
    ) -> None:
        """``model`` is the digest of the model file, ``version`` that of the library."""
        said = msgspec.json.encode(
            (runtime, version, tuple(providers), options), order="deterministic"
        )
        self._disk = disk
        self._name = f"{FOLDER}/{model}.{blake2b(said, digest_size=8).hexdigest()}"

    @property
    def path(self) -> Path:
        """Where the worker may write."""
        return self._disk.path(self._name).absolute()

    @property
    def built(self) -> bool:
        """Whether there is something that answered before."""
        return self._disk.path(self._name + _BUILT).exists()

    def prepare(self) -> None:
        """Make the folder, empty if nothing in it ever answered.

        Raises:
            StoreError: It cannot be made.

        """
        if not self.built:
            self.forget()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as why:
            raise StoreError(f"{self.path}: {why.strerror or why}") from why

    def keep(self) -> None:
        """Note that what is there answers; it is on the medium before this is.

        Raises:
            StoreError: The disk does not take it.

        """
        if self.built:
            return
        try:
            for folder, _, files in os.walk(self.path):
                for place in (*(Path(folder, name) for name in files), Path(folder)):
                    _sync(place)
        except OSError as why:
            raise StoreError(f"{self.path}: {why.strerror or why}") from why
        self._disk.replace(self._name + _BUILT, b"1")

    def forget(self) -> None:
        """Throw it away."""
        _remove(self._disk, self._name)


def evict(disk: Disk, kept: Callable[[str], bool]) -> tuple[str, ...]:
    """Remove the engines of models that are not ``kept`` (digest of a model file).

    Returns:
        The names that were removed.

    """
    gone = {
        name.removesuffix(".new").removesuffix(_BUILT)
        for name in disk.names(FOLDER)
        if not kept(name[:_DIGEST_CHARACTERS])
    }
    for name in sorted(gone):
        _remove(disk, f"{FOLDER}/{name}")
    return tuple(sorted(gone))


def used_bytes(disk: Disk) -> int:
    """Return what all engines take on the disk."""
    total = 0
    for folder, _, files in os.walk(disk.path(FOLDER)):
        for name in files:
            with suppress(OSError):
                total += 512 * Path(folder, name).stat().st_blocks
    return total


def _remove(disk: Disk, name: str) -> None:
    disk.remove(name + _BUILT)  # first: a power cut must not leave half of one that counts
    shutil.rmtree(disk.path(name), ignore_errors=True)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
