"""Latency of a device's answers with and without a task of federated rounds beside them.

One enrolled agent serves the motion model over its Unix socket and is asked for a window fifty
times a second, whenever its time has come and not as soon as the last answer is there. Quiet
seconds and seconds in which it trains head after head alternate, so that neighbours in time are
compared; what is reported are percentiles over all quiet, and over all busy, requests.

    p50_ratio, p99_ratio   while training over quiet
    p99_added_us           what training adds to the 99th percentile
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.rounds_ours import TRAINING, NotMeasuredError, Ours, make_device, ours
from scripts.bench.serving import binary_request
from scripts.bench.serving_load import Line, connect

MODEL = Path(__file__).parents[1] / "base_model" / "motion-int8.onnx"
SERVING = TRAINING + '[serve]\nsocket = "inference.sock"\n'
PACE_SECONDS = 0.02
EPOCHS = 1000


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--turns", type=int, default=3, help="of quiet, and of training")
    parser.add_argument("--rounds", type=int, default=8, help="of training in a turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="training-") as name:
        folder = Path(name)
        samples = [make_device(5, "left", folder / "person-5")]
        with ours(folder / "ours", samples) as fleet:
            fleet.start_agents(SERVING)
            fleet.roll_out(MODEL)
            figures = measure(fleet, arguments.turns, arguments.rounds)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


def measure(fleet: Ours, turns: int, rounds: int) -> dict[str, Any]:
    """Ask through quiet and busy turns; return what is reported."""
    socket = fleet.samples[0].parent / "inference.sock"
    line = Line(connect(str(socket)), binary_request())
    ask(line, 50)
    quiet: list[float] = []
    busy: list[float] = []
    trained = 0
    for _ in range(turns):
        took, seconds = train_beside(fleet, rounds, line)
        busy += took
        trained += rounds
        quiet += ask(line, max(50, int(seconds / PACE_SECONDS)))
    line.there.close()
    return {
        "p50_ratio": round(percentile(busy, 50) / percentile(quiet, 50), 3),
        "p99_ratio": round(percentile(busy, 99) / percentile(quiet, 99), 3),
        "p99_added_us": round(percentile(busy, 99) - percentile(quiet, 99), 1),
        "quiet": told(quiet),
        "training": told(busy) | {"rounds": trained},
        "asked_a_second": round(1 / PACE_SECONDS),
    }


def train_beside(fleet: Ours, rounds: int, line: Line) -> tuple[list[float], float]:
    """Return the latencies while a run goes on, and how long that was."""
    failed: list[str] = []

    def train() -> None:
        try:
            fleet.run(rounds, "--minimum-replies", "1", epochs=EPOCHS)
        except NotMeasuredError as why:
            failed.append(str(why))

    thread = threading.Thread(target=train)
    found: list[float] = []
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        found += ask(line, 10)
    thread.join()
    if failed:
        sys.exit(f"training: the run failed: {failed[0]}")
    return found, time.monotonic() - began


def ask(line: Line, number: int) -> list[float]:
    """Ask at the pace; return the latencies in microseconds, from when each was due."""
    found = []
    due = time.perf_counter()
    for _ in range(number):
        due += PACE_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))
        line.ask()
        while not line.hear():
            pass
        found.append((time.perf_counter() - due) * 1e6)
    return found


def percentile(latencies: list[float], share: int) -> float:
    """Return a percentile."""
    return float(np.percentile(latencies, share))


def told(latencies: list[float]) -> dict[str, float]:
    """Return what is said of some requests."""
    return {
        "requests": len(latencies),
        "p50_us": round(percentile(latencies, 50), 1),
        "p99_us": round(percentile(latencies, 99), 1),
        "worst_us": round(max(latencies), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
