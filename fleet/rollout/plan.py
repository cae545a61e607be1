"""Who gets it, and in which wave: decided once, when a rollout is created.

Rule 1: the order is a hash of rollout and device, so that it is fair, stable and not
        always the same device that goes first.
Rule 2: the canary wave takes only devices that are online now; an offline canary would
        tell nothing.
Rule 3: a device that could not be taken back is refused before it is asked: the
        release must list what the device is wanted to run now in ``rollback_to``.
Rule 4: whoever is passed over is named with the reason.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta, field

from agent.contract.codec import Versioned
from agent.contract.limits import require_name
from agent.contract.manifest import Name, Release, Text
from agent.contract.messages import Assigned
from agent.errors import MalformedError
from fleet.errors import RefusedError
from fleet.registry.devices import Device, DeviceState
from fleet.rollout.gate import Gate
from fleet.rollout.selector import Selector, select


@dataclass(frozen=True, slots=True)
class Count:
    """So many devices."""

    devices: int

    def of(self, total: int) -> int:
        """Return how many that is of ``total``."""
        return min(self.devices, total)


@dataclass(frozen=True, slots=True)
class Share:
    """So many percent of the devices, rounded up."""

    percent: float

    def of(self, total: int) -> int:
        """Return how many that is of ``total``."""
        return min(math.ceil(total * self.percent / 100), total)


Size = Count | Share


def parse_size(text: str) -> Size:
    """Read ``3`` (devices) or ``25%`` (of the devices selected).

    Raises:
        RefusedError: It is neither, or nothing.

    """
    plain = text.strip()
    try:
        size: Size = Share(float(plain[:-1])) if plain.endswith("%") else Count(int(plain))
    except ValueError as why:
        raise RefusedError(f"wave size {text!r} is neither a number nor a percentage") from why
    match size:
        case Count(devices) if devices >= 1:
            return size
        case Share(percent) if 0 < percent <= 100:  # noqa: PLR2004 - percent
            return size
    raise RefusedError(f"wave size {text!r} is not at least 1 device or above 0% and up to 100%")


class Plan(Versioned, frozen=True, kw_only=True):
    """A rollout as it was decided; it never changes.

    Attributes:
        waves: Devices of each wave in order; the first is the canary.
        passed_over: Selected devices that are left out, with the reason.

    """

    id: Name
    slot: Name
    release: Assigned
    selector: Text
    waves: Annotated[tuple[tuple[Name, ...], ...], Meta(min_length=1)]
    gate: Gate
    created_ms: int
    passed_over: dict[Name, Text] = field(default_factory=dict)

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device of every wave."""
        return tuple(device for wave in self.waves for device in wave)


def make_plan(
    *,
    rollout: str,
    release: Release,
    assigned: Assigned,
    selector: Selector,
    devices: Sequence[Device],
    desired: Mapping[str, Mapping[str, Assigned]],
    at_ms: int,
    canary: Size = Count(1),
    waves: Sequence[Size] = (),
    gate: Gate | None = None,
    one_way: bool = False,
) -> Plan:
    """Decide the waves.

    Args:
        rollout: Name of the rollout; seeds the order.
        release: The release to bring.
        assigned: The same as assignments name it.
        selector: Which devices.
        devices: Every device of the fleet.
        desired: Desired slots by device, where there are any.
        at_ms: Wall clock, ms since 1970.
        canary: Size of the first wave.
        waves: Cumulative sizes of the next ones; the last wave takes who is left.
        gate: What each wave must show; None for the default.
        one_way: Also ask devices that could not be taken back.

    Raises:
        RefusedError: Nobody is left to ask, nobody is online for the canary, or a device
            could not be taken back.

    """
    try:
        require_name(rollout, "rollout")
    except MalformedError as why:
        raise RefusedError(str(why)) from why
    before = {device.id: desired.get(device.id, {}).get(release.slot) for device in devices}
    asked, passed_over = _sift(select(selector, devices), release, assigned, before)
    if not one_way:
        _require_way_back(asked, release, before)
    if not asked:
        raise RefusedError(
            f"selector {selector.text!r} leaves nobody to ask ({len(passed_over)} passed over"
            f"{': ' + next(iter(passed_over.values())) if passed_over else ''})"
        )
    return Plan(
        id=rollout,
        slot=release.slot,
        release=assigned,
        selector=selector.text,
        waves=_waves(rollout, asked, canary, waves),
        gate=gate or Gate(),
        created_ms=at_ms,
        passed_over=passed_over,
    )


