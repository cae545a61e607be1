"""Who takes part in a new run: who trains, who judges, and who is taken already.

Rule 1: a run starts from the release that most of its devices run now; devices that run
        something else wait for the next one.
Rule 2: a device takes part in one run at a time: who trains or judges for an active run
        is left out of a new one, and counted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fleet.errors import RefusedError
from fleet.registry.devices import Device, DeviceState
from fleet.registry.models import Published
from fleet.rollout.selector import parse_selector, select
from fleet.service.desk import Desk
from fleet.service.overview import name_of
from fleet.service.run_views import plan_of
from fleet.service.wishes import RunWish


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligible:
    """Who takes part in a run.

    Attributes:
        backbone: The release that it starts from.
        trainers, judges: Device ids; most train and judge.
        elsewhere: How many are left out because they take part in another run.

    """

    backbone: Published
    trainers: tuple[str, ...]
    judges: tuple[str, ...]
    elsewhere: int


def eligible(desk: Desk, wish: RunWish) -> Eligible:
    """Return who takes part in the run that is wished for.

    Raises:
        RefusedError: Nobody can train, or nobody of the guard can judge.

    """
    busy = taken(desk)
    chosen = [d for d in _selected(desk, wish.select) if is_fit(d)]
    free = [d for d in chosen if d.id not in busy]
    if chosen and not free:
        raise RefusedError(_all_taken(busy, [d.id for d in chosen]))
    backbone = _backbone(desk, free, wish.slot)
    on_it = [d for d in free if runs_now(d, wish.slot) == backbone.digest]
    left_out = [d for d in chosen if d.id in busy and runs_now(d, wish.slot) == backbone.digest]
    guard = _guard(desk, wish, backbone, busy)
    judges = tuple(d.id for d in on_it if d.inventory and d.inventory.evaluates)
    judges += tuple(d for d in guard if d not in judges)
    on_it = [d for d in on_it if d.id not in guard]
    if wish.client_app:
        on_it = _letting_apps(on_it)
    trainers = tuple(d.id for d in on_it if d.inventory and d.inventory.trains)
    if not trainers:
        raise RefusedError(
            f"none of the {len(on_it)} online devices that run "
            f"{name_of(desk, backbone.digest)} trains; set [learn] train = true on some"
            + (f" ({_all_taken(busy, [d.id for d in left_out])})" if left_out else "")
        )
    return Eligible(backbone=backbone, trainers=trainers, judges=judges, elsewhere=len(left_out))


def _letting_apps(devices: list[Device]) -> list[Device]:
    """Return the devices that let signed apps train.

    Raises:
        RefusedError: None of them does.

    """
    found = [d for d in devices if d.inventory and d.inventory.apps]
    if devices and not found:
        raise RefusedError(
            f"none of the {len(devices)} online devices lets apps train; set [learn] apps = true"
            " on some"
        )
    return found


def taken(desk: Desk) -> dict[str, str]:
    """Return the active run of every device that takes part in one."""
    plans = [plan_of(row) for row in desk.registry.runs.listing(active=True)]
    return {d: plan.run for plan in plans for d in (*plan.participants, *plan.evaluators)}


def runs_now(device: Device, slot: str) -> str | None:
    """Return the digest of the release that a device runs in a slot."""
    told = device.reported.slots.get(slot) if device.reported else None
    return told.current if told else None


def is_fit(device: Device) -> bool:
    """Return whether a device can be asked for anything now."""
    return (
        device.state is DeviceState.ENROLLED
        and device.presence == "online"
        and device.quarantined_why is None
    )


def _selected(desk: Desk, query: str) -> list[Device]:
    left_out = desk.registry.standings.left_out()
    found = select(parse_selector(query), desk.registry.devices.listing())
    trusted = [d for d in found if d.id not in left_out]
    if found and not trusted:
        raise RefusedError(
            f"all {len(found)} selected devices are left out of learning: 'device show' says "
            "why, 'device forgive' takes one back"
        )
    return trusted


def _all_taken(busy: Mapping[str, str], devices: list[str]) -> str:
    runs = ", ".join(sorted({busy[d] for d in devices if d in busy}))
    return (
        f"{len(devices)} of the selected devices take part in {runs}; wait for it, stop it, "
        "or select others"
    )


def _backbone(desk: Desk, devices: list[Device], slot: str) -> Published:
    running = Counter(found for d in devices if (found := runs_now(d, slot)))
    if not running:
        raise RefusedError(
            f"no online device runs anything in slot {slot!r}; roll a release out first"
        )
    return desk.registry.models.require(running.most_common(1)[0][0])


def _guard(
    desk: Desk, wish: RunWish, backbone: Published, busy: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the devices that were asked to judge and not to train."""
    if not wish.guard:
        return ()
    asked = [d for d in _selected(desk, wish.guard) if is_fit(d) and d.id not in busy]
    on_it = [d for d in asked if runs_now(d, wish.slot) == backbone.digest]
    found = tuple(d.id for d in on_it if d.inventory and d.inventory.evaluates)
    if not found:
        raise RefusedError(
            f"none of the {len(on_it)} online devices of the guard {wish.guard!r} that run "
            f"{name_of(desk, backbone.digest)} evaluates; set [learn] evaluate = true on some"
        )
    return found
