"""What devices and cohorts make of a candidate, as people see it.

Rule 1: as for ``views``: one type serves the API, ``-o json`` and the console.
"""

from msgspec import Struct

from agent.contract.messages import Count, Quality


class MeasuredView(Struct, frozen=True, kw_only=True):
    """The mean accuracy of devices with its 95 % interval; of one device, Wilson's."""

    windows: Count
    accuracy: float
    low: float
    high: float


class ChangeView(Struct, frozen=True, kw_only=True):
    """The mean change of a device with its 95 % interval."""

    mean: float
    low: float
    high: float


class FiguresView(Struct, frozen=True, kw_only=True):
    """The running release and the candidate on the same windows.

    Attributes:
        worst_decile: Mean change of the worst tenth of the devices, of one at least.

    """

    before: MeasuredView
    after: MeasuredView
    change: ChangeView
    worst_decile: float


class CohortView(Struct, frozen=True, kw_only=True):
    """Devices that are judged together: participants, guard, or a group of the registry.

    Attributes:
        devices: Those that gave figures.
        receives: Whether the candidate may go there; decided by ``decide`` alone.
        withheld: What reports quote; it decides nothing.

    """

    name: str
    devices: tuple[str, ...]
    receives: bool
    why: str
    decide: FiguresView | None
    withheld: FiguresView | None


class PromotionView(Struct, frozen=True, kw_only=True):
    """What came of a candidate that the manager promoted by itself; ``release`` is its name."""

    release: str | None
    why: str
    at_ms: int


class HeldOutView(Struct, frozen=True, kw_only=True):
    """Running release and candidate on labelled windows of the operator's own.

    Attributes:
        digest: SHA-256 of the file; None where it could not be read.
        why: Why there are no figures.

    """

    digest: str | None
    figures: FiguresView | None
    why: str
    at_ms: int


class JudgedView(Struct, frozen=True, kw_only=True):
    """One device's figures for the candidate, and whether it would receive it.

    Attributes:
        held_back: The cohort for whose sake it does not receive what is better for it.

    """

    device: str
    trained: bool
    receives: bool
    why: str
    decide_before: Quality | None = None
    decide_after: Quality | None = None
    withheld_before: Quality | None = None
    withheld_after: Quality | None = None
    held_back: str = ""
    decide: FiguresView | None = None
    withheld: FiguresView | None = None
