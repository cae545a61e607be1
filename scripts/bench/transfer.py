"""Artifacts through a real broker: one device beside a raw copy, a resumed one, and a fleet.

Rule 1: the manager, the broker and every device are processes of their own; the device
        is the agent's own link and fetch (``transfer_device``).
Rule 2: one device and the raw copy (``transfer_raw``: same bytes, same broker, the
        receiver writes and fsyncs) take turns; the ratio is that of their medians.
        ``mqtt_ratio`` is raw seconds over ours: 1.0 would be as fast as the raw copy.
Rule 3: a resumed transfer is one whose process killed itself half-way. What it cost is
        the chunks that both lives asked for, or got unasked, beyond the artifact, in
        windows of 32.
Rule 4: the fleet is devices (20) that begin together. ``egress_ratio`` is what the broker
        was handed meanwhile, over the artifact; ``fleet_ratio`` is until the last of them
        is done, over one device alone.
Rule 5: a fleet on one machine shares its processor, which bounds that ratio from below,
        whatever the program. So as many raw receivers of one publisher are measured
        beside it (``raw_fleet_seconds``), and devices behind links of their own, where
        the processor is not the bound (``transfer_linked``).
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from agent.contract.limits import MAX_CHUNKS_PER_REQUEST
from scripts.bench import delta, transfer_linked
from scripts.bench.transfer_links import NotPermittedError
from scripts.bench.transfer_place import Egress, Place
from scripts.bench.transfer_runs import Bench, together

MIB = 1024 * 1024
ROUNDS = 3
RESUMED = "d-resume"


def measure(folder: Path, megabytes: int, fleet_size: int) -> dict[str, float]:
    """Return the figures of all ways that need no links."""
    ones = [f"d-one-{number}" for number in range(ROUNDS)]
    many = [f"d-many-{number}" for number in range(fleet_size)]
    with Place(folder, [*ones, RESUMED, *many]) as place:
        bench = Bench(place, os.urandom(megabytes * MIB), fleet_size)
        raws, ours = [], []
        for device in ones:
            raws.append(bench.raw(1)[0])
            ours.append(bench.one(device))
        raw = statistics.median(raws)
        one = statistics.median(f.ended - f.began for f in ours)
        resumed = _resumed_windows(bench)
        raw_fleet, raw_fleet_cpu = bench.raw(fleet_size)
        fleet, fleet_cpu, egress = _fleet(bench, many)
        return {
            "megabytes": megabytes,
            "raw_seconds": round(raw, 3),
            "mqtt_seconds": round(one, 3),
            "mqtt_ratio": round(raw / one, 3),
            "device_cpu_seconds": round(statistics.median(f.cpu_seconds for f in ours), 3),
            "resume_windows": round(resumed, 2),
            "fleet_devices": fleet_size,
            "fleet_seconds": round(fleet, 3),
            "fleet_cpu_seconds": round(fleet_cpu, 3),
            "fleet_ratio": round(fleet / one, 2),
            "egress_ratio": round(egress, 3),
            "raw_fleet_seconds": round(raw_fleet, 3),
            "raw_fleet_cpu_seconds": round(raw_fleet_cpu, 3),
            "raw_fleet_ratio": round(raw_fleet / raw, 2),
            "fleet_over_raw_fleet": round(fleet / raw_fleet, 2),
        }


def _resumed_windows(bench: Bench) -> float:
    """Kill a device half-way, let it go on, and return the windows that came twice."""
    first = bench.one(RESUMED, kill_after=bench.artifact.count // 2)
    second = bench.one(RESUMED)
    return (first.chunks + second.chunks - bench.artifact.count) / MAX_CHUNKS_PER_REQUEST


def _fleet(bench: Bench, names: list[str]) -> tuple[float, float, float]:
    """Return wall and processor seconds of devices that begin together, and the egress."""
    egress = Egress(bench.place)
    devices = [bench.device(name) for name in names]
    for device in devices:
        device.child.ready()
    before = egress.settled()
    seconds, cpu = together(devices)
    sent = egress.settled() - before
    egress.close()
    for device in devices:
        device.child.end()
    return seconds, cpu, sent / bench.artifact.size


def _linked(folder: Path, megabytes: int, fleet_size: int) -> dict[str, float | str]:
    try:
        return {**transfer_linked.measure(folder, megabytes, fleet_size)}
    except NotPermittedError as why:
        return {"linked_skipped": str(why)}


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--megabytes", type=int, default=50, help="size of the artifact")
    parser.add_argument("--devices", type=int, default=20, help="size of the fleet")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("transfer: asked to end"))
    size = arguments.megabytes, arguments.devices
    figures: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
        figures |= measure(Path(folder), *size)
    with tempfile.TemporaryDirectory(prefix="transfer-") as folder:
        figures |= _linked(Path(folder), *size)
    figures |= delta.measure()
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
