"""What the outcomes of a large rollout cost the manager: seconds, and bytes written.

Rule 1: rows is the manager's own way: every device of a rollout says how its update ended,
        in transactions of a hundred, as messages arrive; the registry lies on a disk.
Rule 2: one_row is what it replaced, built here from the same parts: for each outcome the
        whole state is read from one row of JSON, moved by the same ``step``, and written
        back. It is measured over a sample of outcomes spread over the rollout, and
        ``one_row_seconds`` and ``one_row_bytes`` are what all of them would take.
Rule 3: bytes are those that the process handed to the kernel (``wchar`` of proc(5)).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.contract.messages import Assigned, Event
from fleet.monitor.health import Standing
from fleet.registry.devices import DeviceState
from fleet.registry.sqlite import Registry, open_registry
from fleet.rollout import journal
from fleet.rollout.engine import State, step
from fleet.rollout.events import Completed, Phase
from fleet.rollout.gate import Gate
from fleet.rollout.plan import Plan
from fleet.rollout.roster import Member, Roster

NOW: Final = 1_700_000_000_000
AT_ONCE: Final = 100
SAMPLE: Final = 40
RELEASE: Final = Assigned(target="models/motion/02.json", digest="02" * 32, counter=2)


class OneRow(msgspec.Struct):
    """A state as it lay in one row."""

    phase: Phase
    wave: int
    members: dict[str, Member]


def begun(folder: Path, devices: int) -> tuple[Registry, Plan]:
    """Return a registry with a rollout in which every device was asked."""
    names = tuple(f"d-{number:016}" for number in range(devices))
    registry = open_registry(folder / "registry.db", create=True)
    gate = Gate(min_completed=devices, max_failed_percent=50)
    plan = Plan(
        id="rollout-1", slot="motion", release=RELEASE, selector="all", waves=(names,),
        gate=gate, created_ms=NOW,
    )  # fmt: skip
    with registry.transaction():
        for number, name in enumerate(names):
            key, state = f"{number:064x}", DeviceState.ENROLLED
            registry.devices.add(name, key=key, group="g", hardware="h", state=state, at_ms=NOW)
        journal.begin(registry, plan, at_ms=NOW)
    return registry, plan


def by_rows(registry: Registry, plan: Plan) -> None:
    """Let every device end its update, as the manager hears it."""
    for first in range(0, len(plan.devices), AT_ONCE):
        with registry.transaction():
            for number, device in enumerate(plan.devices[first : first + AT_ONCE], start=first):
                said = Event(
                    id=f"{number:032x}", type="update", ts=NOW, up=1, release=RELEASE.digest,
                    outcome="succeeded",
                )  # fmt: skip
                journal.hear_update(registry, device, said, at_ms=NOW + 1)


def as_one_row(registry: Registry, state: State) -> None:
    """Let a sample of devices end their update, with the whole state in one row."""
    database = registry._database  # noqa: SLF001 - the bench stands where the registry stood
    database.write("CREATE TABLE one_row (id TEXT PRIMARY KEY, plan BLOB, state BLOB)")
    plan = state.plan

    def pack(held: State) -> bytes:
        return msgspec.json.encode(
            OneRow(phase=held.phase, wave=held.wave, members=dict(held.members))
        )

    with registry.transaction():
        database.write(
            "INSERT INTO one_row VALUES (?, ?, ?)", plan.id, msgspec.json.encode(plan), pack(state)
        )
    step_by = max(1, len(plan.devices) // SAMPLE)
    with registry.transaction():
        for device in plan.devices[::step_by]:
            row = database.row("SELECT plan, state FROM one_row WHERE id = ?", plan.id)
            if row is None:
                raise SystemExit("rollout: the row is gone")
            kept = msgspec.json.decode(row["state"], type=OneRow)
            held = State(
                plan=msgspec.json.decode(row["plan"], type=Plan),
                phase=kept.phase,
                wave=kept.wave,
                members=Roster.of(kept.members.values()),
            )
            said = Completed(device=device, outcome=Standing.SUCCEEDED, why="", at_ms=NOW + 1)
            moved, _ = step(held, said)
            registry.events.record(
                "bench.step", plan.id, {"event": msgspec.to_builtins(said)}, at_ms=NOW
            )
            database.write("UPDATE one_row SET state = ? WHERE id = ?", pack(moved), plan.id)


def measured(act: Callable[[], None]) -> tuple[float, int]:
    """Return seconds and bytes written."""
    before, began = _written(), time.perf_counter()
    act()
    return time.perf_counter() - began, _written() - before


def _written() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def measure(devices: int) -> dict[str, float]:
    """Return the figures of both ways."""
    with tempfile.TemporaryDirectory() as folder:
        registry, plan = begun(Path(folder), devices)
        asked = journal.load(registry, plan.id)
        sampled = len(plan.devices[:: max(1, devices // SAMPLE)])
        old_seconds, old_bytes = measured(lambda: as_one_row(registry, asked))
        seconds, written = measured(lambda: by_rows(registry, plan))
        if journal.load(registry, plan.id).status != "done":
            raise SystemExit("rollout: it did not end")
        registry.close()
    share = devices / sampled
    return {
        "devices": devices,
        "rows_seconds": round(seconds, 3),
        "rows_bytes": written,
        "one_row_sampled": sampled,
        "one_row_seconds": round(old_seconds * share, 1),
        "one_row_bytes": round(old_bytes * share),
        "seconds_ratio": round(seconds / (old_seconds * share), 5),
        "bytes_ratio": round(written / (old_bytes * share), 6),
    }


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--devices", type=int, default=10_000)
    arguments = parser.parse_args()
    text = json.dumps(measure(max(arguments.devices, 1)), indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
