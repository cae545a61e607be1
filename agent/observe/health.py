"""How the machine is: read from ``/proc`` and ``/sys`` below a root, and nowhere else.

Rule 1: a figure that is not there, or not a number, is absent; never 0, never an exception.
Rule 2: a reading has no state; what needs two of them is a function of both (``cpu_use``).
Rule 3: paths are those that the kernel, Raspberry Pi and NVIDIA document: pressure stall
        information (Documentation/accounting/psi.rst), thermal zones (sysfs-class-thermal),
        hwmon (Documentation/hwmon/ina3221.rst), eMMC attributes (sysfs-class-mmc of JEDEC
        JESD84-B51), power supplies (sysfs-class-power), Raspberry Pi's ``get_throttled``,
        and the over-current counters and power modes of the Jetson Linux developer guide.
"""

import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from agent.contract.telemetry import Rail, Wear

V = TypeVar("V")

PI_THROTTLED: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"
JETSON_MODE: Final = "var/lib/nvpmodel/status"
MAX_ZONES: Final = 16
"""Temperatures and rails that are told."""
MAX_DISKS: Final = 4

_PI_BITS: Final = {
    0: "under-voltage",
    1: "frequency-capped",
    2: "throttled",
    3: "soft-temperature-limit",
}
_SINCE_BOOT: Final = 16
_RESERVES: Final = {1: "normal", 2: "warning", 3: "urgent"}
_PRESSURE: Final = re.compile(r"^some .*\bavg60=(\d+(?:\.\d+)?)", re.MULTILINE)
_STAT: Final = re.compile(r"cpu((?: +\d+){4,8})")
"""user, nice, system, idle, iowait, irq, softirq, steal"""
_OWN_STAT: Final = re.compile(r"(?: \S+){11}((?: \d+){4})")
"""Behind state and ten more fields: utime, stime, cutime, cstime."""
_MODE: Final = re.compile(r"pmode:\s*(\w{1,16})")


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time so far, in clock ticks.

    Attributes:
        busy, all: Of the machine, over all processors.
        agent: Of a process and the children that it waited for.

    """

    busy: int
    all: int
    agent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttling:
    """What holds the processor back, now and since the machine started."""

    now: tuple[str, ...] = ()
    ever: tuple[str, ...] = ()


def cpu_ticks(root: Path) -> Ticks | None:
    """Return processor time so far (proc(5): stat; guest time is in user time already)."""
    whole = _STAT.match(_text(root / "proc/stat"))
    if whole is None:
        return None
    ticks = [int(word) for word in whole[1].split()]
    idle = sum(ticks[3:5])
    # the name of the process may hold spaces and brackets
    own = _OWN_STAT.match(_text(root / "proc/self/stat").rpartition(")")[2])
    agent = sum(map(int, own[1].split())) if own else None
    return Ticks(busy=sum(ticks) - idle, all=sum(ticks), agent=agent)


def cpu_use(
    before: Ticks | None, after: Ticks | None, cpus: int
) -> tuple[float | None, float | None]:
    """Return the share of the machine that was busy, and how many processors the agent took."""
    if before is None or after is None or after.all <= before.all:
        return None, None
    passed = after.all - before.all
    machine = min(max((after.busy - before.busy) / passed, 0.0), 1.0)
    if before.agent is None or after.agent is None:
        return machine, None
    return machine, max(after.agent - before.agent, 0) / passed * cpus


def cpu_mhz(root: Path) -> int | None:
    """Return the mean clock of the processors (cpufreq gives kHz)."""
    clocks = [
        clock
        for place in _listed(root / "sys/devices/system/cpu", "cpu[0-9]*")
        if (clock := _number(place / "cpufreq/scaling_cur_freq")) is not None and clock >= 0
    ]
    return round(sum(clocks) / len(clocks) / 1000) if clocks else None


def memory(root: Path) -> tuple[int | None, int | None]:
    """Return the available memory, and the swap in use, in bytes."""
    text = _text(root / "proc/meminfo")
    total, free = _kilobytes(text, "SwapTotal"), _kilobytes(text, "SwapFree")
    used = None if total is None or free is None else max(total - free, 0)
    return _kilobytes(text, "MemAvailable"), used


def pressure(root: Path) -> dict[str, float]:
    """Return for how much of the last minute some work stood still, as a share, by cause."""
    found = {
        cause: _PRESSURE.search(_text(root / "proc/pressure" / cause))
        for cause in ("cpu", "memory", "io")
    }
    return {cause: min(float(m[1]) / 100, 1.0) for cause, m in found.items() if m}


def temperatures(root: Path) -> dict[str, float]:
    """Return °C by the kernel's name of each thermal zone; of equal names the hottest."""
    zones: dict[str, float] = {}
    for zone in _listed(root / "sys/class/thermal", "thermal_zone*"):
        name, thousandths = _text(zone / "type").strip(), _number(zone / "temp")
        # a sensor that is switched off says 0 K, or what no silicon survives
        if thousandths is None or not -100_000 < thousandths < 250_000:  # noqa: PLR2004 - m°C
            continue
        name = name[:60] or zone.name
        zones[name] = max(zones.get(name, -273.0), thousandths / 1000)
    return _most(zones)


