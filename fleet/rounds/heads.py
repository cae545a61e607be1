"""Heads as Flower messages: what a run starts from, asks devices to judge, and ends with."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.tensors import (
    ArrayRecord,
    Failure,
    FlowerMessage,
    Metadata,
    decode_message,
    encode_message,
)
from agent.errors import ContractError
from fleet.errors import RefusedError
from fleet.rounds.engine import node_of
from fleet.rounds.events import ANCHOR_TO, RunPlan
from fleet.rounds.pipe import Begin

WEIGHT, BIAS = "weight", "bias"
SERVER_NODE = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadArrays:
    """A head's weight (classes, width) and bias (classes,), both float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


def run_number(run: str) -> int:
    """Return the number of a run for Flower: 63 bits of BLAKE2b."""
    raw = blake2b(run.encode(), digest_size=8, person=b"fieldfare-run").digest()
    return int.from_bytes(raw, "big") >> 1


def begin_word(plan: RunPlan, head: HeadArrays, nodes: tuple[int, ...]) -> Begin:
    """Return the first word to the Flower child."""
    training = plan.training
    start = FlowerMessage(
        metadata=_metadata(plan, "start", SERVER_NODE, "train"), content={"arrays": _record(head)}
    )
    return Begin(
        run_id=run_number(plan.run),
        seed=plan.seed,
        rounds=plan.rounds,
        started_ms=plan.started_ms,
        minimum_replies=plan.minimum_replies,
        nodes=nodes,
        settings={
            "learning-rate": float(training.learning_rate),
            "epochs": training.epochs,
            "anchor": float(training.anchor),
            **({ANCHOR_TO: "running"} if training.anchor_to == "running" else {}),
        },
        arrays=encode_message(start),
        app=plan.app,
        app_folder=plan.app_folder,
        strategy=plan.strategy,
        buffer=plan.buffer,
        patience_seconds=plan.app_seconds,
    )


def evaluation_message(
    plan: RunPlan, task: str, device: str, candidate: HeadArrays, running: HeadArrays
) -> bytes:
    """Return the message that asks one device to judge candidate and running head."""
    content = {"arrays": _record(candidate), "running": _record(running)}
    metadata = _metadata(plan, task, node_of(device), "evaluate")
    return encode_message(FlowerMessage(metadata=metadata, content=content))


def read_final(content: bytes, head: HeadArrays) -> HeadArrays:
    """Return the aggregated head of the child's last word.

    Raises:
        RefusedError: It is not a head of the running head's shapes, or not finite.

    """
    try:
        message = decode_message(content, limit=MAX_FLOWER_BYTES)
    except ContractError as why:
        raise RefusedError(f"the aggregate does not parse: {why}") from why
    record = None if isinstance(message.content, Failure) else message.content.get("arrays")
    if not isinstance(record, ArrayRecord) or record.items.keys() != {WEIGHT, BIAS}:
        raise RefusedError("the aggregate is not a head: it needs a weight and a bias")
    weight, bias = record.items[WEIGHT], record.items[BIAS]
    for name, found, wanted in ((WEIGHT, weight, head.weight), (BIAS, bias, head.bias)):
        if found.shape != wanted.shape or found.dtype != np.float32:
            raise RefusedError(
                f"the aggregate's {name} is {found.dtype} {found.shape}, not float32 {wanted.shape}"
            )
        if not np.isfinite(found).all():
            raise RefusedError(f"the aggregate's {name} holds values that are not finite")
    return HeadArrays(weight=weight, bias=bias)


def read_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of the child's last word, which need be no head.

    Raises:
        RefusedError: There are none, or they hold values that are not finite.

    """
    try:
        message = decode_message(content)
    except ContractError as why:
        raise RefusedError(f"the aggregate does not parse: {why}") from why
    record = None if isinstance(message.content, Failure) else message.content.get("arrays")
    if not isinstance(record, ArrayRecord) or not record.items:
        raise RefusedError("the aggregate holds no arrays")
    for name, array in record.items.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RefusedError(f"the aggregate's {name[:80]} holds values that are not finite")
    return dict(record.items)


def _record(head: HeadArrays) -> ArrayRecord:
    return ArrayRecord(
        {WEIGHT: np.ascontiguousarray(head.weight), BIAS: np.ascontiguousarray(head.bias)}
    )


def _metadata(plan: RunPlan, name: str, node: int, kind: str) -> Metadata:
    return Metadata(
        run_id=run_number(plan.run),
        message_id=name,
        src_node_id=SERVER_NODE,
        dst_node_id=node,
        message_type=kind,
        created_at=plan.started_ms / 1000,
    )
