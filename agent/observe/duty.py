"""How much of a stream a hot device answers: a pure decision, taken at every look.

    cool ──hot──▶ every 2nd window ──still hot──▶ every 4th ──▶ … ──▶ slowest
      ◀──cool──                    ◀──cool──                          ▲
      └───────────────────────────critical────────────────────────────┘

Rule 1: hot is a temperature at or above ``hot_celsius``, or a machine that says itself that
        its heat or its supply holds it back. Nobody knows better than the machine.
Rule 2: between hot and ``cool_by`` below it nothing changes, so that the duty does not flap.
Rule 3: a machine that tells no temperature and no throttling is cool.
"""

from dataclasses import dataclass
from typing import Final

HOLDS_BACK: Final = ("throttled", "soft-temperature-limit")
"""Of ``Health.throttled``, what less work can cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatLimits:
    """When to work less.

    Attributes:
        hot_celsius, critical_celsius: From here on half as much at each look; at once little.
        cool_by: So much below ``hot_celsius`` is cool again.
        slowest: At least one in so many windows is answered, a power of two; 1 never less.

    """

    hot_celsius: float = 85.0
    critical_celsius: float = 95.0
    cool_by: float = 5.0
    slowest: int = 8


@dataclass(frozen=True, slots=True)
class Duty:
    """One in ``every`` windows is answered; ``why`` is the sentence for people."""

    every: int = 1
    why: str = ""


def step(
    duty: Duty,
    limits: HeatLimits,
    hottest: tuple[str, float] | None,
    throttled: tuple[str, ...],
) -> Duty:
    """Return the duty after one look.

    Args:
        duty: The one before.
        limits: As the operator set them.
        hottest: Zone and temperature in °C of the hottest place, where one is told.
        throttled: What holds the machine back now.

    """
    zone, celsius = hottest or ("", -273.0)
    held = [word for word in throttled if word in HOLDS_BACK]
    if celsius >= limits.critical_celsius:
        return Duty(limits.slowest, f"{zone} is at {celsius:.0f} °C, which is critical")
    if celsius >= limits.hot_celsius:
        return Duty(_less(duty, limits), f"{zone} is at {celsius:.0f} °C")
    if held:
        return Duty(_less(duty, limits), f"the machine says {', '.join(held)}")
    if celsius > limits.hot_celsius - limits.cool_by:
        return duty
    every = max(duty.every // 2, 1)
    return Duty(every, "it cools down" if every > 1 else "")


def _less(duty: Duty, limits: HeatLimits) -> int:
    return min(duty.every * 2, limits.slowest)
