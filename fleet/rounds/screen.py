"""A device's reply is looked at before Flower sees it, and refused alone.

What one bad reply does to an ordinary strategy: a missing metric, another shape or
garbage ends the run, a NaN poisons the model, an enormous ``num-examples`` owns it.

Rule 1: a reply that is refused costs its device's reply and nothing else.
Rule 2: the sentence names what was found and what was allowed.
Rule 3: a reply answers this message of this run, and no other.
Rule 4: each array is read once: whether it is finite shows in the length of its step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.tensors import (
    ArrayRecord,
    Failure,
    FlowerMessage,
    Metadata,
    MetricRecord,
    decode_message,
)
from agent.errors import MalformedError
from fleet.rounds.aggregate import norm_of

WEIGHT_KEY = "num-examples"
OLD_WEIGHT_KEY = "num_examples"
OLD_RECORDS = {"fitins": "fitres", "evaluateins": "evaluateres"}
"""What apps of before the Message API ask with, and are answered with."""
MAX_EXAMPLES = 1_000_000
BESIDE = "running"
"""The record of a question that is no model to be trained: the running release's head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """A reply that may be handed to the strategy; ``norm`` is the length of its step, if any."""

    message: FlowerMessage
    norm: float | None = None


def screen_reply(reply: bytes, asked: bytes) -> Screened:
    """Return the reply if it may be handed to the strategy.

    Args:
        reply: The Flower message of a device.
        asked: The Flower message that it answers.

    Raises:
        MalformedError: It does not parse, reports a failure, or breaks a rule above.

    """
    message = decode_message(reply, limit=MAX_FLOWER_BYTES)
    question = decode_message(asked, limit=MAX_FLOWER_BYTES)
    _check_origin(message.metadata, question.metadata)
    if isinstance(message.content, Failure):
        raise MalformedError(f"the device failed: {message.content.reason[:200]}")
    if message.metadata.message_type != question.metadata.message_type:
        raise MalformedError(
            f"a {message.metadata.message_type} reply to a {question.metadata.message_type} task"
        )
    arrays, norm = _arrays(message), None
    if question.metadata.message_type.startswith("train"):
        wanted = _arrays(question, but=BESIDE)
        _check_arrays(arrays, wanted)
        norm = norm_of(arrays, wanted)
    _check_weight(message, _weighed_by(question))
    return Screened(message=message, norm=norm)


def _check_origin(found: Metadata, asked: Metadata) -> None:
    if found.run_id != asked.run_id:
        raise MalformedError(f"it belongs to run {found.run_id}; asked was run {asked.run_id}")
    if found.reply_to_message_id != asked.message_id:
        raise MalformedError(
            f"it answers message {found.reply_to_message_id[:80]!r}; "
            f"asked was {asked.message_id[:80]!r}"
        )


def _check_arrays(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> None:
    if found.keys() != wanted.keys():
        raise MalformedError(
            f"it holds arrays {sorted(found)[:8]}; asked were {sorted(wanted)[:8]}"
        )
    for name, array in found.items():
        model = wanted[name]
        if array.shape != model.shape or array.dtype != model.dtype:
            raise MalformedError(
                f"array {name!r} is {array.dtype} {array.shape}; "
                f"asked was {model.dtype} {model.shape}"
            )


def _weighed_by(question: FlowerMessage) -> tuple[str, str]:
    """Return the record and the metric that say how much a reply weighs; "" is the only one."""
    records = {} if isinstance(question.content, Failure) else question.content
    for asked, answered in OLD_RECORDS.items():
        if f"{asked}.parameters" in records:
            return f"{answered}.num_examples", OLD_WEIGHT_KEY
    return "", WEIGHT_KEY


def _check_weight(message: FlowerMessage, weighed_by: tuple[str, str]) -> None:
    records = {} if isinstance(message.content, Failure) else message.content
    metrics = {n: r for n, r in records.items() if isinstance(r, MetricRecord)}
    where, key = weighed_by
    if not where and len(metrics) != 1:
        raise MalformedError(f"it holds {len(metrics)} metric records; one is needed")
    for name, value in ((n, v) for r in metrics.values() for n, v in r.items.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(n, int | float) and np.isfinite(n) for n in numbers):
            raise MalformedError(f"metric {name[:80]!r} is not a finite number")
    told = metrics.get(where) if where else next(iter(metrics.values()))
    weight = told.items.get(key) if told else None
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 < weight <= MAX_EXAMPLES:
        raise MalformedError(
            f"{key} is {weight!r:.80}; it must be a whole number, 1 to {MAX_EXAMPLES}"
        )


def _arrays(message: FlowerMessage, but: str = "") -> dict[str, NDArray[Any]]:
    records = {} if isinstance(message.content, Failure) else message.content
    found = [r for name, r in records.items() if isinstance(r, ArrayRecord) and name != but]
    if len(found) > 1:
        raise MalformedError(f"it holds {len(found)} array records; at most one may be")
    return dict(found[0].items) if found else {}
