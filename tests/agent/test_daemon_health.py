import pytest

from agent.config_health import HealthConfig
from agent.contract.codec import decode, encode
from agent.contract.rounds import Task
from agent.contract.telemetry import Health
from agent.daemon.health import MachineHealth
from agent.learn.offer import Accept, Conditions, Defer, decide
from tests.machines import ANY_LINUX, JETSON_ORIN_NANO, RASPBERRY_PI_5, STRANGE, build


class Machine:
    """A machine whose files can be changed, and what its health led to."""

    def __init__(self, folder, tree, **config) -> None:
        self.root = build(folder, tree)
        self.duties = []
        self.alarms = []
        self.health = MachineHealth(
            HealthConfig(**config),
            state_dir=folder,
            work_less=self.duties.append,
            alarm=lambda code, why: self.alarms.append((code, why)),
            root=self.root,
        )

    def look(self, celsius=None, throttled=None):
        if celsius is not None:
            build(self.root, {"sys/class/thermal/thermal_zone0/temp": f"{celsius * 1000:.0f}\n"})
        if throttled is not None:
            build(
                self.root,
                {"sys/devices/platform/soc/soc:firmware/get_throttled": f"{throttled:x}\n"},
            )
        self.health.look()


def test_a_machine_that_gets_hot_works_less_and_says_so_once_for_each_step(tmp_path):
    machine = Machine(tmp_path, RASPBERRY_PI_5, hot_celsius=80, critical_celsius=90)
    for celsius in (60, 81, 78, 84, 92, 92, 74, 74, 74, 74):
        machine.look(celsius, throttled=0)
    assert machine.duties == [2, 4, 8, 4, 2, 1]
    assert [code for code, _ in machine.alarms] == ["duty"] * 6
    assert machine.alarms[0][1] == (
        "the device is hot: one in 2 windows is answered, cpu-thermal is at 81 °C"
    )
    assert machine.alarms[-1][1] == "the device is cool: every window is answered again"


def test_a_machine_that_is_throttled_for_heat_works_less_whatever_its_thermometer_says(tmp_path):
    machine = Machine(tmp_path, RASPBERRY_PI_5)
    machine.look(61, throttled=0x80008)
    assert machine.duties == [2]
    assert "soft-temperature-limit" in machine.alarms[0][1]
    assert machine.health.reading().duty == 2


def test_a_weak_supply_is_told_when_it_begins_and_ends_and_is_no_heat(tmp_path):
    machine = Machine(tmp_path, RASPBERRY_PI_5)
    for bits in (0x10001, 0x10003, 0x10000, 0x10000):
        machine.look(50, throttled=bits)
    assert machine.duties == []
    assert [code for code, _ in machine.alarms] == ["supply", "supply"]
    assert "too little voltage" in machine.alarms[0][1]
    assert "enough voltage again" in machine.alarms[1][1]


def test_a_reading_holds_what_the_machine_tells_and_is_small_on_the_wire(tmp_path):
    machine = Machine(tmp_path, JETSON_ORIN_NANO)
    build(
        tmp_path,
        {
            "proc/stat": "cpu  1600 0 500 8400 500 0 0 0 0 0\ncpu0 1\ncpu1 1\n",
            "proc/self/stat": "42 (x) S 1 42 42 0 -1 0 9 9 9 9 150 20 8 2 20 0 1 0\n",
        },
    )
    reading = machine.health.reading()
    assert (reading.cpu, reading.cpu_agent, reading.cpus) == (0.6, 0.16, 2)
    assert reading.celsius == {"cpu-thermal": 51.2, "gpu-thermal": 49.5}
    assert reading.was_throttled == ("over-current",)
    assert reading.disk_free_bytes
    assert decode(Health, encode(reading)) == reading
    assert len(encode(reading)) < 700


@pytest.mark.parametrize("tree", [STRANGE, {"proc/version": "Linux\n"}])
def test_a_machine_that_tells_nothing_is_cool_and_its_figures_are_absent(tmp_path, tree):
    machine = Machine(tmp_path, tree)
    machine.look()
    reading = machine.health.reading()
    assert (machine.duties, machine.alarms) == ([], [])
    told = set(encode(reading).decode().split('"')[1::2])
    assert told <= {"ts", "disk_free_bytes", "cpus"}


def test_processor_use_is_absent_until_there_are_two_readings(tmp_path):
    machine = Machine(tmp_path, {"proc/version": "Linux\n"})
    build(tmp_path, ANY_LINUX)
    assert machine.health.reading().cpu is None
    assert machine.health.reading().cpu is None


def task(kind="train"):
    return Task(
        device="d-me",
        run="run-1",
        task="run-1-1",
        kind=kind,
        backbone="a" * 64,
        digest="b" * 64,
        lasts_seconds=60,
    )


def test_a_hot_device_defers_tasks_until_it_is_cool(tmp_path):
    machine = Machine(tmp_path, RASPBERRY_PI_5)
    machine.look(90, throttled=0)
    device = {
        "device": "d-me",
        "trains": True,
        "evaluates": True,
        "train_windows": 100,
        "decide_windows": 100,
        "backbones": frozenset({"a" * 64}),
    }
    hot = Conditions(**device, hot=machine.health.why_busy)
    assert decide(task(), hot) == Defer("the device is hot: cpu-thermal is at 90 °C")
    assert decide(task("evaluate"), hot) == decide(task(), hot)
    machine.look(50)
    assert decide(task(), Conditions(**device, hot=machine.health.why_busy)) == Accept()
