"""A registry with some devices and releases, for tests of the fleet's memory and rollouts."""

from pathlib import Path

import msgspec

from agent.contract.envelope import Boot
from agent.contract.manifest import Lineage, Release, encode_release
from agent.contract.messages import Assigned, Event, Inventory, Reported
from agent.contract.telemetry import Window
from fleet.registry.devices import Device, DeviceState
from fleet.registry.sqlite import Registry, open_registry
from tests.releases import Published

NOW = 1_700_000_000_000
BOOT = Boot(1, "00ff00ff00ff00ff")
LATER = Boot(2, "11ff11ff11ff11ff")


def device_id(number: int) -> str:
    return f"d-{number:04}"


def new_registry(tmp_path: Path, devices: int = 0) -> Registry:
    registry = open_registry(tmp_path / "registry.db", create=True)
    for number in range(devices):
        add_device(registry, number)
    return registry


def add_device(registry: Registry, number: int, *, online: bool = True) -> str:
    device = device_id(number)
    registry.devices.add(
        device,
        key=f"{number:064x}",
        group="demo",
        hardware="generic-linux",
        state=DeviceState.ENROLLED,
        at_ms=NOW + number,
    )
    if online:
        registry.devices.presence(device, BOOT, 1, "online", at_ms=NOW)
    return device


def a_device(number: int, **changes: object) -> Device:
    known: dict[str, object] = {
        "id": device_id(number),
        "key": f"{number:064x}",
        "state": DeviceState.ENROLLED,
        "group": "demo",
        "hardware": "generic-linux",
        "created_ms": NOW,
        "presence": "online",
    }
    return Device(**(known | changes))


def an_inventory(rev: int = 1, **changes: object) -> Inventory:
    known: dict[str, object] = {
        "rev": rev,
        "ts": NOW,
        "hardware": "generic-linux",
        "arch": "x86_64",
        "system": "Linux 6.1",
        "python": "3.11.2",
        "agent": "0.1.0",
        "memory_bytes": 4 * 10**9,
        "slots": ("motion",),
        "trains": True,
    }
    return Inventory(**(known | changes))


def a_reported(rev: int = 1, **slots: object) -> Reported:
    return Reported(rev=rev, ts=NOW, slots=slots)


def a_release(number: int, *, back_to: tuple[str, ...] = (), parents: tuple[str, ...] = ()):
    """Return (manifest, release, digest) of version ``number`` of slot motion."""
    release: Release = msgspec.structs.replace(
        Published(number).release, rollback_to=back_to, lineage=Lineage(parents=parents)
    )
    manifest, digest = encode_release(release)
    return manifest, release, digest


def assigned(release: Release, digest: str) -> Assigned:
    return Assigned(target=release.target, digest=digest, counter=release.counter)


def an_event(number: int, kind: str = "update", **changes: object) -> Event:
    known: dict[str, object] = {"id": f"{number:032x}", "type": kind, "ts": NOW, "up": 5}
    return Event(**(known | changes))


def a_window(number: int, closed_ms: int = NOW, slot: str = "motion", **changes: object) -> Window:
    known: dict[str, object] = {
        "slot": slot,
        "release": "ab" * 32,
        "number": number,
        "opened_ms": closed_ms - 1000,
        "closed_ms": closed_ms,
        "inferences": 10,
        "classes": (4, 6),
    }
    return Window(**(known | changes))
