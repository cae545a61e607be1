"""A manager's home in one file, and a home from that file.

A backup is a tar archive: the registry first, then the files of the home by their paths
below it, and last ``backup.json``, which lists every file with its size and SHA-256.

Rule 1: it may be made while the manager runs. The registry is copied at one moment; what it
        speaks of was on the disk before and is copied after. Of the repository the timestamp
        is read first, because it is written last: all that it names is there.
Rule 2: a backup has its name only when all of it was read back and found whole.
Rule 3: a home is made beside its place and put there when all of it was checked: by the list,
        by the registry's own chain and by the repository's signatures.
Rule 4: a backup holds the manager's keys and its devices' secrets: it is for its owner only.
"""

import errno
import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, Final

from agent.contract.codec import encode
from fleet.config import FleetConfig
from fleet.durable import sync_folder
from fleet.errors import (
    ConfigError,
    ConflictError,
    DiskFullError,
    FleetError,
    NewerStateError,
    RefusedError,
)
from fleet.ingest.mosquitto import CONF_FILE
from fleet.registry.copying import copy_registry
from fleet.registry.room import MEGABYTE, require_room
from fleet.registry.schema import refuse_newer, version_of
from fleet.service.backup_list import LIST, BackupList, BackupView, Listed, read_list
from fleet.service.desk import wall_clock_ms
from fleet.signing.published import read_published

_TIMESTAMP: Final = "repository/metadata/timestamp.json"
_NOT_TAKEN: Final = ("lock", "fieldfare.sock", "registry.db-wal", "registry.db-shm", LIST)
_UNFINISHED: Final = ".new-"
_UNDERWAY: Final = "rounds/"
"""Large arrays on their way; a run that is taken up makes them again."""
_MEANWHILE_GONE: Final = ("artifacts/", "broker/")
"""Here files go while a backup is made: what nobody needs, and what the broker renames."""


def back_up(config: FleetConfig, out: Path) -> BackupView:
    """Write a backup of a manager's home.

    Raises:
        ConflictError: The file exists, or lies in the home.
        ConfigError: The file cannot be written.
        DiskFullError: There is no room for it beside the reserve.
        RegistryError, SigningError: The home is not in order.

    """
    out = out.absolute()
    if out.exists():
        raise ConflictError(f"{out} exists already: choose another name")
    if out.resolve().is_relative_to(config.home):
        raise ConflictError(f"{out} lies in the home that it would back up: choose another place")
    read_published(config.repository)
    if not config.registry.exists():
        raise ConfigError(f"{config.registry} is missing: there is nothing to back up without it")
    wanted = sum(size for _, _, size in _files(config.home))
    wanted += config.registry.stat().st_size + MEGABYTE  # its copy stands beside the file
    require_room(out.parent, wanted, config.retention.reserve_mb * MEGABYTE)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            fresh = Path(folder, "backup.tar")
            with fresh.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                made = _write(config, file, Path(folder, "registry.db"))
                file.flush()
                os.fsync(file.fileno())
            with tarfile.open(fresh) as archive:
                _require_whole(archive, made, fresh)
            size = fresh.stat().st_size
            fresh.rename(out)
            sync_folder(out.parent)
    except (OSError, tarfile.TarError) as why:
        reason = why.strerror if isinstance(why, OSError) and why.strerror else why
        full = isinstance(why, OSError) and why.errno in {errno.ENOSPC, errno.EDQUOT}
        kind = DiskFullError if full else ConfigError
        raise kind(f"{out} cannot be written: {reason}") from why
    return _view(made, out, config.home, size)


def restore(file: Path, home: Path) -> BackupView:
    """Make a home from a backup.

    Raises:
        ConflictError: The home holds something.
        RefusedError: The file is no backup, or not a whole one; nothing is left.
        NewerStateError: A newer version wrote it.
        ConfigError: The file cannot be read, or the home cannot be written.

    """
    home = home.absolute()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise ConflictError(f"{home} is not empty: choose another --home, or remove it yourself")
    building = home.with_name(f"{home.name}.restoring")
    try:
        with tarfile.open(file) as archive:
            listed = read_list(archive, file)
            require_room(home.parent, sum(f.size for f in listed.files.values()), 0)
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True, mode=0o700)
            _unpack(archive, listed, building, file)
        _require_sound(building, file)
        _move_broker(building, Path(listed.home), home)
        os.sync()
        if home.exists():
            home.rmdir()
        building.rename(home)
        sync_folder(home.parent)
        size = file.stat().st_size
    except (tarfile.TarError, EOFError) as why:
        raise RefusedError(f"{file} is no whole backup: {why}") from why
    except OSError as why:
        raise ConfigError(f"{file} cannot become {home}: {why.strerror or why}") from why
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return _view(listed, file, home, size)