def throttling(root: Path) -> Throttling | None:
    """Return what holds a Raspberry Pi back, or the over-current events of a Jetson."""
    word = _text(root / PI_THROTTLED).strip()
    if word:
        with suppress(ValueError):
            bits = int(word, 16)
            return Throttling(
                now=tuple(name for bit, name in _PI_BITS.items() if bits >> bit & 1),
                ever=tuple(
                    name for bit, name in _PI_BITS.items() if bits >> (bit + _SINCE_BOOT) & 1
                ),
            )
    counters = [
        _number(counter)
        for monitor in _listed(root / "sys/class/hwmon", "hwmon*")
        for counter in _listed(monitor, "oc*_event_cnt")
    ]
    known = [events for events in counters if events is not None]
    if not known:
        return None
    return Throttling(ever=("over-current",) if any(events > 0 for events in known) else ())


def power_rails(root: Path) -> dict[str, Rail]:
    """Return the supplies that hwmon measures with a current: INA3221, INA219 and their like."""
    rails: dict[str, Rail] = {}
    for monitor in _listed(root / "sys/class/hwmon", "hwmon*"):
        name = _text(monitor / "name").strip() or monitor.name
        for current in _listed(monitor, "curr[0-9]*_input"):
            number = current.name.removeprefix("curr").removesuffix("_input")
            amperes, volts = _thousandths(current), _thousandths(monitor / f"in{number}_input")
            if amperes is None or volts is None:
                continue
            label = _text(monitor / f"in{number}_label").strip() or f"{name}-{number}"
            rails[label[:60]] = Rail(volts=volts, watts=round(amperes * volts, 3))
    return _most(rails)


def power_mode(root: Path) -> str | None:
    """Return the number of a Jetson's power mode, as ``nvpmodel`` noted it."""
    found = _MODE.search(_text(root / JETSON_MODE))
    return found[1] if found else None


def battery(root: Path) -> tuple[bool | None, float | None]:
    """Return whether the machine runs on its battery, and the charge of the emptiest."""
    charges, discharging = [], False
    for supply in _listed(root / "sys/class/power_supply", "*"):
        if _text(supply / "type").strip() != "Battery":
            continue
        if _text(supply / "scope").strip() == "Device":  # of a mouse, not of the machine
            continue
        percent = _number(supply / "capacity")
        if percent is not None and 0 <= percent <= 100:  # noqa: PLR2004 - per cent
            charges.append(percent / 100)
        discharging |= _text(supply / "status").strip() == "Discharging"
    return (discharging, min(charges)) if charges else (None, None)


def disk_written_bytes(root: Path) -> int | None:
    """Return what this process had written to a medium (proc(5): io)."""
    match = re.search(r"^write_bytes: (\d+)", _text(root / "proc/self/io"), re.MULTILINE)
    return int(match[1]) if match else None


def disk_free_bytes(place: Path) -> int | None:
    """Return the free space of the file system of a folder."""
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def wear(root: Path) -> dict[str, Wear]:
    """Return how worn the eMMCs say they are; SD cards say nothing."""
    found: dict[str, Wear] = {}
    for block in _listed(root / "sys/class/block", "mmcblk[0-9]*"):
        device = block / "device"
        lives = [_hexadecimal(word) for word in _text(device / "life_time").split()]
        used = [tenths for tenths in lives if tenths]  # 0 is "not defined"
        reserve = _RESERVES.get(_hexadecimal(_text(device / "pre_eol_info").strip()) or 0)
        if re.fullmatch(r"mmcblk\d+", block.name) and (used or reserve):
            share = min(max(used) / 10, 2.0) if used else None
            found[block.name] = Wear(used=share, reserve=reserve)
    return dict(list(found.items())[:MAX_DISKS])


def processors(root: Path) -> int | None:
    """Return how many processors are online."""
    return len(re.findall(r"^cpu\d+ ", _text(root / "proc/stat"), re.MULTILINE)) or None


def _most(found: dict[str, V]) -> dict[str, V]:
    return dict(list(found.items())[:MAX_ZONES])


def _kilobytes(text: str, field: str) -> int | None:
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _listed(folder: Path, pattern: str) -> Iterable[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return ()


def _text(place: Path) -> str:
    try:
        with place.open("rb") as file:
            return file.read(65_536).decode(errors="replace")
    except OSError:
        return ""


def _number(place: Path) -> int | None:
    word = _text(place).strip()
    return int(word) if re.fullmatch(r"-?\d{1,15}", word) else None


def _thousandths(place: Path) -> float | None:
    number = _number(place)
    return None if number is None else number / 1000


def _hexadecimal(word: str) -> int | None:
    return int(word, 16) if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", word) else None
