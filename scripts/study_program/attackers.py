"""What a fifth of lying devices does to each strategy, on the motion data.

Fifteen devices are the wrists of all eight people but one wrist, so that a fifth are three;
these, drawn by the seed, send ten times the opposite of what they learned. Accuracy is that
of the final head on the withheld windows of the twelve honest devices; *clean* is the plain
mean of the same run in which nobody lies.

Rule 1: no bound on the length of a step, so that each rule stands for itself; the last row
        is the plain mean with a bound beside it.
Rule 2: rules that need to know how many lie are told so; one row was told of one too few.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.learn.samples import LabelledWindows, Split
from agent.learn.trainer import LinearHead
from fleet.rounds.heads import HeadArrays
from fleet.rounds.strategies import Strategy
from fleet.simulation.rounds import Settings, train
from scripts.study_program.wrists import Base, read_base

SEEDS = 5
LEFT_OUT = "1-left"
SHARE = 0.2
LIARS = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table."""

    name: str
    strategy: Strategy
    max_norm: float | None = None


RULES = (
    Rule("median", Strategy(name="median")),
    Rule("trimmed-mean", Strategy(name="trimmed-mean", trim=0.2)),
    Rule("multi-krum", Strategy(name="multi-krum", byzantine=LIARS)),
    Rule("multi-krum, --byzantine 2", Strategy(name="multi-krum", byzantine=LIARS - 1)),
    Rule("krum", Strategy(name="krum", byzantine=LIARS)),
    Rule("fedavg", Strategy()),
    Rule("fedavg, --max-norm 3", Strategy(), 3.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one rule came to: accuracies by seed, clean and under attack."""

    name: str
    clean: tuple[float, ...]
    attacked: tuple[float, ...]

    @property
    def lost(self) -> float:
        """The mean accuracy that the attack cost, against the clean plain mean."""
        return sum(c - a for c, a in zip(self.clean, self.attacked, strict=True)) / len(self.clean)


def accuracy(head: HeadArrays, windows: Mapping[str, LabelledWindows]) -> float:
    """Return the share of withheld windows that a head names rightly, over all devices."""
    plain = LinearHead(weight=head.weight, bias=head.bias)
    right = count = 0
    for samples in windows.values():
        x, y = samples.of(Split.WITHHELD)
        right += int((plain.answers(x.reshape(len(y), -1)) == y).sum())
        count += len(y)
    return right / count


def rows_of(bases: Sequence[Base], rules: Sequence[Rule] = RULES, rounds: int = 5) -> list[Row]:
    """Return the table."""
    attacked: dict[str, list[float]] = {rule.name: [] for rule in rules}
    clean: list[float] = []
    for base in bases:
        windows = {name: w for name, w in base.wrists.items() if name != LEFT_OUT}
        plain = Settings(rounds=rounds, seed=base.seed + 1, max_norm=None)
        honest: Mapping[str, LabelledWindows] = {}
        for rule in rules:
            settings = replace(
                plain, attackers=SHARE, strategy=rule.strategy, max_norm=rule.max_norm
            )
            head, run = train(base.head, windows, settings)
            honest = {d.device: windows[d.device] for d in run.devices if d.part != "attacker"}
            attacked[rule.name].append(accuracy(head, honest))
        clean.append(accuracy(train(base.head, windows, plain)[0], honest))
    return [
        Row(name=name, clean=tuple(clean), attacked=tuple(found))
        for name, found in attacked.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [
        "| strategy | clean mean | with 3 of 15 lying | lost | by seed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        clean, found = (sum(part) / len(part) for part in (row.clean, row.attacked))
        seeds = " ".join(f"{a:.3f}" for a in row.attacked)
        lines.append(f"| {row.name} | {clean:.3f} | {found:.3f} | {row.lost:+.3f} | {seeds} |")
    return "\n".join(lines)


def main() -> int:
    """Do the study and return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/study_attackers", description=__doc__)
    parser.add_argument("--json", metavar="FILE|-", help="also write the figures; - prints them")
    parser.add_argument("--seeds", type=int, choices=range(1, SEEDS + 1), default=SEEDS)
    wanted = parser.parse_args()
    if wanted.json not in {None, "-"} and not Path(wanted.json).absolute().parent.is_dir():
        print(f"--json {wanted.json}: there is no such folder", file=sys.stderr)
        return 2
    rows = rows_of([read_base(seed) for seed in range(wanted.seeds)])
    figures = {
        "devices": 15,
        "attackers": LIARS,
        "strategies": {
            row.name: {
                "clean": [round(c, 4) for c in row.clean],
                "attacked": [round(a, 4) for a in row.attacked],
                "lost": round(row.lost, 4),
            }
            for row in rows
        },
    }
    text = json.dumps(figures, indent=2) + "\n"
    if wanted.json == "-":
        print(text, end="")
        return 0
    if wanted.json:
        Path(wanted.json).write_text(text)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
