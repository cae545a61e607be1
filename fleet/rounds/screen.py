"""A device's reply is looked at before Flower sees it, and refused alone.

What one bad reply does to an ordinary strategy: a missing metric, another shape or
garbage ends the run, a NaN poisons the model, an enormous ``num-examples`` owns it.

Rule 1: a reply that is refused costs its device's reply and nothing else.
Rule 2: the sentence names what was found and what was allowed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.tensors import (
    ArrayRecord,
    Failure,
    FlowerMessage,
    MetricRecord,
    decode_message,
)
from agent.errors import MalformedError

WEIGHT_KEY = "num-examples"
MAX_EXAMPLES = 1_000_000


def screen_reply(reply: bytes, asked: bytes) -> FlowerMessage:
    """Return the reply if it may be handed to the strategy.

    Args:
        reply: The Flower message of a device.
        asked: The Flower message that it answers.

    Raises:
        MalformedError: It does not parse, reports a failure, or breaks a rule above.

    """
    message, question = decode_message(reply), decode_message(asked)
    if isinstance(message.content, Failure):
        raise MalformedError(f"the device failed: {message.content.reason[:200]}")
    if message.metadata.message_type != question.metadata.message_type:
        raise MalformedError(
            f"a {message.metadata.message_type} reply to a {question.metadata.message_type} task"
        )
    arrays = _arrays(message)
    if question.metadata.message_type.startswith("train"):
        _check_arrays(arrays, _arrays(question))
    _check_weight(message)
    return message


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
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise MalformedError(f"array {name!r} holds values that are not finite")


def _check_weight(message: FlowerMessage) -> None:
    records = [] if isinstance(message.content, Failure) else list(message.content.values())
    metrics = [r for r in records if isinstance(r, MetricRecord)]
    if len(metrics) != 1:
        raise MalformedError(f"it holds {len(metrics)} metric records; one is needed")
    for name, value in metrics[0].items.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(n, int | float) and np.isfinite(n) for n in numbers):
            raise MalformedError(f"metric {name[:80]!r} is not a finite number")
    weight = metrics[0].items.get(WEIGHT_KEY)
    if not isinstance(weight, int | float) or not 0 < weight <= MAX_EXAMPLES:
        raise MalformedError(f"{WEIGHT_KEY} is {weight!r}; it must be 1 to {MAX_EXAMPLES}")


def _arrays(message: FlowerMessage) -> dict[str, NDArray[Any]]:
    records = [] if isinstance(message.content, Failure) else list(message.content.values())
    found = [r for r in records if isinstance(r, ArrayRecord)]
    if len(found) > 1:
        raise MalformedError(f"it holds {len(found)} array records; at most one may be")
    return dict(found[0].items) if found else {}
