"""How machines are and what their slots did: kept, merged and told by the manager."""

from pathlib import Path

import numpy as np
import pytest

from agent.contract.envelope import Boot
from agent.contract.histogram import LogHistogram
from agent.contract.sketch import SignedSketch
from agent.contract.telemetry import (
    Channel,
    Feature,
    Health,
    Histogram,
    Rail,
    Sketch,
    Swap,
    Telemetry,
    Wear,
)
from agent.contract.topics import TELEMETRY
from fleet.cli.machine_lines import behaviour_lines, machine_lines
from fleet.service import membership
from fleet.service.behaviour import merge
from fleet.service.desk import Desk
from tests.manager_home import join, make_desk
from tests.small_fleet import BOOT, LATER, NOW, a_window, device_id, new_registry

D = device_id(0)


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def sketch(*values: float) -> Sketch:
    return SignedSketch.of(values).written()


def watched(number: int, **changes: object):
    rng = np.random.default_rng(number)
    known: dict[str, object] = {
        "looked": 4,
        "skipped": 2,
        "latency_us": LogHistogram.of([100.0, 200.0]).written(),
        "inputs": (
            Channel(name="acc", values=sketch(*rng.normal(9.81, 0.01, 50))),
            Channel(name="gyro", values=sketch(0.0), constant=4, outside=1, not_finite=2),
        ),
        "outputs": (Feature(name="walk", values=sketch(0.25, 0.75)),),
    }
    return a_window(number, **(known | changes))


def test_the_newest_reading_of_a_machine_counts_whatever_arrives_late(tmp_path):
    machines = new_registry(tmp_path, 2).machines
    assert machines.of_device(D) is None
    for boot, ts, cpu in ((BOOT, 5, 0.5), (BOOT, 4, 0.4), (LATER, 1, 0.1), (BOOT, 9, 0.9)):
        machines.note(D, boot, Health(ts=ts, cpu=cpu), at_ms=NOW)
    machines.note(D, LATER, None, at_ms=NOW)
    assert machines.of_device(D) == Health(ts=1, cpu=0.1)
    assert machines.of_device(device_id(1)) is None


def test_what_a_device_tells_of_itself_is_shown_with_it(desk: Desk):
    device = join(desk)
    health = Health(ts=NOW, cpu=0.25, celsius={"cpu-thermal": 61.4})
    said = Telemetry(ts=1, up=1, windows=(watched(1), watched(2)), health=health)
    device.says(desk, TELEMETRY.at(device.id, "windows"), said)
    device.says(desk, TELEMETRY.at(device.id, "windows"), Telemetry(ts=1, up=2, windows=()))
    view = membership.device(desk, device.id)
    assert view.health == health
    (slot,) = view.behaviour
    assert (slot.slot, slot.inferences, slot.skipped, slot.looked) == ("motion", 20, 4, 8)
    assert membership.devices(desk)[0].health is None


def test_the_windows_of_a_slot_are_added_up_sketch_by_sketch():
    view = merge([watched(n, closed_ms=NOW + n * 60_000) for n in range(1, 4)], "motion v1")
    assert (view.inferences, view.looked, view.skipped) == (30, 12, 6)
    assert view.until_ms - view.since_ms == 121_000
    assert view.middle_us == pytest.approx(100, rel=0.03)
    acc, gyro = view.inputs
    assert (acc.low, acc.middle, acc.high) == (pytest.approx(9.81, rel=0.06),) * 3
    assert (gyro.middle, gyro.constant, gyro.outside, gyro.not_finite) == (0.0, 12, 3, 6)
    assert view.outputs[0].high == pytest.approx(0.75, rel=0.06)


def test_only_the_release_that_answers_last_is_told(desk: Desk):
    device = join(desk)
    old, new = watched(1, release="cd" * 32), watched(2, closed_ms=NOW + 1)
    said = Telemetry(ts=1, up=1, windows=(old, new))
    device.says(desk, TELEMETRY.at(device.id, "windows"), said)
    (slot,) = membership.device(desk, device.id).behaviour
    assert slot.inferences == 10


