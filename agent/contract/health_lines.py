"""How a machine's health is said, by the agent and by the manager alike.

Rule 1: a figure that the machine does not tell has no words.
"""

from collections.abc import Iterator

from agent.contract.telemetry import Health

_GIB, _MIB = 1024**3, 1024**2


def health_lines(health: Health) -> Iterator[tuple[str, str]]:
    """Return heading and text of each line about a machine."""
    if health.cpu is not None:
        own = f", {health.cpu_agent:.2f} of them the agent" if health.cpu_agent is not None else ""
        clock = f" at {health.mhz} MHz" if health.mhz is not None else ""
        yield "processors", f"{health.cpu:.0%} of {health.cpus or 1} busy{clock}{own}"
    if health.memory_bytes is not None:
        swap = f", {health.swap_bytes // _MIB} MiB swapped" if health.swap_bytes else ""
        yield "memory", f"{health.memory_bytes // _MIB} MiB available{swap}"
    short = [f"{cause} {share:.1%}" for cause, share in health.pressure.items() if share]
    if short:
        yield "pressure", f"work stood still in the last minute: {', '.join(short)}"
    if health.celsius:
        yield "heat", ", ".join(f"{zone} {at:.0f} °C" for zone, at in health.celsius.items())
    if health.throttled:
        yield "THROTTLED", ", ".join(health.throttled)
    if before := [word for word in health.was_throttled if word not in health.throttled]:
        yield "throttled", f"since it started: {', '.join(before)}"
    yield from _power_lines(health)
    yield from _disk_lines(health)
    if health.served is not None:
        refused = [f"{count} {why}" for why, count in sorted(health.served.refused.items())]
        more = f"; refused: {', '.join(refused)}" if refused else ""
        yield "over HTTP", f"{health.served.answered} requests answered{more}"


def _power_lines(health: Health) -> Iterator[tuple[str, str]]:
    rails = [f"{label} {rail.watts:.1f} W" for label, rail in health.power.items() if rail.watts]
    if health.power_mode is not None:
        rails.append(f"mode {health.power_mode}")
    if health.battery is not None:
        use = "in use" if health.on_battery else "not in use"
        rails.append(f"battery {health.battery:.0%}, {use}")
    if rails:
        yield "power", ", ".join(rails)


def _disk_lines(health: Health) -> Iterator[tuple[str, str]]:
    parts = []
    if health.disk_free_bytes is not None:
        parts.append(f"{health.disk_free_bytes / _GIB:.1f} GiB free")
    if health.disk_written_bytes is not None:
        parts.append(f"{health.disk_written_bytes / _MIB:.1f} MiB written by the agent")
    for disk, wear in health.wear.items():
        used = f"{wear.used:.0%} worn" if wear.used is not None else "worn"
        parts.append(f"{disk} {used}" + (f" (reserve {wear.reserve})" if wear.reserve else ""))
    if parts:
        yield "disk", ", ".join(parts)
