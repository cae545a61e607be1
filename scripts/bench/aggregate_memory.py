"""How much memory a round of large updates takes, in models, on either side of the pipe.

Rule 1: the conductor is a process of its own, so that what it took at most is its own
        (``VmHWM`` of proc(5)); the child is the real one. Both are told less what they take
        for a model of one kilobyte.
Rule 2: devices answer one after another; each reply is screened, spooled into a file and
        gone before the next. What the broker's link holds meanwhile is not in it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.rounds import Task, TaskAnswer
from agent.contract.tensors import (
    ArrayRecord,
    FlowerMessage,
    Metadata,
    MetricRecord,
    Record,
    decode_message,
    encode_message,
)
from fleet.rounds.conduct import Conductor, Doors, HeadArrays
from fleet.rounds.events import RunPlan
from fleet.rounds.host import FlowerChild, Put
from fleet.rounds.pipe import Begin
from fleet.rounds.strategies import Strategy

BLANK = Metadata(run_id=1, message_id="", src_node_id=2, dst_node_id=1, message_type="train")
NOW = 1_700_000_000_000
KIB_ELEMENTS = 256
STRATEGIES = ("fedavg", "fedadam", "median", "multi-krum")


def peaks(clients: int, elements: int) -> dict[str, Any]:
    """Return the peaks of manager and child in models, by strategy."""
    found: dict[str, Any] = {"memory_clients": clients}
    for name in STRATEGIES:
        small, large = (_apart(clients, size, name) for size in (KIB_ELEMENTS, elements))
        models = {side: (large[side] - small[side]) / (4 * elements) for side in large}
        key = name.replace("-", "_")
        found |= {f"peak_models_{side}_{key}": round(m, 2) for side, m in models.items()}
    return found


def _apart(clients: int, elements: int, strategy: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench.aggregate_memory"],
        input=json.dumps([clients, elements, strategy]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(
            f"aggregate: the round of {elements} elements failed: {done.stderr[-500:]}"
        )
    found: dict[str, int] = json.loads(done.stdout)
    return found


class Round:
    """One run of one round in this process; its devices' replies wait in files."""

    def __init__(self, folder: Path, clients: int, elements: int, strategy: str) -> None:
        self._folder = folder
        self._waiting: list[Task] = []
        self._words: SimpleQueue[object] = SimpleQueue()
        self._children: list[FlowerChild] = []
        devices = tuple(f"d-{n:04d}" for n in range(clients))
        plan = RunPlan(
            run="run-1",
            slot="bench",
            backbone="ab" * 32,
            rounds=1,
            started_ms=NOW,
            minimum_replies=clients,
            participants=devices,
            strategy=Strategy(name=strategy),  # type: ignore[arg-type]
        )
        doors = Doors(
            journal=lambda _: None,
            keep=self._keep,
            read=self._read,
            offer=self._offer,
            put=self._words.put,
        )
        weight = np.random.default_rng(1).standard_normal((1, elements), np.float32)
        head = HeadArrays(weight=weight, bias=np.zeros(1, np.float32))
        self.conductor = Conductor(plan, head, doors, [], self._launch)
        self._learned = folder / "learned"
        self._learned.write_bytes(_content(weight))

    @property
    def child_peak(self) -> int:
        """What the child took at most, in bytes."""
        return _peak(self._children[-1].process_id)

    def run(self) -> None:
        """Let every device answer, one after another, until the child is done."""
        self.conductor.begin(NOW)
        while self.conductor.state.status == "training":
            word = self._words.get(timeout=300)
            self.peak_at_last = self.child_peak
            self.conductor.heard(word, NOW)
            del word
            while self._waiting:
                self._answer(self._waiting.pop())
        if self.conductor.state.status != "finished":
            raise SystemExit(f"aggregate: {self.conductor.state.why}")
        for child in self._children:
            child.join()

    def _answer(self, task: Task) -> None:
        reply = (self._folder / f"{task.task}.reply").read_bytes()
        answer = TaskAnswer(
            run=task.run, task=task.task, outcome="done", digest=sha256(reply).hexdigest()
        )
        made = self.conductor.answered(task.device, answer, reply, NOW)
        if made != "counted":
            raise SystemExit(f"aggregate: an answer was {made}")

    def _offer(self, task: Task, content: bytes) -> None:
        """Write what the device will answer, piece by piece, as another machine would."""
        asked = decode_message(content, limit=1 << 30).metadata
        head = replace(
            asked,
            message_id="",
            src_node_id=asked.dst_node_id,
            dst_node_id=asked.src_node_id,
            reply_to_message_id=asked.message_id,
        )
        own = encode_message(FlowerMessage(metadata=head, content={}))
        with (self._folder / f"{task.task}.reply").open("wb") as reply:
            reply.write(own[: len(own) - 2])  # without the empty content at its end
            with self._learned.open("rb") as learned:
                shutil.copyfileobj(learned, reply, 64 * 1024)
        self._waiting.append(task)

    def _keep(self, name: str, content: bytes) -> None:
        (self._folder / name).write_bytes(content)

    def _read(self, name: str) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if path.exists() else None

    def _launch(self, begin: Begin, put: Put) -> FlowerChild:
        self._children.append(FlowerChild(begin, put))
        return self._children[-1]


def _content(weight: NDArray[np.float32]) -> bytes:
    """Return the content field of a reply: the model, a little moved."""
    arrays = {"weight": weight + np.float32(0.01), "bias": np.zeros(1, np.float32)}
    content: dict[str, Record] = {
        "arrays": ArrayRecord(arrays),
        "metrics": MetricRecord({"num-examples": 10}),
    }
    blank = FlowerMessage(metadata=BLANK, content={})
    whole = encode_message(FlowerMessage(metadata=BLANK, content=content))
    return whole[len(encode_message(blank)) - 2 :]


def _peak(process: int | str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run one round and tell the peaks of both sides in bytes."""
    clients, elements, strategy = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="aggregate-") as folder:
        one = Round(Path(folder), clients, elements, strategy)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the updates
        one.run()
        print(json.dumps({"manager": _peak("self"), "child": one.peak_at_last}))


if __name__ == "__main__":
    main()
