"""Whether the channels of a stream behave like sensors that work: a pure decision.

Rule 1: a trouble is told when it begins and when it ends, not while it lasts.
Rule 2: what cannot be judged, because nothing was looked at, stays as it was.
Rule 3: a sensor may stand still for a while, as one in an empty room does. One that stood
        still before and then moved is given three times as long.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from agent.contract.sketch import SignedSketch
from agent.contract.telemetry import Channel, Window
from agent.observe.inputs import Held

BEGUN: Final = "sensor"
ENDED: Final = "sensor-well"
"""Codes of the alarms."""

_FEW: Final = 3
"""Windows that must show a sensor standing still."""
_PATIENCE: Final = 3.0
_OUTSIDE: Final = 0.01
"""Share of a channel's values that may lie outside of its range."""
_SHORT_SECONDS: Final = 10.0
"""A rate is not measured in less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorLimits:
    """What is no trouble yet.

    Attributes:
        stuck_seconds: A channel may hold one value for so long; 0 for ever.
        rate_tolerance: By so much samples may come slower or faster, as a share; 0 any.

    """

    stuck_seconds: float = 60.0
    rate_tolerance: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """What is known of one slot's stream when a window of behaviour closes.

    Attributes:
        window: What closed.
        held: How long each channel has held one value.
        rate_hz: Samples a second that should come; None where they may come at any rate.
        seconds: How long the window was, by a clock that does not jump.

    """

    window: Window
    held: tuple[Held, ...] = ()
    rate_hz: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong with a channel, or with the whole stream.

    Attributes:
        what: The channel, or "" for the stream.
        kind: ``stuck``, ``outside``, ``not-finite`` or ``rate``.

    """

    what: str
    kind: str


class Sensors:
    """The troubles that were told, of one slot."""

    def __init__(self, slot: str, limits: SensorLimits) -> None:
        self._slot = slot
        self._limits = limits
        self._told: dict[Trouble, str] = {}
        self._flowed = False

    def look(self, felt: Felt) -> tuple[tuple[str, str], ...]:
        """Return the alarms, code and sentence, for what began or ended."""
        found = dict(self._troubles(felt))
        alarms: list[tuple[str, str]] = []
        for trouble, why in found.items():
            if why and trouble not in self._told:
                self._told[trouble] = why
                alarms.append((BEGUN, why))
            elif not why and trouble in self._told:
                alarms.append((ENDED, f"{self._name(trouble)} is well again: {_ends(trouble)}"))
                del self._told[trouble]
        self._flowed = felt.window.samples > 0
        return tuple(alarms)

    def _troubles(self, felt: Felt) -> Iterable[tuple[Trouble, str]]:
        """Return what can be judged, with a sentence where it is wrong."""
        window = felt.window
        if self._limits.stuck_seconds:
            for held in felt.held:
                trouble = Trouble(held.channel, "stuck")
                why = self._stuck(held, window.closed_ms)
                if why or (held.seen and not held.windows):
                    yield trouble, why
        for channel in window.inputs:
            bad = Trouble(channel.name, "not-finite")
            yield bad, self._not_finite(channel)
            if channel.values.counts:
                yield Trouble(channel.name, "outside"), self._outside(channel)
        if self._flowed and felt.rate_hz and felt.seconds >= _SHORT_SECONDS:
            yield Trouble("", "rate"), self._rate(window.samples / felt.seconds, felt.rate_hz)

    def _stuck(self, held: Held, now_ms: int) -> str:
        allowed = max(self._limits.stuck_seconds, _PATIENCE * held.longest)
        if held.windows < _FEW or held.seconds < allowed:
            return ""
        since = datetime.fromtimestamp(now_ms / 1000 - held.seconds, UTC)
        name = self._name(Trouble(held.channel, "stuck"))
        return f"{name} is stuck at {held.value:g} since {since:%Y-%m-%d %H:%M:%S} UTC"

    def _not_finite(self, channel: Channel) -> str:
        if not channel.not_finite:
            return ""
        name = self._name(Trouble(channel.name, "not-finite"))
        return f"{name} holds NaN or infinity: {channel.not_finite} windows were refused for it"

    def _outside(self, channel: Channel) -> str:
        seen = SignedSketch.read(channel.values).total
        if channel.outside <= _OUTSIDE * seen:
            return ""
        name = self._name(Trouble(channel.name, "outside"))
        return f"{name} is outside of its declared range in {channel.outside / seen:.0%} of values"

    def _rate(self, rate: float, wanted: float) -> str:
        allowed = self._limits.rate_tolerance
        if not allowed or abs(rate - wanted) <= allowed * wanted:
            return ""
        return f"{self._slot} gets {rate:.3g} samples a second; its model wants {wanted:g}"

    def _name(self, trouble: Trouble) -> str:
        return f"channel {trouble.what} of {self._slot}" if trouble.what else self._slot


_ENDS: Final[Mapping[str, str]] = {
    "stuck": "it moves",
    "outside": "it is within its range",
    "not-finite": "it holds numbers",
    "rate": "its samples come as fast as they should",
}


def _ends(trouble: Trouble) -> str:
    return _ENDS[trouble.kind]