def test_a_sketch_that_cannot_be_is_left_out_and_the_others_are_seen(desk: Desk):
    device = join(desk)
    bad = Channel(name="acc", values=Sketch(level=60, buckets=(3, 2), counts=(1,)))
    broken = watched(1, inputs=(bad,), latency_us=Histogram(buckets=(10**9,), counts=(1,)))
    said = Telemetry(ts=1, up=1, windows=(broken, watched(2)))
    device.says(desk, TELEMETRY.at(device.id, "windows"), said)
    (slot,) = membership.device(desk, device.id).behaviour
    assert slot.inputs[0].middle == pytest.approx(9.81, rel=0.06)
    assert slot.high_us is not None


def test_a_machine_is_told_in_lines_and_what_it_does_not_tell_has_none():
    full = Health(
        ts=NOW,
        cpu=0.41,
        cpu_agent=0.2,
        cpus=4,
        mhz=1500,
        memory_bytes=3 * 1024**3,
        swap_bytes=5 * 1024**2,
        pressure={"cpu": 0.125, "io": 0.0},
        celsius={"cpu-thermal": 81.4},
        throttled=("under-voltage",),
        was_throttled=("under-voltage", "throttled"),
        power={"VDD_IN": Rail(volts=5, watts=6.04)},
        power_mode="0002",
        on_battery=True,
        battery=0.64,
        disk_free_bytes=7 * 1024**3,
        disk_written_bytes=2 * 1024**2,
        wear={"mmcblk0": Wear(used=0.3, reserve="warning")},
        duty=2,
    )
    lines = dict(machine_lines(full))
    assert lines["machine"].endswith("hot: one in 2 windows is answered")
    assert lines["processors"] == "41% of 4 busy at 1500 MHz, 0.20 of them the agent"
    assert lines["memory"] == "3072 MiB available, 5 MiB swapped"
    assert lines["pressure"] == "work stood still in the last minute: cpu 12.5%"
    assert lines["heat"] == "cpu-thermal 81 °C"
    assert (lines["THROTTLED"], lines["throttled"]) == (
        "under-voltage",
        "since it started: throttled",
    )
    assert lines["power"] == "VDD_IN 6.0 W, mode 0002, battery 64%, in use"
    assert lines["disk"] == (
        "7.0 GiB free, 2.0 MiB written by the agent, mmcblk0 30% worn (reserve warning)"
    )
    assert [heading for heading, _ in machine_lines(Health(ts=NOW))] == ["machine"]


def test_a_slot_is_told_in_lines_with_what_is_wrong_in_it():
    lines = list(behaviour_lines(merge([watched(1)], "motion v1")))
    assert lines[0] == ("lately motion", "motion v1: 10 answers, 2 left out, 102 µs (95 %: 102 µs)")
    assert lines[1][1].startswith("input acc: 9.")
    assert lines[2][1] == (
        "input gyro: 0 … 0 … 0, stood still in 4 of 4 windows, 1 values outside of its range, "
        "NaN or infinity in 2 windows"
    )
    silent = merge([a_window(1, inferences=0, inputs=(Channel(name="acc"),))], "motion v1")
    assert [text for _, text in behaviour_lines(silent)] == [
        "motion v1: 0 answers",
        "input acc: nothing seen",
    ]


def test_the_memory_around_the_last_change_of_models_is_told():
    changed = watched(1, swap=Swap(before_bytes=80 * 2**20, after_bytes=81 * 2**20))
    texts = [text for _, text in behaviour_lines(merge([changed, watched(2)], "motion v1"))]
    assert "memory 80.0 MiB before the change to this release, 81.0 after" in texts
    assert not any("memory" in t for _, t in behaviour_lines(merge([watched(1)], "motion v1")))


def test_boots_are_compared_by_their_counter(tmp_path):
    machines = new_registry(tmp_path, 1).machines
    machines.note(D, Boot(10, "0" * 16), Health(ts=1), at_ms=NOW)
    machines.note(D, Boot(9, "f" * 16), Health(ts=2), at_ms=NOW)
    assert machines.of_device(D) == Health(ts=1)
