"""Which devices get a candidate: those where it is better, in cohorts where it is not worse.

    each device     is it right on more of its own decide windows than what runs there?
    each cohort     do its devices lose by more than chance explains? Then none of it receives
        participants    who trained
        guard           who judges and did not train: it stands for all who were not asked
        group NAME      by the groups of the registry, where there is more than one

Rule 1: decides on decide figures alone; withheld figures are not even an argument.
Rule 2: a better mean hides neither a worse device nor a worse stranger: each device and
        each cohort is judged by itself, and each verdict has its sentence.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.contract.messages import Quality
from fleet.rounds.intervals import Change, Pair, change_of

PARTICIPANTS: Final = "participants"
GUARD: Final = "guard"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One device's verdict on the candidate.

    Attributes:
        held_back: The cohort that keeps it from a candidate that is better for it; "" is none.

    """

    device: str
    receives: bool
    why: str
    held_back: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Devices that are judged together; only those that gave figures, sorted."""

    name: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortVerdict:
    """What a cohort makes of the candidate; ``receives`` is false where it gets worse."""

    cohort: Cohort
    change: Change
    receives: bool
    why: str


def better(figures: Mapping[str, Pair], *, minimum_windows: int = 10) -> tuple[Judged, ...]:
    """Return a verdict for each device, sorted by device.

    Args:
        figures: For each device the quality of the running release and of the candidate
            on the device's own decide windows.
        minimum_windows: With fewer decide windows a device does not receive.

    """
    return tuple(
        _judge(device, running, candidate, minimum_windows)
        for device, (running, candidate) in sorted(figures.items())
    )


def cohorts_of(
    judged: Iterable[str], participants: Collection[str], groups: Mapping[str, str]
) -> tuple[Cohort, ...]:
    """Return the cohorts that devices with figures make up; one without any is left out.

    Args:
        judged: Devices that gave figures.
        participants: Devices that trained.
        groups: The registry's group of each device; one that is not named has none.

    """
    devices, trained = sorted(judged), frozenset(participants)
    parts = {
        PARTICIPANTS: tuple(d for d in devices if d in trained),
        GUARD: tuple(d for d in devices if d not in trained),
    }
    names = sorted({groups[d] for d in devices if d in groups})
    if len(names) > 1:
        for name in names:
            parts[f"group {name}"] = tuple(d for d in devices if groups.get(d) == name)
    return tuple(Cohort(name=name, devices=found) for name, found in parts.items() if found)


def judge_cohort(cohort: Cohort, figures: Mapping[str, Pair]) -> CohortVerdict:
    """Return whether a cohort gets worse by more than chance explains.

    Args:
        cohort: Who.
        figures: As for ``better``; of every device of the cohort.

    """
    change = change_of([figures[device] for device in cohort.devices])
    count = len(cohort.devices)
    who = "device changes" if count == 1 else f"{count} devices change"
    told = f"its {who} by {told_change(change)} on decide windows"
    if change.high < 0:
        why = f"{told}: worse by more than chance explains, so none of them receives"
        return CohortVerdict(cohort=cohort, change=change, receives=False, why=why)
    return CohortVerdict(cohort=cohort, change=change, receives=True, why=told)


def hold_back(judged: Sequence[Judged], verdicts: Sequence[CohortVerdict]) -> tuple[Judged, ...]:
    """Return the devices' verdicts after those of their cohorts."""
    worse: dict[str, str] = {}
    for verdict in verdicts:
        if not verdict.receives:
            for device in verdict.cohort.devices:
                worse.setdefault(device, verdict.cohort.name)
    return tuple(
        Judged(
            device=one.device,
            receives=False,
            why=f"{one.why}; but its cohort gets worse: {worse[one.device]}",
            held_back=worse[one.device],
        )
        if one.receives and one.device in worse
        else one
        for one in judged
    )


def told_change(change: Change) -> str:
    """Return a change with its interval, in words.

    >>> told_change(Change(mean=0.02, low=-0.01, high=0.05))
    '+0.020 (-0.010 to +0.050)'
    """
    return f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def _judge(device: str, running: Quality, candidate: Quality, minimum_windows: int) -> Judged:
    of = candidate.windows
    if running.windows != of:
        why = f"running and candidate were judged on {running.windows} and {of} windows"
        return Judged(device=device, receives=False, why=why)
    if max(running.right, candidate.right) > of:
        why = f"it says that {candidate.right} and {running.right} of {of} windows are right"
        return Judged(device=device, receives=False, why=why)
    if of < minimum_windows:
        why = f"it has {of} decide windows; at least {minimum_windows} are needed"
        return Judged(device=device, receives=False, why=why)
    told = f"{candidate.right} of {of} decide windows right, {running.right} with the running one"
    return Judged(device=device, receives=candidate.right > running.right, why=told)
