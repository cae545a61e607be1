"""What withdrawing a release means for devices, told before it is done and done after.

    runs it                     keeps running it; may be sent to another release
    is asked to install it      is no longer asked; runs what it runs
    asks for it from now on     is refused: it is no target any more
    keeps it as its last good   may return to it by itself or be sent back: it never left

Rule 1: the effect of a withdrawal is derived from the published metadata, at every change
        of it, so that a crash between signing and stopping costs nothing.
"""

from msgspec import Struct

from agent.contract.messages import Assigned
from fleet.registry.devices import Device
from fleet.registry.models import Published
from fleet.rollout import journal
from fleet.rollout.events import AbortAsked
from fleet.rollout.selector import parse_selector
from fleet.service import releases
from fleet.service.desk import Desk


class Stranded(Struct, frozen=True, kw_only=True):
    """Devices that run a release that is, or would be, withdrawn.

    Attributes:
        release, target, digest, slot, counter: The release.
        withdrawn: It is no target any more.
        runs_on: Devices that run it.
        asked: Devices that are asked to install it and do not run it yet.
        keeps: Devices that keep it as their last good release.
        rollouts: Active rollouts of it.
        ways_back: Releases that these devices may go back to, by the release's own
            manifest or by a permit, and that are still published.

    """

    release: str
    target: str
    digest: str
    slot: str
    counter: int
    withdrawn: bool
    runs_on: tuple[str, ...]
    asked: tuple[str, ...]
    keeps: tuple[str, ...]
    rollouts: tuple[str, ...]
    ways_back: tuple[str, ...]


def preview(desk: Desk, name: str) -> Stranded:
    """Return whom the withdrawal of a release concerns.

    Raises:
        NotFoundError: There is no such release.

    """
    published = releases.find(desk, name)
    release, digest = published.release, published.digest
    devices = desk.registry.devices.listing()
    permitted = {p.release for p in desk.repository.published().permits.permits}
    back = [
        other
        for other in desk.registry.models.listing(release.slot)
        if other.digest in {*release.rollback_to, *permitted} - {digest}
        and not is_withdrawn(desk, other)
    ]
    return Stranded(
        release=f"{release.family}/{release.version}",
        target=release.target,
        digest=digest,
        slot=release.slot,
        counter=release.counter,
        withdrawn=is_withdrawn(desk, published),
        runs_on=tuple(d.id for d in devices if _current(d, release.slot) == digest),
        asked=tuple(d.id for d in devices if _is_asked(desk, d, published)),
        keeps=tuple(d.id for d in devices if _last_good(d, release.slot) == digest),
        rollouts=tuple(_rollouts(desk, digest)),
        ways_back=tuple(f"{p.release.family}/{p.release.version}" for p in back),
    )


def select(desk: Desk, text: str) -> tuple[str, ...]:
    """Return the devices that a selector names.

    Raises:
        RefusedError: It cannot be read.

    """
    selector = parse_selector(text)
    return tuple(d.id for d in desk.registry.devices.listing() if selector.matches(d))


def is_withdrawn(desk: Desk, published: Published) -> bool:
    """Return whether a release is a target no more."""
    return desk.repository.target(published.release.target) is None


def stop_asking(desk: Desk) -> None:
    """Stop every rollout of a withdrawn release, and ask nobody any more to install it."""
    now_ms = desk.now_ms()
    for published in desk.registry.models.listing():
        if not is_withdrawn(desk, published):
            continue
        with desk.registry.joined():
            why = f"{published.release.target} was withdrawn"
            for rollout in _rollouts(desk, published.digest):
                event = AbortAsked(why=why, revert=False, at_ms=now_ms)
                journal.advance(desk.registry, rollout, [event], at_ms=now_ms)
            for device in desk.registry.devices.listing():
                if _is_asked(desk, device, published):
                    runs = _running(desk, device, published.release.slot)
                    desk.registry.devices.want(
                        device.id, published.release.slot, runs, at_ms=now_ms
                    )


def _running(desk: Desk, device: Device, slot: str) -> Assigned | None:
    current = _current(device, slot)
    found = desk.registry.models.find(current) if current else None
    return found.assigned if found else None


def _is_asked(desk: Desk, device: Device, published: Published) -> bool:
    wanted = desk.registry.devices.desired(device.id).get(published.release.slot)
    if wanted is None or wanted.digest != published.digest:
        return False
    return _current(device, published.release.slot) != published.digest


def _current(device: Device, slot: str) -> str | None:
    report = device.reported.slots.get(slot) if device.reported else None
    return report.current if report else None


def _last_good(device: Device, slot: str) -> str | None:
    report = device.reported.slots.get(slot) if device.reported else None
    return report.last_good if report else None


def _rollouts(desk: Desk, digest: str) -> list[str]:
    rows = desk.registry.rollouts.listing(active=True)
    states = [journal.load(desk.registry, row.id) for row in rows]
    return [state.plan.id for state in states if state.plan.release.digest == digest]
