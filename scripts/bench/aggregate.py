"""How fast updates become a model, beside flwr and beside one read of the same bytes.

Rule 1: three sides take turns in changing order on the same updates: one read (NumPy adds
        every value up), flwr's ``aggregate_arrayrecords``, and our mean as the built-in
        program folds it, from the bytes of a reply. Figures are of each side's best turn, the
        one that was least disturbed; on a busy machine the side with threads loses more.
Rule 2: ours is told twice: unvalidated (``Mean.fold``), and validated (``norm_of`` before
        each fold: every value finite, and the length of the step known).
Rule 3: the read is told on one thread and on as many as ours; the ratio is to the one on
        a single thread, and ``times_memory_limit_same_threads`` stands beside it.
Rule 4: updates are made in blocks: ``--distinct`` of them are in memory, far more than any
        cache holds, and each counts several times.
Rule 5: memory is that of real processes: the child of a run, and the manager's conductor
        beside it, with large replies fetched one by one (``bench.aggregate_memory``).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from agent.contract import tensors
from fleet.rounds.aggregate import MAX_THREADS, Mean, norm_of
from scripts.bench.aggregate_memory import peaks

LEAST_CLIENTS = 5
METADATA = tensors.Metadata(
    run_id=1, message_id="r", src_node_id=2, dst_node_id=1, message_type="train"
)


class Updates:
    """Updates of a model, as bytes of replies and as flwr's records."""

    def __init__(self, clients: int, elements: int, distinct: int) -> None:
        chance = np.random.default_rng(1)
        self.model = {"w": chance.standard_normal(elements, np.float32)}
        self.replies = [self._reply(chance, elements) for _ in range(distinct)]
        self.order = [n % distinct for n in range(clients)]
        self.records = [self._record(reply) for reply in self.replies]

    def _reply(self, chance: np.random.Generator, elements: int) -> bytes:
        made = self.model["w"] + np.float32(0.01) * chance.standard_normal(elements, np.float32)
        content: dict[str, tensors.Record] = {"arrays": tensors.ArrayRecord({"w": made})}
        return tensors.encode_message(tensors.FlowerMessage(metadata=METADATA, content=content))

    def _record(self, reply: bytes) -> RecordDict:
        return RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(read(reply)["w"])}),
                "metrics": MetricRecord({"num-examples": 10}),
            }
        )


def read(reply: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a reply: views of its bytes."""
    content = tensors.decode_message(reply, limit=1 << 30).content
    assert not isinstance(content, tensors.Failure)
    record = content["arrays"]
    assert isinstance(record, tensors.ArrayRecord)
    return dict(record.items)


def ours(updates: Updates, *, validated: bool) -> NDArray[np.float64]:
    """Return the mean step of all updates."""
    with Mean(updates.model) as mean:
        for number in updates.order:
            arrays = read(updates.replies[number])
            if validated:
                norm_of(arrays, updates.model)
            mean.fold(arrays, 10.0)
        return mean.step()["w"]


def flowers(updates: Updates) -> NDArray[np.float32]:
    """Return flwr's mean of all updates."""
    made = aggregate_arrayrecords([updates.records[n] for n in updates.order], "num-examples")
    return np.asarray(made["w"].numpy())


def one_read(updates: Updates, threads: int) -> float:
    """Add up every value once."""
    views = [read(updates.replies[n])["w"] for n in updates.order]
    if threads == 1:
        return sum(float(v.sum()) for v in views)
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda v: float(v.sum()), views))


def timed(sides: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the seconds of each side in each turn, in changing order."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            sides[name]()
            found[name].append(time.perf_counter() - began)
    return found


def measure(clients: int, elements: int, distinct: int, turns: int) -> dict[str, Any]:
    """Return the figures of time."""
    updates = Updates(clients, elements, distinct)
    threads = min(cpu_count() or 1, MAX_THREADS)
    far = float(np.abs(ours(updates, validated=True) + updates.model["w"] - flowers(updates)).max())
    if far > 1e-5:  # noqa: PLR2004 -- flwr rounds to float32 at every update
        raise SystemExit(f"aggregate: the two sides differ by {far}")
    taken = timed(
        {
            "read": lambda: one_read(updates, 1),
            "read_threads": lambda: one_read(updates, threads),
            "flwr": lambda: flowers(updates),
            "ours": lambda: ours(updates, validated=False),
            "validated": lambda: ours(updates, validated=True),
        },
        turns,
    )
    best = {name: min(seconds) for name, seconds in taken.items()}
    return {
        "clients": clients,
        "elements": elements,
        "distinct_updates": distinct,
        "turns": turns,
        "threads": threads,
        "read_seconds": round(best["read"], 4),
        "read_same_threads_seconds": round(best["read_threads"], 4),
        "flwr_seconds": round(best["flwr"], 4),
        "seconds": round(best["ours"], 4),
        "validated_seconds": round(best["validated"], 4),
        "speedup_vs_flwr": round(best["flwr"] / best["ours"], 2),
        "speedup_vs_flwr_validated": round(best["flwr"] / best["validated"], 2),
        "times_memory_limit": round(best["ours"] / best["read"], 2),
        "times_memory_limit_same_threads": round(best["ours"] / best["read_threads"], 2),
        "greatest_difference": far,
    }


def main() -> int:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, metavar="FILE", help="- is standard output")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--elements", type=int, default=5_000_000, help="float32 of the model")
    parser.add_argument("--distinct", type=int, default=10, help="updates in memory at once")
    parser.add_argument("--turns", type=int, default=7, help="turns of each side")
    parser.add_argument("--memory-clients", type=int, default=40, help="0 leaves memory out")
    arguments = parser.parse_args()
    if 0 < arguments.memory_clients < LEAST_CLIENTS:
        parser.error(f"--memory-clients: multi-krum needs {LEAST_CLIENTS}; 0 leaves memory out")
    figures = measure(
        arguments.clients, arguments.elements, arguments.distinct, max(1, arguments.turns)
    )
    if arguments.memory_clients:
        figures |= peaks(arguments.memory_clients, arguments.elements)
    text = json.dumps(figures, indent=2) + "\n"
    if arguments.json == "-":
        sys.stdout.write(text)
    else:
        Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
