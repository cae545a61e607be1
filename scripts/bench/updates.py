"""Bytes of an update in each form beside the accuracy that the run ends with, in one run.

Real: the motion data, its backbones and heads, the device's trainer, its coding of replies
with residuals on a disk, and the manager's way back to whole messages. Only the broker is
left out: bytes are those of the attachments. Rounds are plain federated averaging.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from statistics import mean

import numpy as np

from agent.contract import updates
from agent.contract.messages import Quality
from agent.contract.records import ArrayRecord, ConfigRecord
from agent.contract.rounds import Task, TaskAnswer
from agent.contract.shared_arrays import cut_message
from agent.contract.tensors import (
    Failure,
    FlowerMessage,
    Metadata,
    decode_message,
    encode_message,
)
from agent.daemon.round_coding import code_reply, keep_residual
from agent.disk import Disk
from agent.learn.samples import LabelledWindows, Split
from agent.learn.trainer import LinearHead, answer_task, count_right
from fleet.ingest.round_records import RoundRecords
from fleet.rounds.heads import HeadArrays
from fleet.service.round_traffic import whole_answer
from scripts.study_program.wrists import FLEET, read_base

FORMS = ("f32", "f16", "int8", "int4", "topk:0.1", "topk:0.02")
LARGE = 1_000_000
RUN = "run-1"


def message_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the train message that carries these arrays."""
    head = Metadata(run_id=1, message_id="m", src_node_id=1, dst_node_id=7, message_type="train")
    settings = ConfigRecord({"learning-rate": 0.5, "epochs": 20, "anchor": 0.05})
    content = {"arrays": ArrayRecord(arrays), "config": settings}
    return encode_message(FlowerMessage(metadata=head, content=content))


class Form:
    """One form of updates between a device and the manager: everything but the broker."""

    def __init__(self, folder: Path, form: str) -> None:
        self._records = RoundRecords(folder / "rounds")
        self._folder, self._form = folder, form
        self._disks: dict[str, Disk] = {}
        self.sizes: list[int] = []

    def carry(self, device: str, number: int, message: bytes, reply: bytes) -> bytes:
        """Return a reply as the manager has it in the end."""
        disk = self._disks.setdefault(device, Disk(self._folder / device))
        disk.root.mkdir(parents=True, exist_ok=True)
        _, shared = self._records.share(RUN, message)
        self._records.keep(RUN, message)
        task = Task(
            device=device,
            run=RUN,
            task=f"t-{number}",
            kind="train",
            backbone="a" * 64,
            digest=sha256(message).hexdigest(),
            lasts_seconds=60,
            shared=shared,
            updates=self._form,
        )
        coded = code_reply(task, message, reply, disk)
        if coded.residual is not None:
            keep_residual(disk, RUN, coded.residual)
        self.sizes.append(len(coded.attachment))
        answer = TaskAnswer(run=RUN, task=task.task, outcome="done", sent=coded.sent)
        _, whole = whole_answer(self._records, answer, coded.attachment)
        return whole


def federated(
    head: HeadArrays, devices: Mapping[str, LabelledWindows], form: Form, rounds: int
) -> HeadArrays:
    """Return the head after some rounds of averaging replies that travel in a form."""
    arrays = {"weight": head.weight, "bias": head.bias}
    for number in range(rounds):
        sums, total = {name: np.zeros(a.shape) for name, a in arrays.items()}, 0
        message = message_of(arrays)
        for name, windows in devices.items():
            made = answer_task(message, "train", lambda x: x[:, :, 0], windows)
            content = decode_message(form.carry(f"d-{name}", number, message, made.reply)).content
            if isinstance(content, Failure):
                raise SystemExit(f"updates: {content.reason}")
            record, count = content["arrays"], windows.count(Split.TRAIN)
            if isinstance(record, ArrayRecord):
                for key, array in record.items.items():
                    sums[key] += count * array.astype(np.float64)
            total += count
        arrays = {name: (found / total).astype(np.float32) for name, found in sums.items()}
    return HeadArrays(weight=arrays["weight"], bias=arrays["bias"])


def accuracy(head: HeadArrays, devices: Mapping[str, LabelledWindows]) -> float:
    """Return the mean share of *withheld* windows that are named rightly."""
    judged: list[Quality] = []
    for windows in devices.values():
        x, y = windows.of(Split.WITHHELD)
        judged.append(count_right(LinearHead(weight=head.weight, bias=head.bias), x[:, :, 0], y))
    return mean(quality.accuracy for quality in judged)


def large_bytes(form: str) -> int:
    """Return the bytes of an update of a million parameters that moved by a hundredth."""
    chance = np.random.default_rng(0)
    before = chance.normal(0, 0.05, LARGE).astype(np.float32)
    after = before + chance.normal(0, 0.0005, LARGE).astype(np.float32)
    base, new = (
        bytes(cut_message(message_of({"weight": a}), least=1)[1][0].content)
        for a in (before, after)
    )
    if form == updates.LOSSLESS:
        return len(updates.pack(new, base)[1])
    return len(updates.coarsen(form, new, base, seed=1)[0])


def measure(seeds: int, rounds: int) -> list[dict[str, object]]:
    """Return a row for each form."""
    bases = [read_base(seed) for seed in range(seeds)]
    before = mean(accuracy(base.head, base.of(FLEET)) for base in bases)
    rows: list[dict[str, object]] = []
    for form in FORMS:
        found, sizes = [], []
        for base in bases:
            with tempfile.TemporaryDirectory() as folder:
                carried = Form(Path(folder), form)
                final = federated(base.head, base.of(FLEET), carried, rounds)
            found.append(accuracy(final, base.of(FLEET)))
            sizes += carried.sizes
        rows.append(
            {
                "form": form,
                "large_bytes": large_bytes(form),
                "head_bytes": round(mean(sizes)),
                "accuracy_before": round(before, 4),
                "accuracy": round(mean(found), 4),
                "lowest_seed": round(min(found), 4),
            }
        )
    return rows


def main() -> None:
    """Print the table, and write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 6))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", metavar="FILE|-")
    asked = parser.parse_args()
    rows = measure(asked.seeds, asked.rounds)
    text = json.dumps({"seeds": asked.seeds, "rounds": asked.rounds, "forms": rows}, indent=2)
    if asked.json == "-":
        sys.stdout.write(text + "\n")
        return
    sys.stdout.write("form       1 M parameters   head   accuracy before -> after (lowest seed)\n")
    for row in rows:
        sys.stdout.write(
            "{form:10} {large_bytes:14,} {head_bytes:6,}   "
            "{accuracy_before:.3f} -> {accuracy:.3f} ({lowest_seed:.3f})\n".format(**row)
        )
    if asked.json:
        Path(asked.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
