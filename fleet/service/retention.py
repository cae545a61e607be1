"""What only grows, and when it may go: artifacts, spools of runs, the beginning of the log.

Rule 1: a file of ``artifacts/`` is needed by a release in force, by what a device is wanted
        or says to run, try or keep, by what an active rollout may take devices back to, and
        by a run that is active or whose candidate can still be published. Any other goes,
        when it is older than ``artifacts_days``: an upload comes before its release.
Rule 2: replies that an ended run spooled go at once, its weights after ``runs_days``.
Rule 3: entries of the event log move to files; nothing in the manager reads them again.
Rule 4: one pass is short, because devices wait meanwhile; there may be ``more``.
"""

import logging
from collections.abc import Callable, Iterator

from agent.contract.manifest import Release, decode_release
from fleet.registry.room import MEGABYTE, free_bytes, require_room
from fleet.registry.runs import RunRow
from fleet.registry.sqlite import Registry
from fleet.rollout import journal
from fleet.rounds.engine import FINAL
from fleet.service.desk import Desk
from fleet.service.run_views import plan_of
from fleet.service.views import PruneView

LOG = logging.getLogger(__name__)
EVENTS_AT_ONCE = 10_000
FEWEST_EVENTS = 1_000
"""The manager by itself makes no smaller archive."""
_BYTES_OF_AN_EVENT = 4096
_DAY_MS = 86_400_000


def prune(desk: Desk, *, dry_run: bool, fewest_events: int = 1) -> PruneView:
    """Remove and archive what may go, or only tell what that is.

    Raises:
        DiskFullError: There is no room for an archive; what frees room was done before.
        RegistryError: The disk refuses.

    """
    artifacts = _idle_artifacts(desk)
    spools = list(_idle_spools(desk))
    if not dry_run:
        for name in artifacts:
            desk.artifacts.remove(name)
        with desk.registry.joined():
            for row, but, _ in spools:
                desk.registry.runs.forget_spool(row.id, but=but)
    events, archive = _archive(desk, dry_run=dry_run, fewest=fewest_events)
    view = PruneView(
        dry_run=dry_run,
        artifacts=tuple(sorted(artifacts)),
        artifact_bytes=sum(artifacts.values()),
        events=events,
        archive=archive,
        runs=tuple(row.id for row, _, _ in spools),
        candidates=tuple(row.id for row, but, _ in spools if not but),
        run_bytes=sum(size for _, _, size in spools),
        free_bytes=free_bytes(desk.config.home),
        more=events == EVENTS_AT_ONCE,
    )
    if not dry_run and (artifacts or spools or events):
        LOG.info(
            "pruned artifacts=%d bytes=%d events=%d archive=%s runs=%s",
            len(artifacts),
            view.artifact_bytes,
            events,
            archive or "none",
            ",".join(view.runs) or "none",
        )
    return view


def needed(desk: Desk) -> set[str]:
    """Return the digests of all files that somebody needs, manifests among them."""
    found: set[str] = set()
    for digest, release in _releases(desk):
        found |= {digest, *(file.digest for file in release.files)}
    return found


def _releases(desk: Desk) -> Iterator[tuple[str, Release]]:
    """Yield every release that somebody needs."""
    used = used_releases(desk.registry, is_over=lambda run: _is_old(desk, run))
    for published in desk.registry.models.listing():
        if published.digest in used or _in_force(desk, published.release, published.manifest):
            yield published.digest, published.release
    # A crash may have left a release in force that the registry does not know yet.
    held = desk.repository.published()
    for role in (held.targets, *held.delegated.values()):
        for name, file in role.targets.items():
            manifest = desk.repository.target(name) if name.startswith("models/") else None
            if manifest is not None:
                yield file.hashes["sha256"], decode_release(manifest)


def _in_force(desk: Desk, release: Release, manifest: bytes) -> bool:
    return desk.repository.target(release.target) == manifest


def used_releases(registry: Registry, *, is_over: Callable[[RunRow], bool]) -> set[str]:
    """Return the digests of releases that a device, an active rollout or a run needs.

    Args:
        registry: Of the fleet.
        is_over: Whether nothing can follow from a run any more.

    """
    found = registry.devices.wanted()
    for device in registry.devices.listing():
        for slot in device.reported.slots.values() if device.reported else ():
            found |= {d for d in (slot.current, slot.candidate, slot.last_good) if d}
    for row in registry.rollouts.listing(active=True):
        members = journal.load(registry, row.id).members.values()
        found |= {row.release, *(m.previous.digest for m in members if m.previous)}
    for run in registry.runs.listing():
        if not is_over(run):
            found.add(plan_of(run).backbone)
    return found


def _idle_artifacts(desk: Desk) -> dict[str, int]:
    days = desk.config.retention.artifacts_days
    if not days:
        return {}
    old = desk.artifacts.older(desk.now_ms() - days * _DAY_MS)
    keep = needed(desk) if old else set()
    return {name: size for name, size in old.items() if name not in keep}


def _idle_spools(desk: Desk) -> Iterator[tuple[RunRow, str, int]]:
    """Yield ended runs, the one name of their spool that stays, and the bytes that go."""
    for row in desk.registry.runs.listing(active=False):
        but = "" if _is_old(desk, row) else FINAL
        things, size = desk.registry.runs.spooled(row.id, but=but)
        if things:
            yield row, but, size


def _is_old(desk: Desk, run: RunRow) -> bool:
    days = desk.config.retention.runs_days
    return bool(days) and not run.active and run.changed_ms < desk.now_ms() - days * _DAY_MS


def _archive(desk: Desk, *, dry_run: bool, fewest: int) -> tuple[int, str]:
    retention, events = desk.config.retention, desk.registry.events
    if not retention.events_days:
        return 0, ""
    before_ms = desk.now_ms() - retention.events_days * _DAY_MS
    count = events.older(before_ms, limit=EVENTS_AT_ONCE)
    if count < fewest or not count or dry_run:
        return (count if count >= fewest else 0), ""
    wanted = count * _BYTES_OF_AN_EVENT
    require_room(desk.config.archive, wanted, retention.reserve_mb * MEGABYTE)
    with desk.registry.joined():
        return count, events.archive(count, desk.config.archive, at_ms=desk.now_ms()).name