def _files(home: Path) -> Iterator[tuple[str, Path, int]]:
    """Yield name, path and size of what is backed up, the repository's timestamp first."""
    found = []
    for folder, _, names in os.walk(home):
        for name in names:
            path = Path(folder, name)
            told = path.relative_to(home).as_posix()
            if told in _NOT_TAKEN or name.startswith(_UNFINISHED) or told.startswith(_UNDERWAY):
                continue
            with suppress(FileNotFoundError):
                known = path.stat()
                if stat.S_ISREG(known.st_mode):
                    found.append((told, path, known.st_size))
    yield from sorted(found, key=lambda item: (item[0] != _TIMESTAMP, item[0]))


def _empty_folders(home: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(home):
        if not folders and not names:
            yield Path(folder).relative_to(home).as_posix()


def _write(config: FleetConfig, out: IO[bytes], registry: Path) -> BackupList:
    last = copy_registry(config.registry, registry)
    listed: dict[str, Listed] = {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        listed["registry.db"] = _add(archive, "registry.db", registry)
        for name, path, _ in _files(config.home):
            if name == "registry.db":
                continue
            try:
                listed[name] = _add(archive, name, path)
            except FileNotFoundError:
                if not name.startswith(_MEANWHILE_GONE):
                    raise
        made = BackupList(
            fleet=config.fleet,
            home=str(config.home),
            made_ms=wall_clock_ms(),
            last_event=last,
            files=listed,
            folders=tuple(_empty_folders(config.home)),
        )
        text = encode(made)
        member = tarfile.TarInfo(LIST)
        member.size, member.mode = len(text), 0o600
        archive.addfile(member, io.BytesIO(text))
    return made


def _add(archive: tarfile.TarFile, name: str, path: Path) -> Listed:
    with path.open("rb") as file:
        member = archive.gettarinfo(arcname=name, fileobj=file)
        # Two names of one file are two files here.
        member.type, member.linkname = tarfile.REGTYPE, ""
        seen = _Seen(file)
        archive.addfile(member, seen)
    return Listed(size=member.size, sha256=seen.digest)


class _Seen(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, sha256()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._file.read(size)
        self._hash.update(piece)
        return piece

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _require_whole(archive: tarfile.TarFile, listed: BackupList, file: Path) -> None:
    """Return if every listed file is in the archive, and nothing else."""
    for name, _, known, content in _members(archive, listed, file):
        while content.read(MEGABYTE):
            pass
        _require_same(name, content, known, file)


def _members(
    archive: tarfile.TarFile, listed: BackupList, file: Path
) -> Iterator[tuple[str, int, Listed, "_Seen"]]:
    """Yield name, mode and promised content of every file, to be read."""
    left = dict(listed.files)
    for member in archive.getmembers():
        if member.name == LIST:
            continue
        known = left.pop(member.name, None)
        _require_fits(member, known, file)
        content = archive.extractfile(member)
        if content is None or known is None:
            raise RefusedError(f"{file} is damaged: {member.name} cannot be read")
        yield member.name, member.mode, known, _Seen(content)
    if left:
        raise RefusedError(f"{file} is damaged: {min(left)} is missing")


def _require_same(name: str, seen: "_Seen", known: Listed, file: Path) -> None:
    if seen.digest != known.sha256:
        raise RefusedError(f"{file} is damaged: {name} is not what was backed up")


def _require_fits(member: tarfile.TarInfo, listed: Listed | None, file: Path) -> None:
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or not member.isreg():
        raise RefusedError(f"{file} is no backup of ours: it holds {member.name!r}")
    if listed is None or listed.size != member.size:
        raise RefusedError(f"{file} is damaged: {member.name} is not what was backed up")


def _unpack(archive: tarfile.TarFile, listed: BackupList, building: Path, file: Path) -> None:
    for name, mode, known, content in _members(archive, listed, file):
        path = building / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            os.fchmod(target.fileno(), mode & 0o700)
            shutil.copyfileobj(content, target, MEGABYTE)
        _require_same(name, content, known, file)
    for name in listed.folders:
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise RefusedError(f"{file} is no backup of ours: it holds {name!r}")
        (building / name).mkdir(parents=True, exist_ok=True)
    for path in building.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


def _require_sound(building: Path, file: Path) -> None:
    try:
        config = FleetConfig.load(building)
        refuse_newer(config.registry, version_of(config.registry))
        read_published(config.repository)
    except NewerStateError:
        raise
    except FleetError as why:
        raise RefusedError(f"{file} does not hold a home in order: {why}") from why


def _move_broker(building: Path, before: Path, home: Path) -> None:
    """Let the broker's configuration name its new place."""
    path = building / "broker" / CONF_FILE
    if path.exists() and before != home:
        path.write_text(path.read_text().replace(f"{before}/", f"{home}/"))


def _view(listed: BackupList, file: Path, home: Path, size: int) -> BackupView:
    return BackupView(
        fleet=listed.fleet,
        file=str(file),
        home=str(home),
        made_ms=listed.made_ms,
        files=len(listed.files),
        size_bytes=size,
        last_event=listed.last_event,
    )
