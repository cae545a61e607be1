"""Transfers where links are the bound: what casts are for, measured on one machine.

Rule 1: every device, the one alone as well, is behind a link of its own of 100 Mbit/s
        (``transfer_links``); ``linked_fleet_ratio`` is all of them over the one.
Rule 2: then the manager's link gets the same rate. ``uplink_cast_rate`` is what each
        device gets of a cast, in MB/s, and ``uplink_unicast_rate`` what each gets of a
        smaller artifact when none of them listens to casts.
Rule 3: what the manager sends is counted on its link, with every header.
"""

import os
from pathlib import Path

from agent.contract.manifest import Artifact, describe_artifact
from scripts.bench.transfer_device import Task
from scripts.bench.transfer_links import HOST, Links
from scripts.bench.transfer_place import Place
from scripts.bench.transfer_runs import Device, together

MIB = 1024 * 1024
MEGABITS = 100
UNICAST_SHARE = 12
"""Sent to everybody alone, the artifact would take minutes; this part of it shows as much."""
ALONE = "d-link-alone"


def measure(folder: Path, megabytes: int, fleet_size: int) -> dict[str, float]:
    """Return the figures.

    Raises:
        NotPermittedError: Links cannot be made here.

    """
    names = [f"d-link-{number}" for number in range(fleet_size)]
    with (
        Links(fleet_size + 1, megabits=MEGABITS) as links,
        Place(folder, [ALONE, *names], host=HOST, manager=links.manager) as place,
    ):
        first, second = (_put(place, megabytes * MIB) for _ in range(2))
        small = _put(place, max(1, megabytes // UNICAST_SHARE) * MIB)
        tasks = (Task(artifact=first), Task(artifact=second), Task(artifact=small, listens=False))
        passwords = place.grant()
        alone = Device(place, ALONE, passwords[ALONE], tasks, *links.device(fleet_size))
        alone.child.ready()
        one, _ = together([alone])
        fleet = [
            Device(place, name, passwords[name], tasks, *links.device(number))
            for number, name in enumerate(names)
        ]
        for device in fleet:
            device.child.ready()
        fleet_seconds, fleet_egress, cpu = _cast(links, fleet, first)
        links.shape_manager(MEGABITS)
        cast, cast_egress, _ = _cast(links, fleet, second)
        unicast, _ = together(fleet)
    return {
        "linked_megabits": MEGABITS,
        "linked_one_seconds": round(one, 3),
        "linked_fleet_seconds": round(fleet_seconds, 3),
        "linked_fleet_cpu_seconds": round(cpu, 3),
        "linked_fleet_ratio": round(fleet_seconds / one, 2),
        "linked_egress_ratio": round(fleet_egress, 3),
        "uplink_cast_seconds": round(cast, 3),
        "uplink_egress_ratio": round(cast_egress, 3),
        "uplink_cast_rate": round(second.size / cast / 1e6, 3),
        "uplink_unicast_rate": round(small.size / unicast / 1e6, 3),
    }


def _cast(links: Links, fleet: list[Device], artifact: Artifact) -> tuple[float, float, float]:
    """Return the seconds of a cast, what the manager sent in artifacts, and processor seconds."""
    before = links.sent_by_manager()
    seconds, cpu = together(fleet)
    return seconds, (links.sent_by_manager() - before) / artifact.size, cpu


def _put(place: Place, size_bytes: int) -> Artifact:
    content = os.urandom(size_bytes)
    place.artifacts.put(content)
    return describe_artifact(content)
