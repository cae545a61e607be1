"""An update in one file: what devices without a network are given instead of a rollout.

Rule 1: making a bundle is assigning: the release becomes what the fleet wants of these
        devices, and their next signed assignment is in the bundle. It is also published,
        so that a device that comes online hears the same.
Rule 2: a device of an active rollout of the slot is refused: the rollout would want
        something else of it a moment later.
Rule 3: metadata and assignments are signed anew, so that the bundle lasts as long as
        what is published does; until when is said.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from agent.contract.bundle import MAX_METADATA_RECORDS, MAX_METADATA_TOTAL
from agent.contract.manifest import Release
from agent.contract.sources import full_source
from agent.contract.topics import ASSIGNMENT
from fleet.errors import ConflictError, RefusedError
from fleet.ingest import dispatch
from fleet.registry.devices import Device, DeviceState
from fleet.registry.models import Published
from fleet.rollout import journal
from fleet.service import contents, releases, withdrawal
from fleet.service.desk import Desk
from fleet.service.views import BundledFile, BundleView
from fleet.service.wishes import BundleWish

MAX_DEVICES = 2000
"""Of one bundle: each is signed for while nobody else is served."""
_ALWAYS = timedelta(days=3650)


def create(desk: Desk, wish: BundleWish) -> BundleView:
    """Assign a release to devices and return what their bundle holds.

    Raises:
        NotFoundError: There is no such release or device.
        RefusedError: The release was withdrawn, or no device can be given it.
        ConflictError: An active rollout of the slot has one of the devices.
        SigningError: An assignment or the metadata cannot be signed.

    """
    published = releases.find(desk, wish.release)
    release = published.release
    if withdrawal.is_withdrawn(desk, published):
        raise RefusedError(f"{release.target} was withdrawn: no device would verify it")
    chosen, passed_over = _choose(desk, wish, release)
    _require_free(desk, release.slot, {device.id for device in chosen})
    now_ms = desk.now_ms()
    desk.repository.refresh(datetime.fromtimestamp(now_ms / 1000, UTC), under=_ALWAYS)
    assignments = _assign(desk, chosen, published, now_ms)
    carried = _carried(desk, chosen, published)
    return BundleView(
        release=f"{release.family}/{release.version}",
        metadata=_metadata(desk, carried),
        assignments=assignments,
        files=_files(desk, carried),
        until_ms=_until_ms(desk, now_ms),
        passed_over=passed_over,
    )


def _choose(
    desk: Desk, wish: BundleWish, release: Release
) -> tuple[tuple[Device, ...], dict[str, str]]:
    if wish.every == bool(wish.devices):
        raise RefusedError("say which devices the bundle is for, or that it is for all")
    known = desk.registry.devices
    devices = known.listing() if wish.every else [known.require(d) for d in set(wish.devices)]
    reasons = {device.id: _unfit(device, release) for device in devices}
    passed_over = {device: why for device, why in reasons.items() if why}
    if passed_over and not wish.every:
        device, why = next(iter(passed_over.items()))
        raise RefusedError(f"{device} cannot be given {release.target}: {why}")
    chosen = tuple(device for device in devices if not reasons[device.id])
    if not chosen:
        raise RefusedError(f"there is no device that can be given {release.target}")
    if len(chosen) > MAX_DEVICES:
        raise RefusedError(f"a bundle is for at most {MAX_DEVICES} devices, not {len(chosen)}")
    return chosen, passed_over


def _unfit(device: Device, release: Release) -> str:
    """Return why a device cannot be given a release, or nothing."""
    if device.state is not DeviceState.ENROLLED:
        return f"it is {device.state}"
    if device.quarantined_why is not None:
        return f"it is quarantined: {device.quarantined_why}"
    if not any(not v.hardware or device.hardware in v.hardware for v in release.variants):
        return f"no variant is for hardware {device.hardware}"
    if device.inventory is not None and release.slot not in device.inventory.slots:
        return f"it has no slot {release.slot}"
    return ""


def _require_free(desk: Desk, slot: str, devices: set[str]) -> None:
    for row in desk.registry.rollouts.listing(active=True):
        if row.slot != slot:
            continue
        shared = journal.load(desk.registry, row.id).members.keys() & devices
        if shared:
            raise ConflictError(
                f"rollout {row.id} is active for slot {slot} of {len(shared)} of these devices, "
                f"such as {min(shared)}: let it end or abort it"
            )


def _assign(
    desk: Desk, devices: Iterable[Device], published: Published, now_ms: int
) -> dict[str, bytes]:
    authority, registry = desk.repository.authority(), desk.registry
    sign = contents.signer(desk, authority, now_ms)
    signed: dict[str, bytes] = {}
    with registry.transaction():
        for device in devices:
            registry.devices.want(
                device.id, published.release.slot, published.assigned, at_ms=now_ms
            )
            signed[device.id] = dispatch.sign_next(
                registry,
                device,
                fleet=desk.config.fleet,
                epoch=authority.director_epoch,
                now_ms=now_ms,
                lifetime_ms=desk.config.assignment_seconds * 1000,
                sign=sign,
            ).payload
    for device_id, payload in signed.items():
        desk.send(ASSIGNMENT.at(device_id), payload)
    return signed


def _carried(desk: Desk, devices: Iterable[Device], published: Published) -> tuple[Published, ...]:
    """Return the release, and whatever else these devices are wanted to run and do not yet."""
    found = {published.digest: published}
    for device in devices:
        reported = device.reported.slots if device.reported else {}
        for slot, assigned in desk.registry.devices.desired(device.id).items():
            runs = reported[slot].current if slot in reported else None
            other = desk.registry.models.find(assigned.digest)
            if other is None or runs == assigned.digest or withdrawal.is_withdrawn(desk, other):
                continue
            found[other.digest] = other
    return tuple(found.values())


def _metadata(desk: Desk, carried: Iterable[Published]) -> dict[str, bytes]:
    files = desk.repository.bundle(0, tuple(p.release.target for p in carried))
    total = sum(len(content) for content in files.values())
    if total > MAX_METADATA_TOTAL or len(files) > MAX_METADATA_RECORDS:
        raise RefusedError(f"{total} bytes of metadata are too much for one bundle: name devices")
    return files


def _files(desk: Desk, carried: Iterable[Published]) -> tuple[BundledFile, ...]:
    """Return every artifact whole, or the full sealed stream of an encrypted one."""
    needed = {
        file.digest: BundledFile(digest=file.digest, size=file.size)
        for published in carried
        for artifact in published.release.artifacts
        for file in (full_source(artifact) if artifact.encrypted else artifact,)
    }
    lost = [digest for digest in needed if not desk.artifacts.has(digest)]
    if lost:
        raise RefusedError(f"artifact {lost[0][:16]} is not kept here any more: restore it")
    return tuple(needed.values())


def _until_ms(desk: Desk, now_ms: int) -> int:
    held = desk.repository.published()
    signed = (held.root, held.timestamp, held.snapshot, held.targets, *held.delegated.values())
    expires_ms = min(int(one.expires.timestamp() * 1000) for one in signed)
    return min(expires_ms, now_ms + desk.config.assignment_seconds * 1000)
