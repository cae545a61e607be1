"""What a device is doing, as Home Assistant reads it: the messages behind its sensors.

Rule 1: a figure that is not known is null, which Home Assistant shows as unknown; a class that
        is not known is not said, because null is none of the options of its sensor.
Rule 2: one member that Home Assistant does not know, or one null, and it ignores the whole
        message of an *update*: what is not known is left out there.

Home Assistant, "MQTT Update": installed_version, latest_version, title, release_summary,
release_url, entity_picture, in_progress, update_percentage.
"""

from typing import Final

import msgspec
from msgspec import Struct

MAX_SUMMARY: Final = 255
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
