"""How the behaviour of one device is shown; a part of ``views``, whose rules hold."""

from msgspec import Struct

from agent.contract.messages import Count
from agent.contract.telemetry import Swap


class SpreadView(Struct, frozen=True, kw_only=True):
    """Where the values of a channel or an output lay, from merged sketches.

    Attributes:
        low, middle, high: Of 5, 50 and 95 of a hundred values; None where none was seen.
        constant: Of the windows that were looked at, those in which it had one value only.
        outside: Values outside of the declared range.
        not_finite: Windows that were refused because it held a NaN or an infinity.

    """

    name: str
    low: float | None = None
    middle: float | None = None
    high: float | None = None
    constant: Count = 0
    outside: Count = 0
    not_finite: Count = 0


class BehaviourView(Struct, frozen=True, kw_only=True):
    """What one slot did lately, with the release that answered last.

    Attributes:
        since_ms, until_ms: Wall clock of the device.
        looked: Windows whose input was looked at.
        skipped: Windows that were left out to keep the device cool.
        middle_us, high_us: Latency of 50 and 95 of a hundred answers.
        drift: Prediction drift in the newest window, see ``agent.contract.drift``; None until
            enough was answered.
        swap: Memory of the agent around the change to this release, where one was told.

    """

    slot: str
    release: str
    since_ms: Count
    until_ms: Count
    inferences: Count = 0
    refused: Count = 0
    failed: Count = 0
    skipped: Count = 0
    gaps: Count = 0
    looked: Count = 0
    middle_us: float | None = None
    high_us: float | None = None
    drift: float | None = None
    swap: Swap | None = None
    inputs: tuple[SpreadView, ...] = ()
    outputs: tuple[SpreadView, ...] = ()
