"""Taking up where a lost manager stopped: what devices have seen is never gone below.

A manager that was restored from a copy of its state has forgotten what was signed after the
copy was made. Devices have not: they refuse what is older, or another thing of the same order.
What they report, signed, says how far they have come.

    assignments          signed anew above the sequence that the device reports
    snapshot, timestamp  signed anew above the versions that devices report, at once
    targets              are the release engineers': ``repo resume`` proposes the same list
                         with a version above; until then devices refuse new releases
    root                 exists as a proposal's file: publish that again
    reports              that the lost manager acknowledged are counted as not to come again

Rule 1: one lying device must not hurt the others: versions are believed only as far ahead as a
        lost manager can have come, and of one device only so often.
"""

import logging
from datetime import UTC, datetime
from typing import Final

from agent.contract.envelope import Boot
from agent.contract.messages import Reported
from fleet.errors import SigningError
from fleet.ingest.dispatch import MAX_REPORTED_SEQUENCE
from fleet.registry.devices import DeviceState
from fleet.registry.sqlite import Registry
from fleet.service.desk import Desk
from fleet.signing.lifting import MAX_AHEAD
from fleet.signing.published import Published

LOG = logging.getLogger(__name__)
_OFFLINE: Final = ("root", "targets")


def take_up(desk: Desk, device: str, reported: Reported) -> None:
    """Go on above what a device reports; call it inside a transaction."""
    _resume_assignments(desk, device, reported)
    _resume_metadata(desk, device, reported)
    _resume_reports(desk, device, reported)


def seen(registry: Registry, held: Published) -> dict[str, int]:
    """Return, of the roles that people sign, the versions that devices saw and we do not hold."""
    own = {"root": held.root.version, "targets": held.targets.version}
    found: dict[str, int] = {}
    for device in registry.devices.listing(DeviceState.ENROLLED):
        versions = device.reported.versions if device.reported else {}
        for role in _OFFLINE:
            version = versions.get(role, 0)
            if own[role] < version <= own[role] + MAX_AHEAD:
                found[role] = max(version, found.get(role, 0))
    return found


def _resume_assignments(desk: Desk, device: str, reported: Reported) -> None:
    if reported.director_epoch != desk.repository.authority().director_epoch:
        return
    kept = desk.registry.devices.assignment(device)
    same = kept is not None and kept.director_epoch == reported.director_epoch
    order = kept.sequence if kept is not None and same else 0
    if order < reported.sequence <= MAX_REPORTED_SEQUENCE:
        LOG.warning(
            "resumed device=%s sequence=%d kept=%d: it accepted more than this manager remembers",
            device, reported.sequence, order,
        )  # fmt: skip
        desk.registry.devices.sign_again(device)


def _resume_metadata(desk: Desk, device: str, reported: Reported) -> None:
    held = desk.repository.published()
    own = {"snapshot": held.snapshot.version, "timestamp": held.timestamp.version}
    if all(reported.versions.get(role, 0) <= version for role, version in own.items()):
        return
    if not desk.resuming.lets(device, desk.now_ms()):
        return  # a liar that counts up would have us sign, write and wait for the disk for ever
    now = datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
    try:
        if desk.repository.overtake(reported.versions, now):
            LOG.warning("resumed metadata above versions=%s", reported.versions)
    except SigningError as why:
        LOG.warning("metadata not resumed why=%s", why)


def _resume_reports(desk: Desk, device: str, reported: Reported) -> None:
    reports, now_ms = desk.registry.reports, desk.now_ms()
    for name, settled in reported.acknowledged.items():
        boot = Boot.parse(name)
        recorded = reports.recorded_up_to(device, boot)
        if settled > recorded:
            gone = reports.skip(device, boot, recorded + 1, settled, at_ms=now_ms)
            LOG.warning("resumed device=%s boot=%s forgotten=%d", device, name, gone)
