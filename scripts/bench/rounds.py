"""Rounds of four devices: Flower's own deployment and a fleet of ours, in one run.

The work is the same: FedAvg over a softmax head that each device trains with the same code on
the same windows of the motion data, at 656 and at 999,952 parameters. Flower's side is its
SuperLink with SuperNodes without TLS, accounts or database; ours has all of these.

    seconds_ratio        a round, ours over Flower's; medians, the worse of the two sizes
    bytes_ratio          bytes a round of training at the devices' side, losslessly, at the larger
                         size; what our devices get to judge the candidate is told beside
    rss_training_ratio   resident memory of a training device with all its processes, at its peak
    rss_idle_ratio       proportional memory of a connected device with no model loaded
    idle_bytes_ratio     bytes a day of such a device, from what it carried while both idled
    killed_device_ratio  seconds that one device's kill -9 in a round adds to the run
    rounds_lost          rounds of ours that a kill -9 of the manager in a round has cost

Flower's devices ask every few seconds whether there is work, and so do its programs at the
server; ``flower_polling_seconds`` is what a round of hardly any work takes there.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench import rounds_model
from scripts.bench.rounds_counting import tree_pss
from scripts.bench.rounds_flower import Flower, Rounds, flower
from scripts.bench.rounds_graph import write
from scripts.bench.rounds_ours import IDLE, TRAINING, NotMeasuredError, Ours, make_device, ours

PLACES = ((5, "left"), (6, "right"), (7, "left"), (8, "right"))
DAY_SECONDS = 86_400
SETTLING_SECONDS = 8.0
Figures = dict[str, Any]


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--rounds", type=int, default=3, help="of Flower; ours are three times it")
    parser.add_argument("--idle-seconds", type=float, default=90.0, help="in which both idle")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rounds-") as name:
        figures = measure(Path(name), arguments.rounds, arguments.idle_seconds)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def measure(folder: Path, rounds: int, idle_seconds: float) -> Figures:
    """Run both sides; return what is reported."""
    samples = [make_device(p, side, folder / f"person-{p}") for p, side in PLACES]
    small, large = make_models(folder, samples)
    with ours(folder / "ours", samples) as mine:
        with flower(folder / "flower", samples) as theirs:
            mine.start_agents(IDLE)
            idle = idling(mine, theirs, idle_seconds)
            say("rounds of Flower")
            of_flower = flowers_rounds(theirs, small, large, rounds)
        say("rounds of ours")
        of_ours = our_rounds(mine, small, large, rounds * 3)
    return summary(idle, of_flower, of_ours)


def make_models(folder: Path, samples: list[Path]) -> tuple[Path, Path]:
    """Write both models; return their ONNX files."""
    with np.load(samples[0]) as held:
        deviation = held["x"].std(axis=(0, 2)) + 1e-6
    made = []
    for name, width in (("small", rounds_model.SMALL), ("large", rounds_model.LARGE)):
        arrays = rounds_model.make(width, deviation)
        made.append(write(folder, name, arrays))
    return made[0], made[1]


def idling(mine: Ours, theirs: Flower, seconds: float) -> dict[str, Figures]:
    """Let both sides do nothing at the same time; return what that costs a device."""
    say(f"both idle for {seconds:.0f} s")
    time.sleep(SETTLING_SECONDS)
    sides = {"ours": mine, "flower": theirs}
    before = {name: side.proxy.carried for name, side in sides.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {
        name: {
            "idle_bytes_a_day": round(
                (side.proxy.carried - before[name]) / took * DAY_SECONDS / len(side.roots)
            ),
            "idle_pss_bytes": round(statistics.mean(tree_pss(pid) for pid in side.roots)),
            "idle_measured_seconds": round(took, 1),
        }
        for name, side in sides.items()
    }


def flowers_rounds(theirs: Flower, small: Path, large: Path, rounds: int) -> dict[str, Figures]:
    """Train both sizes, then lose a SuperNode."""
    made = theirs.run(small, rounds)
    usual = statistics.median(made.seconds)
    found = {"small": told(made, small, theirs.samples) | {"work_seconds": theirs.work_seconds()}}
    found["large"] = told(theirs.run(large, max(2, rounds - 1)), large, theirs.samples)
    killed = theirs.run(small, 2, kills_in=2)
    found["killed"] = {
        "seconds": [round(s, 2) for s in killed.seconds],
        "seconds_lost": round(sum(killed.seconds) - usual * len(killed.seconds), 2),
    }
    return found


def our_rounds(mine: Ours, small: Path, large: Path, rounds: int) -> dict[str, Figures]:
    """Train both sizes, lose a device and a manager; a sentence stands where that failed."""
    mine.start_agents(TRAINING)
    mine.roll_out(small)
    victim, many = next(iter(mine.agents)), str(len(mine.samples) - 1)
    found: dict[str, Figures] = {}

    def note(name: str, model: Path, *words: str, number: int = 3, **kill: Any) -> Rounds | None:
        try:
            made = mine.run(number, *words, **kill)
        except NotMeasuredError as why:
            say(f"{name} is not measured: {why}")
            found[name] = {"not_measured": str(why)}
            return None
        found[name] = told(made, model, mine.samples)
        return made

    note("small", small, number=rounds)
    usual = note("small, 3 of 4 wanted", small, "--clients", many)
    killed = note("killed device", small, "--clients", many, kills_in=2, victim=victim)
    if usual and killed:
        least = statistics.median(usual.seconds) * len(killed.seconds)
        found["killed device"]["seconds_lost"] = round(max(0.0, sum(killed.seconds) - least), 2)
    without = note("killed manager", small, kills_in=2, victim="manager")
    if without:
        found["killed manager"]["rounds_lost"] = 3 - len(without.seconds)
    mine.roll_out(large)
    note("large", large)
    note("large int8", large, "--updates", "int8")
    return found


def told(made: Rounds, model: Path, samples: list[Path]) -> Figures:
    """Return the figures of a run, with what its head answers rightly of withheld windows."""
    figures = {
        "seconds_a_round": round(statistics.median(made.seconds), 3),
        "seconds": [round(s, 2) for s in made.seconds],
        "bytes_a_round": round(made.bytes_a_round),
        "bytes_of_judgement": made.bytes_judged,
        "rss_training_bytes": round(made.rss_bytes),
    }
    right = rounds_model.accuracy(model.with_suffix(".npz"), made.head, samples)
    return figures | {"rounds": len(made.seconds), "withheld_accuracy": round(right, 4)}


def summary(
    idle: dict[str, Figures], theirs: dict[str, Figures], mine: dict[str, Figures]
) -> Figures:
    """Return ratios and both sides' figures; a ratio is None where a side was not measured."""

    def ratio(key: str, *runs: str) -> float | None:
        found = [
            mine[run][key] / theirs[run.partition(" ")[0]][key]
            for run in runs
            if key in mine[run] and key in theirs[run.partition(" ")[0]]
        ]
        return round(max(found), 4) if len(found) == len(runs) else None

    def of_idle(key: str) -> float:
        return round(idle["ours"][key] / idle["flower"][key], 4)

    polling = theirs["small"]["seconds_a_round"] - theirs["small"]["work_seconds"]
    return {
        "seconds_ratio": ratio("seconds_a_round", "small", "large"),
        "seconds_ratio_small": ratio("seconds_a_round", "small"),
        "seconds_ratio_large": ratio("seconds_a_round", "large"),
        "bytes_ratio": ratio("bytes_a_round", "large"),
        "bytes_ratio_small": ratio("bytes_a_round", "small"),
        "bytes_ratio_int8": ratio("bytes_a_round", "large int8"),
        "rss_training_ratio": ratio("rss_training_bytes", "small"),
        "rss_training_ratio_large": ratio("rss_training_bytes", "large"),
        "rss_idle_ratio": of_idle("idle_pss_bytes"),
        "idle_bytes_ratio": of_idle("idle_bytes_a_day"),
        "killed_device_ratio": ratio("seconds_lost", "killed device"),
        "rounds_lost": mine["killed manager"].get("rounds_lost"),
        "parameters": {
            "small": rounds_model.parameters(rounds_model.SMALL),
            "large": rounds_model.parameters(rounds_model.LARGE),
        },
        "flower_polling_seconds": round(polling, 2),
        "idle_bytes_are": f"of {idle['ours']['idle_measured_seconds']:.0f} s, extrapolated",
        "ours": idle["ours"] | mine,
        "flower": idle["flower"] | theirs,
    }


def say(words: str) -> None:
    """Tell whoever waits."""
    print(f"rounds: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