def _sift(
    chosen: Iterable[Device],
    release: Release,
    assigned: Assigned,
    before: Mapping[str, Assigned | None],
) -> tuple[list[Device], dict[str, str]]:
    """Return who is asked, and why each of the others is not."""
    asked: list[Device] = []
    passed_over: dict[str, str] = {}
    for device in chosen:
        reason = _unfit(device, release.slot, assigned, before[device.id]) or _why_not_run(
            device, release
        )
        if reason is None:
            asked.append(device)
        else:
            passed_over[device.id] = reason
    return asked, passed_over


def _require_way_back(
    asked: Iterable[Device], release: Release, before: Mapping[str, Assigned | None]
) -> None:
    for device in asked:
        running = before[device.id]
        if running and running.digest not in release.rollback_to:
            raise RefusedError(
                f"device {device.id} is wanted to run {running.target}, which {release.target} "
                "does not list in rollback_to: it could not be taken back. Publish the release "
                "again, which lists what devices run now; or --one-way"
            )


def _unfit(device: Device, slot: str, assigned: Assigned, before: Assigned | None) -> str | None:
    if device.state is not DeviceState.ENROLLED:
        return f"it is {device.state}"
    if device.quarantined_why is not None:
        return f"it is quarantined: {device.quarantined_why}"[:500]
    if before is not None and before.digest == assigned.digest:
        return "it is wanted to run this release already"
    if device.inventory and device.inventory.slots and slot not in device.inventory.slots:
        return f"it has no slot {slot}"
    told = device.reported.slots.get(slot) if device.reported else None
    if told and assigned.digest in told.denied:
        return "it tried this release and went back"
    return None


def _why_not_run(device: Device, release: Release) -> str | None:
    """Return why no variant of a release runs on a device, as far as it has told what does."""
    hosted = device.inventory.runtimes if device.inventory else ()
    if not hosted:
        return None
    fitting = [v for v in release.variants if not v.hardware or device.hardware in v.hardware]
    if not fitting:
        return f"no variant is for hardware {device.hardware}"
    for variant in fitting:
        for runtime in hosted:
            able = not runtime.providers or not set(runtime.providers).isdisjoint(variant.providers)
            if runtime.name == variant.runtime and able:
                return None
    there = ", ".join(sorted({runtime.name for runtime in hosted}))
    wanted = ", ".join(sorted({f"{v.runtime} on {'/'.join(v.providers)}" for v in fitting}))
    return f"it runs {there}, and the release wants {wanted}"[:500]


def _waves(
    rollout: str, asked: Sequence[Device], canary: Size, later: Sequence[Size]
) -> tuple[tuple[str, ...], ...]:
    order = sorted(asked, key=lambda d: blake2b(f"{rollout}\0{d.id}".encode()).digest())
    online = [device.id for device in order if device.presence == "online"]
    first = online[: canary.of(len(order))]
    if not first:
        raise RefusedError(f"none of the {len(order)} selected devices is online; a canary must be")
    rest = [device.id for device in order if device.id not in set(first)]
    made = [tuple(first)]
    taken = len(first)
    for size in later:
        until = size.of(len(order))
        if until > taken:
            made.append(tuple(rest[taken - len(first) : until - len(first)]))
            taken = until
    if taken < len(order):
        made.append(tuple(rest[taken - len(first) :]))
    return tuple(made)
