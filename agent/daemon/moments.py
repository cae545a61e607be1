"""The clocks of this machine, as messages and rooms want them."""

import time


def wall_ms() -> int:
    """Return the wall clock in ms since 1970; for people, never believed."""
    return int(time.time() * 1000)


def moment() -> tuple[int, int]:
    """Return wall clock and monotonic ms, as messages carry them."""
    return wall_ms(), int(time.monotonic() * 1000)


def awake_seconds() -> float:
    """Return monotonic seconds that also count while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
