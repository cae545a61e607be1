"""How good heads are, for whom, and how sure that is.

Rule 1: accuracies are of *withheld* windows. Who receives is judged on *decide* windows, by
        the fleet's own rules.
Rule 2: an interval is that of a paired bootstrap over devices and, within each, over its
        recordings (one for each exercise): windows of a recording overlap and are alike. All
        seeds judge the same windows, so that a draw takes the same ones of each seed. It
        says how the figure would be with other recordings of such people; four people are
        few, and more than that it cannot say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learn.samples import LabelledWindows, Split
from agent.learn.trainer import LinearHead, count_right
from fleet.rounds.cohort import better, cohorts_of, hold_back, judge_cohort
from scripts.study_program.methods import Named, linear
from scripts.study_program.wrists import FLEET, KNOWN, Base, Wrists, person_of

DRAWS, WORSE = 4000, -0.05
HeadOf = Callable[[str, LabelledWindows], LinearHead]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Mean accuracy before and after, and the 95 % interval of the change."""

    before: float
    after: float
    change: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.after:.3f} ({self.change:+.3f}, {self.low:+.3f} to {self.high:+.3f})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Right answers by recording, (recordings,) each, before and after on one wrist."""

    windows: NDArray[np.int64]
    before: NDArray[np.int64]
    after: NDArray[np.int64]

    @property
    def change(self) -> float:
        """Of the accuracy."""
        return float((self.after.sum() - self.before.sum()) / self.windows.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method: those who took part, strangers, whom the base knows, and promotion."""

    key: str
    name: str
    in_fleet: bool
    participants: Change
    strangers: Change
    known: Change
    receivers: int
    receivers_change: tuple[float, ...]
    receivers_worse: int
    participants_worse: int


def outcome_of(base: Base, head: HeadOf, name: str) -> Outcome:
    """Return what running head and a method's say of a wrist's withheld windows."""
    windows = base.wrists[name]
    x, y = windows.of(Split.WITHHELD)
    flat, labels = x[:, :, 0], np.unique(y)
    right = [h.answers(flat) == y for h in (linear(base.head), head(name, windows))]
    return Outcome(
        windows=np.array([np.count_nonzero(y == label) for label in labels]),
        before=np.array([np.count_nonzero(right[0][y == label]) for label in labels]),
        after=np.array([np.count_nonzero(right[1][y == label]) for label in labels]),
    )


def receivers_of(base: Base, head: HeadOf, wrists: Wrists) -> list[str]:
    """Return who would receive, as the fleet judges: by decide windows alone."""
    pairs = {}
    for name, windows in wrists.items():
        x, y = windows.of(Split.DECIDE)
        flat = x[:, :, 0]
        pairs[name] = (
            count_right(linear(base.head), flat, y),
            count_right(head(name, windows), flat, y),
        )
    verdicts = [judge_cohort(c, pairs) for c in cohorts_of(pairs, tuple(pairs), {})]
    return [j.device for j in hold_back(better(pairs), verdicts) if j.receives]


def change_of(seeds: Sequence[Mapping[str, Outcome]]) -> Change:
    """Return the mean over devices and seeds, with its interval."""
    names = sorted(seeds[0])
    deltas = [np.mean([s[n].after - s[n].before for s in seeds], axis=0) for n in names]
    counts = [seeds[0][n].windows for n in names]
    chance = np.random.default_rng(0)
    drawn = np.empty((DRAWS, len(names)))
    for place, (delta, count) in enumerate(zip(deltas, counts, strict=True)):
        chosen = chance.integers(0, len(count), (DRAWS, len(count)))
        drawn[:, place] = delta[chosen].sum(axis=1) / count[chosen].sum(axis=1)
    devices = chance.integers(0, len(names), (DRAWS, len(names)))
    means = np.take_along_axis(drawn, devices, axis=1).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    before, after = (
        float(
            np.mean([getattr(s[n], when).sum() / s[n].windows.sum() for s in seeds for n in names])
        )
        for when in ("before", "after")
    )
    return Change(
        before=before, after=after, change=after - before, low=float(low), high=float(high)
    )


def row_of(named: Named, bases: Sequence[Base]) -> Row:
    """Return what a method gives on every base model."""
    taking, strangers, known, receiving = [], [], [], []
    guard = KNOWN[2:] if named.rehearsing else KNOWN
    for base in bases:
        fleet = base.of(FLEET)
        head = named.method(base, fleet)
        own = {name: outcome_of(base, head, name) for name in fleet}
        taking.append(own)
        known.append({name: outcome_of(base, head, name) for name in base.of(guard)})
        receiving.append([own[name].change for name in receivers_of(base, head, fleet)])
        left_out = {}
        for person in FLEET:
            others = named.method(base, base.of(set(FLEET) - {person}))
            left_out |= {n: outcome_of(base, others, n) for n in fleet if person_of(n) == person}
        strangers.append(left_out)
    received = [change for of_seed in receiving for change in of_seed]
    return Row(
        key=named.key,
        name=named.name,
        in_fleet=named.in_fleet,
        participants=change_of(taking),
        strangers=change_of(strangers),
        known=change_of(known),
        receivers=len(received),
        receivers_change=tuple(float(np.mean(c)) if c else 0.0 for c in receiving),
        receivers_worse=sum(change < WORSE for change in received),
        participants_worse=sum(o.change < WORSE for seed in taking for o in seed.values()),
    )


def as_json(row: Row) -> dict[str, object]:
    """Return a row with figures rounded to four places."""
    return {k: _rounded(v) for k, v in asdict(row).items()}


def _rounded(value: object) -> object:
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {k: _rounded(v) for k, v in value.items()}
        case tuple() | list():
            return [_rounded(v) for v in value]
    return value
