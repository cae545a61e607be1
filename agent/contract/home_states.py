"""What a device is doing, as Home Assistant reads it: the messages behind its sensors.

Rule 1: a figure that is not known is null, which Home Assistant shows as unknown; a class that
        is not known is not said, because null is none of the options of its sensor.
Rule 2: one member that Home Assistant does not know, or one null, and it ignores the whole
        message of an *update*: what is not known is left out there.

Home Assistant, "MQTT Update": installed_version, latest_version, title, release_summary,
release_url, entity_picture, in_progress, update_percentage.
"""

from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Struct

from agent.contract.histogram import LogHistogram
from agent.contract.telemetry import Prediction, Window

MAX_SUMMARY: Final = 255
SHORTEST_SECONDS: Final = 1.0
NO_MODEL: Final = "no model"


class SlotState(Struct, frozen=True, kw_only=True):
    """The newest prediction of a slot, retained; there is none before the first prediction.

    Attributes:
        label: Its class.
        confidence_percent: The probability of that class, 0 to 100.
        id: Of the prediction.
        ts: When it was made, ms since 1970.

    """

    label: str
    confidence_percent: float
    id: str
    ts: int


class SlotHealth(Struct, frozen=True, kw_only=True):
    """What runs in a slot and how it does, retained.

    Attributes:
        version: The release that runs, or ``NO_MODEL``.
        latency_ms: The median of the newest window.
        drift: Prediction drift, see ``contract.drift``.
        problem: ``ON`` where something is wrong, else ``OFF``.
        why: What.
        ts: When this was written, ms since 1970.

    """

    version: str
    latency_ms: float | None
    drift: float | None
    problem: str
    why: str
    ts: int


class _UpdateState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    installed_version: str | None = None
    latest_version: str | None = None
    title: str | None = None
    release_summary: str | None = None
    in_progress: bool | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """The prediction that was told last of a slot, and when (monotonic seconds)."""

    label: str
    at: float


def wait_seconds(told: Told | None, label: str, now: float, every_seconds: float) -> float:
    """Return how long a prediction waits until it is told; 0 for now.

    Another class is told at once, but ``SHORTEST_SECONDS`` after the last one at the earliest.

    >>> wait_seconds(None, "walking", 100.0, 10.0)
    0.0
    >>> wait_seconds(Told("walking", 100.0), "walking", 104.0, 10.0)
    6.0
    >>> wait_seconds(Told("walking", 100.0), "still", 104.0, 10.0)
    0.0
    """
    if told is None:
        return 0.0
    pause = every_seconds if told.label == label else SHORTEST_SECONDS
    return max(0.0, told.at + pause - now)


def state_of(said: Prediction) -> SlotState:
    """Return a prediction as it is shown."""
    return SlotState(
        label=said.label,
        confidence_percent=round(100 * said.confidence, 1),
        id=said.id,
        ts=said.ts,
    )


def health_of(version: str | None, window: Window | None, why: str) -> SlotHealth:
    """Return how a slot does.

    Args:
        version: Of the release that runs; None where nothing does.
        window: Its newest, of this release.
        why: What is wrong; "" for nothing.

    Raises:
        MalformedError: The window's histogram is none.

    """
    latency = LogHistogram.read(window.latency_us).quantile(0.5) if window else None
    drift = window.drift if window else None
    return SlotHealth(
        version=NO_MODEL if version is None else version,
        latency_ms=None if latency is None else round(latency / 1000, 3),
        drift=None if drift is None else round(drift, 3),
        problem="ON" if why else "OFF",
        why=why,
        ts=window.closed_ms if window else 0,
    )


def trouble_of(window: Window | None) -> str:
    """Return what is wrong where a window has no answer but refusals; "" for nothing."""
    if window is None or window.inferences or not window.refused + window.failed:
        return ""
    return f"of the last windows {window.refused} were refused and {window.failed} failed"


def encode_state(state: SlotState | SlotHealth) -> bytes:
    """Return the message behind sensors of a slot."""
    return msgspec.json.encode(state)


def update_state(
    *,
    installed: str | None,
    latest: str | None,
    title: str,
    summary: str = "",
    in_progress: bool = False,
) -> bytes:
    """Return the message behind a slot's *update*; versions that are unknown are left out."""
    return msgspec.json.encode(
        _UpdateState(
            installed_version=installed,
            latest_version=latest or installed,
            title=title,
            release_summary=summary[:MAX_SUMMARY] or None,
            in_progress=in_progress,
        )
    )
