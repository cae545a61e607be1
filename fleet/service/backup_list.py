"""``backup.json``, the list of what a backup holds, and what people see of one."""

import tarfile
from pathlib import Path
from typing import Final

from msgspec import Struct

from agent.contract.codec import Versioned, decode
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Count
from agent.errors import ContractError, UnsupportedError
from fleet.errors import NewerStateError, RefusedError

LIST: Final = "backup.json"
_MAX_LIST_BYTES: Final = 256 * 1024 * 1024


class Listed(Struct, frozen=True, kw_only=True):
    """One file of a backup."""

    size: Count
    sha256: Digest


class BackupList(Versioned, frozen=True, kw_only=True):
    """``backup.json``: what a backup holds.

    Attributes:
        home: Where the manager worked; its broker's configuration names this path.
        last_event: Number of the newest event in the registry.
        folders: Those that hold no file, because a broker wants them nevertheless.

    """

    fleet: Name
    home: Text
    made_ms: Count
    last_event: Count
    files: dict[str, Listed]
    folders: tuple[str, ...] = ()


class BackupView(Struct, frozen=True, kw_only=True):
    """What was backed up or restored."""

    fleet: str
    file: str
    home: str
    made_ms: int
    files: int
    size_bytes: int
    last_event: int


def read_list(archive: tarfile.TarFile, file: Path) -> BackupList:
    """Return the list in a backup.

    Raises:
        RefusedError: There is none, or it cannot be read.
        NewerStateError: A newer version wrote it.

    """
    member = next((m for m in archive.getmembers() if m.name == LIST), None)
    content = archive.extractfile(member) if member is not None and member.isreg() else None
    if content is None or member is None or member.size > _MAX_LIST_BYTES:
        raise RefusedError(f"{file} is no whole backup: {LIST} is missing")
    try:
        return decode(BackupList, content.read(), limit=_MAX_LIST_BYTES)
    except UnsupportedError as why:
        raise NewerStateError(f"{file}: {why}: use the newer program") from why
    except ContractError as why:
        raise RefusedError(f"{file} is no whole backup: {why}") from why
