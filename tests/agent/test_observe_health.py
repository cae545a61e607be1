from pathlib import Path

import pytest

from agent.contract.telemetry import Rail, Wear
from agent.observe import health
from agent.observe.health import Throttling, Ticks
from tests.machines import ANY_LINUX, JETSON_ORIN_NANO, LAPTOP, RASPBERRY_PI_5, STRANGE, build

NOWHERE = {"proc/version": "Linux\n"}

NOTHING = {
    "cpu_ticks": None,
    "cpu_mhz": None,
    "memory": (None, None),
    "pressure": {},
    "temperatures": {},
    "throttling": None,
    "power_rails": {},
    "power_mode": None,
    "battery": (None, None),
    "disk_written_bytes": None,
    "wear": {},
    "processors": None,
}
LINUX = NOTHING | {
    "cpu_ticks": Ticks(busy=1500, all=10_000, agent=100),
    "memory": (1_500_000 * 1024, 50_000 * 1024),
    "pressure": {"cpu": 0.125, "memory": 0.0025, "io": 0.0},
    "disk_written_bytes": 4096,
    "processors": 2,
}


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        pytest.param(NOWHERE, NOTHING, id="a machine that tells nothing"),
        pytest.param(STRANGE, NOTHING, id="a machine that tells nonsense"),
        pytest.param(ANY_LINUX, LINUX, id="any Linux"),
        pytest.param(
            RASPBERRY_PI_5,
            LINUX
            | {
                "cpu_mhz": 1950,
                "temperatures": {"cpu-thermal": 61.35},
                "throttling": Throttling(
                    now=("under-voltage", "throttled"), ever=("under-voltage", "throttled")
                ),
            },
            id="a Raspberry Pi 5 with a weak supply",
        ),
        pytest.param(
            JETSON_ORIN_NANO,
            LINUX
            | {
                "temperatures": {"cpu-thermal": 51.218, "gpu-thermal": 49.5},
                "throttling": Throttling(ever=("over-current",)),
                "power_rails": {
                    "VDD_IN": Rail(volts=5.0, watts=6.0),
                    "VDD_CPU_GPU_CV": Rail(volts=4.992, watts=1.238),
                },
                "power_mode": "0002",
                "wear": {"mmcblk0": Wear(used=0.3, reserve="warning")},
            },
            id="a Jetson Orin Nano",
        ),
        pytest.param(
            LAPTOP,
            LINUX | {"temperatures": {"acpitz": 41.0}, "battery": (True, 0.64)},
            id="a laptop on its battery",
        ),
    ],
)
def test_each_machine_tells_what_it_has_and_the_rest_is_absent(tmp_path, tree, told):
    root = build(tmp_path, tree)
    assert {name: getattr(health, name)(root) for name in NOTHING} == told


@pytest.mark.parametrize(
    ("word", "now", "ever"),
    [
        ("0", (), ()),
        ("0x0", (), ()),
        ("1", ("under-voltage",), ()),
        ("80008", ("soft-temperature-limit",), ("soft-temperature-limit",)),
        ("0x60000", (), ("frequency-capped", "throttled")),
        ("f000f", health._PI_BITS.values(), health._PI_BITS.values()),
    ],
)
def test_the_bits_of_a_raspberry_pi_mean_what_its_firmware_says(tmp_path, word, now, ever):
    root = build(tmp_path, {health.PI_THROTTLED: word})
    assert health.throttling(root) == Throttling(now=tuple(now), ever=tuple(ever))


def test_processor_use_is_told_between_two_readings():
    before = Ticks(busy=100, all=1000, agent=10)
    after = Ticks(busy=400, all=2000, agent=60)
    assert health.cpu_use(before, after, 4) == (0.3, 0.2)
    assert health.cpu_use(None, after, 4) == (None, None)
    assert health.cpu_use(after, after, 4) == (None, None)
    assert health.cpu_use(after, before, 4) == (None, None)
    assert health.cpu_use(before, Ticks(busy=400, all=2000, agent=None), 4) == (0.3, None)


def test_of_very_many_zones_only_some_are_told(tmp_path):
    tree = {}
    for number in range(100):
        tree[f"sys/class/thermal/thermal_zone{number}/type"] = f"zone {number}\n"
        tree[f"sys/class/thermal/thermal_zone{number}/temp"] = "40000\n"
    assert len(health.temperatures(build(tmp_path, tree))) == health.MAX_ZONES


def test_free_space_of_a_folder_that_is_not_there_is_absent(tmp_path):
    assert health.disk_free_bytes(tmp_path) > 0
    assert health.disk_free_bytes(tmp_path / "gone") is None


def test_this_machine_can_be_read():
    root = Path("/")
    for name in NOTHING:
        getattr(health, name)(root)
    assert health.cpu_ticks(root) is not None
    assert health.memory(root)[0] is not None
