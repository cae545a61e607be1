"""``fieldfare doctor``: what is wrong with a manager's home, and what to do about it.

Rule 1: nothing is changed, and a manager that runs meanwhile is not disturbed; only where
        none runs, the doctor logs in to the broker as the manager would.
Rule 2: one thing that cannot be read hides no other, except the settings, without which
        nothing has a place.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.contract.checkup import Check, Checkup, check_proxies, check_space, doubt, ill, well
from agent.contract.sources import full_source
from fleet.config import FleetConfig
from fleet.errors import FleetError
from fleet.registry.artifacts import Artifacts
from fleet.registry.content_keys import ContentKeys
from fleet.registry.database import Database
from fleet.registry.schema import STEPS, refuse_newer, version_of
from fleet.registry.sqlite import Registry
from fleet.service import resumption
from fleet.service.doctor_broker import check_broker
from fleet.service.doctor_downloads import check_downloads
from fleet.service.doctor_home import check_home_assistant
from fleet.service.doctor_trust import check_clock, check_keys, check_repository
from fleet.service.retention import used_releases
from fleet.service.views import StatusView
from fleet.signing.published import Published, read_published

NEEDED_BYTES: Final = 64 * 1024 * 1024
SPARE_BYTES: Final = 1024 * 1024 * 1024
_OTHERS: Final = 0o077
_FOLDERS: Final = ("keys", "keys/online", "repository", "artifacts", "content-keys", "broker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A manager, as the doctor meets it.

    Attributes:
        config: Its settings, or why they cannot be read.
        home: Its folder.
        running: Whether a manager holds the home's lock.
        status: What it said of itself; the error where it does not answer; None where no
            socket is there.
        now_ms: The system clock, ms since 1970.
        environment: Of this process.

    """

    config: FleetConfig | FleetError
    home: Path
    running: bool
    status: StatusView | FleetError | None
    now_ms: int
    environment: Mapping[str, str]


