"""What federated heads do to people on the motion data, and what each remedy is worth.

Base models are trained on people 1 to 4 with five seeds; the fleet is eight wrists of people
5 to 8. Prints a table of methods: accuracy on withheld windows, with the change and its 95 %
interval, of those who take part, of strangers (each person left out of a run in turn), and
of people 1 to 4, whom the base model was made of; and what promotion by decide windows does.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from scripts.study_program.measure import Row, as_json, row_of
from scripts.study_program.methods import METHODS
from scripts.study_program.wrists import read_base

SEEDS = 5


def main() -> int:
    """Do the study and return its exit status."""
    parser = argparse.ArgumentParser(prog="scripts/study_motion", description=__doc__)
    parser.add_argument("--json", metavar="FILE|-", help="also write all figures; - prints them")
    parser.add_argument(
        "--seeds", type=int, choices=range(1, SEEDS + 1), default=SEEDS, help="base models"
    )
    parser.add_argument(
        "--method", action="append", choices=[m.key for m in METHODS], metavar="KEY",
        help=f"only this one; repeat for more: {', '.join(m.key for m in METHODS)}",
    )  # fmt: skip
    wanted = parser.parse_args()
    if wanted.json not in {None, "-"} and not Path(wanted.json).absolute().parent.is_dir():
        print(f"--json {wanted.json}: there is no such folder", file=sys.stderr)
        return 2
    began = time.monotonic()
    bases = [read_base(seed) for seed in range(wanted.seeds)]
    rows = []
    for named in METHODS:
        if not wanted.method or named.key in wanted.method:
            rows.append(row_of(named, bases))
            print(f"{named.key}: {rows[-1].participants}", file=sys.stderr, flush=True)
    figures = {
        "seeds": wanted.seeds,
        "device_seeds": 8 * wanted.seeds,
        "seconds": round(time.monotonic() - began, 1),
        "methods": [as_json(row) for row in rows],
    }
    text = json.dumps(figures, indent=2) + "\n"
    if wanted.json == "-":
        print(text, end="")
        return 0
    if wanted.json:
        Path(wanted.json).write_text(text)
    print(table(rows, wanted.seeds))
    return 0


def table(rows: list[Row], seeds: int) -> str:
    """Return the rows as a table of Markdown."""
    receivers = f"receivers: change by seed | worse by > 0.05, of {8 * seeds}"
    lines = [
        f"| method | take part | strangers | people 1-4 | {receivers} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    if rows:
        first = rows[0]
        parts = (first.participants, first.strangers, first.known)
        before = " | ".join(f"{part.before:.3f}" for part in parts)
        lines.append(f"| before | {before} | | |")
    for row in rows:
        by_seed = " ".join(f"{change:+.3f}" for change in row.receivers_change)
        lines.append(
            f"| {row.name}{'' if row.in_fleet else ' *'} | {row.participants} | {row.strangers} | "
            f"{row.known} | {row.receivers}: {by_seed} | "
            f"{row.receivers_worse} ({row.participants_worse} of all) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
