"""What a simulation found out, as values that are printed, written as JSON and drawn.

Rule 1: promotion and every choice read *decide* figures; *withheld* ones are only shown.
Rule 2: attackers count nowhere: their windows are those of a device that lies.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Final, Literal

from msgspec import Struct

from agent.contract.messages import Quality
from fleet.rounds.intervals import Pair, change_of, worst_decile

Part = Literal["trained", "guard", "attacker"]


class RoundFigures(Struct, frozen=True, kw_only=True):
    """The global model after a round (0 is before the first) on those who train and are honest.

    Attributes:
        decide, withheld: Mean accuracy over devices.
        replies, refused: Of that round; a device that dropped out is in neither.

    """

    round: int
    decide: float
    withheld: float
    replies: int = 0
    refused: int = 0


class DeviceFigures(Struct, frozen=True, kw_only=True):
    """One device before and after; ``personal`` is the global head trained on by itself."""

    device: str
    part: Part
    train_windows: int
    decide_before: Quality
    decide_after: Quality
    withheld_before: Quality
    withheld_after: Quality
    withheld_personal: Quality | None = None
    receives: bool = False
    why: str = ""


class SimulatedRun(Struct, frozen=True, kw_only=True):
    """One run with one seed; ``why`` says why it ended early, and is empty where it did not."""

    seed: int
    rounds: tuple[RoundFigures, ...]
    devices: tuple[DeviceFigures, ...]
    refusals: tuple[str, ...] = ()
    why: str = ""


class Told(Struct, frozen=True, kw_only=True):
    """Mean accuracy of some devices on withheld windows, and how it changes; 95 % interval."""

    devices: int
    before: float
    after: float
    change: float
    low: float
    high: float
    worst_tenth: float


class Summary(Struct, frozen=True, kw_only=True):
    """All runs together.

    Attributes:
        trained: Those who trained; ``personal`` is their mean with personal heads.
        guard: Those who only judged.
        receivers_change: For each seed the mean change of who receives, None where nobody
            does.
        receivers: How many of all device-seeds receive.
        receivers_worse: How many of them lose more than 0.05.

    """

    trained: Told | None
    personal: Told | None
    guard: Told | None
    receivers: int
    receivers_change: tuple[float | None, ...]
    receivers_worse: int


WORSE: Final = -0.05


def summarise(runs: Sequence[SimulatedRun]) -> Summary:
    """Return what runs of different seeds say together.

    Args:
        runs: At least one.

    """
    changes = [[_change(d) for d in run.devices if d.receives] for run in runs]
    received = [change for of_seed in changes for change in of_seed]
    return Summary(
        trained=told([_pairs(run, "trained") for run in runs]),
        personal=told([_personal_pairs(run) for run in runs]),
        guard=told([_pairs(run, "guard") for run in runs]),
        receivers=len(received),
        receivers_change=tuple(fmean(c) if c else None for c in changes),
        receivers_worse=sum(change < WORSE for change in received),
    )


def told(seeds: Sequence[Sequence[Pair]]) -> Told | None:
    """Return what the devices of several seeds say; None where there are none.

    The interval is as wide as that of one seed on the average: seeds that judge the same
    windows say nothing more about other windows.

    Args:
        seeds: For each seed the figures before and after of its devices.

    """
    found = [pairs for pairs in seeds if pairs]
    if not found:
        return None
    changes = [change_of(pairs) for pairs in found]
    change = fmean(c.mean for c in changes)
    half = fmean((c.high - c.low) / 2 for c in changes)
    return Told(
        devices=max(map(len, found)),
        before=fmean(fmean(b.accuracy for b, _ in pairs) for pairs in found),
        after=fmean(fmean(a.accuracy for _, a in pairs) for pairs in found),
        change=change,
        low=max(-1.0, change - half),
        high=min(1.0, change + half),
        worst_tenth=fmean(map(worst_decile, found)),
    )


def _pairs(run: SimulatedRun, part: Part) -> list[Pair]:
    return [
        (d.withheld_before, d.withheld_after)
        for d in run.devices
        if d.part == part and d.withheld_before.windows
    ]


def _personal_pairs(run: SimulatedRun) -> list[Pair]:
    return [
        (d.withheld_before, d.withheld_personal)
        for d in run.devices
        if d.withheld_personal is not None and d.withheld_before.windows
    ]


def _change(device: DeviceFigures) -> float:
    return device.withheld_after.accuracy - device.withheld_before.accuracy