def is_held(home: Path) -> bool:
    """Return whether a manager holds this home."""
    try:
        with (home / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def examine(found: Found) -> Checkup:
    """Judge one manager."""
    return Checkup(checks=tuple(_all(found)))


def _all(found: Found) -> Iterator[Check]:
    if isinstance(found.config, FleetError):
        yield ill("config", str(found.config))
        return
    config, now_ms = found.config, found.now_ms
    yield well("config", f"fleet {config.fleet}")
    yield _home(config)
    yield _manager(found, config)
    yield check_space(
        shutil.disk_usage(config.home).free,
        needed_bytes=NEEDED_BYTES,
        spare_bytes=SPARE_BYTES,
        what="the registry",
    )
    published = _published(config)
    yield from check_keys(config, None if isinstance(published, FleetError) else published)
    yield from check_repository(published, now_ms)
    newest_ms = 0
    match _open(config):
        case Check() as refused:
            yield refused
        case Registry() as registry:
            try:
                newest_ms = _newest(registry)
                held = None if isinstance(published, FleetError) else published
                yield from _registry(registry, config, held)
            except FleetError as why:
                yield ill("registry", str(why))
            finally:
                registry.close()
    yield check_clock(published, newest_ms, now_ms)
    yield check_proxies(config.broker.proxies(found.environment), config.broker.url)
    yield from check_broker(config, running=found.running, status=found.status, now_ms=now_ms)
    yield from check_downloads(config, running=found.running)
    yield from check_home_assistant(config, found.status)


def _home(config: FleetConfig) -> Check:
    home = config.home
    try:
        owner = home.stat().st_uid
        folders = [home, *(home / name for name in _FOLDERS if (home / name).is_dir())]
        inside = [path for folder in folders for path in folder.iterdir()]
        foreign = [path for path in inside if path.lstat().st_uid != owner]
    except OSError as why:
        return ill("home", f"{why.filename}: {why.strerror}; run the doctor as the manager's user")
    if not os.access(home, os.W_OK | os.X_OK):
        return ill("home", f"{home} cannot be written: run the doctor as the manager's user")
    if foreign:
        names = ", ".join(str(path.relative_to(home)) for path in foreign[:3])
        return ill(
            "home",
            f"{names} belongs to another user than {home} itself: chown -R --reference={home} "
            f"{home}",
        )
    if home.stat().st_mode & _OTHERS:
        return doubt("home", f"{home} is open to other users: chmod 700 it")
    return well("home", f"{home} belongs to its user alone")


def _manager(found: Found, config: FleetConfig) -> Check:
    serve = f"fieldfare serve --home {config.home}"
    match found.status:
        case StatusView():
            return well("manager", "it runs and answers")
        case FleetError() as why if found.running:
            return ill("manager", f"a manager holds this home and does not answer: {why}")
        case FleetError():
            return doubt(
                "manager",
                f"no manager runs, and {config.socket.name} was left by one that was killed; the "
                f"next start replaces it: {serve}",
            )
        case None if found.running:
            return ill(
                "manager",
                "a manager holds this home and has opened no socket: if it was started just now, "
                "ask again in a few seconds; else see its log",
            )
        case None:
            return doubt("manager", f"no manager runs: {serve}")


def _published(config: FleetConfig) -> Published | FleetError:
    try:
        return read_published(config.repository)
    except FleetError as why:
        return why


def _open(config: FleetConfig) -> Registry | Check:
    """Open the registry as it is; one of another version is left alone."""
    path = config.registry
    if not path.exists():
        return ill("registry", f"{path} is missing: restore it from a backup")
    try:
        version = version_of(path)
        refuse_newer(path, version)
    except FleetError as why:
        return ill("registry", str(why))
    if version is None:
        return ill("registry", f"{path} is empty: restore it from a backup")
    if version < len(STEPS):
        return doubt(
            "registry",
            f"it is of version {version} and becomes {len(STEPS)} at the next start: copy it first",
        )
    try:
        return Registry(Database(path))
    except FleetError as why:
        return ill("registry", str(why))


def _newest(registry: Registry) -> int:
    number, _ = registry.events.head()
    newest = registry.events.read(after=number - 1, limit=1) if number else []
    return newest[0].at_ms if newest else 0


def _registry(registry: Registry, config: FleetConfig, held: Published | None) -> Iterator[Check]:
    try:
        away = registry.events.verify_chain(config.archive)
    except FleetError as why:
        yield ill(
            "registry",
            f"{why}: somebody or something changed the log; restore it from a backup, and keep "
            "this one to find out",
        )
    else:
        told = f"{registry.events.head()[0]} events, their chain holds"
        if archives := len(registry.events.archives()):
            told += f"; {archives} archives, of which {away} lie elsewhere and were not looked at"
        yield well("registry", told)
    yield _artifacts(registry, Artifacts(config.artifacts), ContentKeys(config.content_keys), held)
    yield from _forgotten(registry, held)
    apart = [d for d in registry.devices.listing() if d.quarantined_why is not None]
    if apart:
        yield doubt(
            "quarantine",
            f"{len(apart)} devices are passed over, {apart[0].id} because of "
            f"{apart[0].quarantined_why}",
        )


def _forgotten(registry: Registry, held: Published | None) -> Iterator[Check]:
    ahead = resumption.seen(registry, held) if held else {}
    for role, version in sorted(ahead.items()):
        again = (
            "publish the change of root again, `fieldfare keys root publish` with its proposal"
            if role == "root"
            else "`fieldfare repo resume` has them signed above, and says what to do then"
        )
        yield ill(
            f"forgotten:{role}",
            f"devices have seen {role} version {version}, which this manager has not: it was "
            f"restored from an older copy; {again}",
        )


def _artifacts(
    registry: Registry, kept: Artifacts, keys: ContentKeys, held: Published | None
) -> Check:
    used = used_releases(registry, is_over=lambda run: not run.active)
    roles = (held.targets, *held.delegated.values()) if held else ()
    in_force = {name for role in roles for name in role.targets}
    # What is withdrawn and nobody has may be pruned.
    releases = [
        published
        for published in registry.models.listing()
        if held is None or published.digest in used or published.release.target in in_force
    ]
    for published in releases:
        named = f"{published.release.family}/{published.release.version}"
        for artifact in published.release.artifacts:
            needed = full_source(artifact) if artifact.encrypted else artifact
            if artifact.encrypted and not keys.has(needed.digest):
                return ill(
                    "artifacts",
                    f"{named} has lost the content key of stream {needed.digest[:16]}, so no new "
                    f"device can run it: restore content-keys/{needed.digest} from a backup",
                )
            if not kept.has(needed.digest):
                return ill(
                    "artifacts",
                    f"{named} has lost artifact {needed.digest[:16]}, so no device can fetch it: "
                    f"restore artifacts/{needed.digest} from a backup",
                )
    return well("artifacts", f"everything behind {len(releases)} releases is here")
