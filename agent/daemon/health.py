"""The health of the machine: read when it is due, told with telemetry, and heeded.

Rule 1: the temperature decides the duty of every stream, see ``observe.duty``; a change of it
        is an alarm, so that nobody wonders where windows went.
Rule 2: a supply too weak is told when it begins and when it ends; less work cannot cure it.
Rule 3: what only two readings can tell is told of the time between two reports.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent.config_health import HealthConfig
from agent.contract.telemetry import Health
from agent.daemon.host import event, log
from agent.observe import health
from agent.observe.duty import Duty, HeatLimits, step
from agent.observe.health import Throttling

DUTY: Final = "duty"
SUPPLY: Final = "supply"
"""Codes of the alarms."""
WEAK: Final = "under-voltage"


class MachineHealth:
    """The health of this machine.

    Args:
        config: When it is hot.
        state_dir: Whose file system is looked at.
        work_less: Takes the new duty, one in so many windows.
        alarm: Code and sentence.
        root: Where ``/proc`` and ``/sys`` are.

    """

    def __init__(
        self,
        config: HealthConfig,
        *,
        state_dir: Path,
        work_less: Callable[[int], None],
        alarm: Callable[[str, str], None],
        root: Path = Path("/"),
    ) -> None:
        self._limits = HeatLimits(
            hot_celsius=config.hot_celsius,
            critical_celsius=config.critical_celsius,
            cool_by=config.cool_by,
            slowest=config.slowest,
        )
        self._state_dir = state_dir
        self._work_less = work_less
        self._alarm = alarm
        self._root = root
        self._weak = False
        self._ticks = health.cpu_ticks(root)
        self.duty = Duty()

    def look(self) -> None:
        """Look at heat and supply, and change the duty where that is due."""
        zones = health.temperatures(self._root)
        throttling = health.throttling(self._root) or Throttling()
        hottest = max(zones.items(), key=lambda zone: zone[1], default=None)
        before, self.duty = self.duty, step(self.duty, self._limits, hottest, throttling.now)
        if self.duty.every != before.every:
            log.warning(event("duty", every=self.duty.every, why=self.duty.why or "cool"))
            self._work_less(self.duty.every)
            self._alarm(DUTY, _sentence(self.duty))
        weak = WEAK in throttling.now
        if weak != self._weak:
            self._weak = weak
            self._alarm(
                SUPPLY,
                "the supply gives too little voltage: use a stronger one, or a shorter cable"
                if weak
                else "the supply gives enough voltage again",
            )

    def reading(self) -> Health:
        """Return how the machine is; processor use is of the time since the last reading."""
        root = self._root
        before, self._ticks = self._ticks, health.cpu_ticks(root)
        cpus = health.processors(root)
        cpu, cpu_agent = health.cpu_use(before, self._ticks, cpus or 1)
        return read_health(
            root, self._state_dir, cpu=cpu, cpu_agent=cpu_agent, cpus=cpus, duty=self.duty.every
        )

    @property
    def why_busy(self) -> str:
        """Why nothing more should be begun now, as a sentence; "" on a cool device."""
        return f"the device is hot: {self.duty.why}" if self.duty.every > 1 else ""


def read_health(
    root: Path,
    state_dir: Path,
    *,
    cpu: float | None = None,
    cpu_agent: float | None = None,
    cpus: int | None = None,
    duty: int = 1,
) -> Health:
    """Return all that the machine tells now."""
    throttling = health.throttling(root) or Throttling()
    memory_bytes, swap_bytes = health.memory(root)
    on_battery, charge = health.battery(root)
    return Health(
        ts=round(time.time() * 1000),
        cpu=_rounded(cpu),
        cpu_agent=_rounded(cpu_agent),
        cpus=cpus,
        mhz=health.cpu_mhz(root),
        memory_bytes=memory_bytes,
        swap_bytes=swap_bytes,
        pressure=health.pressure(root),
        celsius={zone: round(celsius, 1) for zone, celsius in health.temperatures(root).items()},
        throttled=throttling.now,
        was_throttled=throttling.ever,
        power=health.power_rails(root),
        power_mode=health.power_mode(root),
        on_battery=on_battery,
        battery=charge,
        disk_free_bytes=health.disk_free_bytes(state_dir),
        disk_written_bytes=health.disk_written_bytes(root),
        wear=health.wear(root),
        duty=duty,
    )


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 3)


def _sentence(duty: Duty) -> str:
    if duty.every == 1:
        return "the device is cool: every window is answered again"
    return f"the device is hot: one in {duty.every} windows is answered, {duty.why}"
