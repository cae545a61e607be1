"""The built-in *head* trainer: a softmax layer on embeddings of the int8 backbone.

Rule 1: only *train* windows teach; quality is counted on *decide* and *withheld*.
Rule 2: an anchor pulls the head towards the one that was received, or towards the running
        release's where the message brings it along: that pull does not give way from round
        to round, so that what devices learn costs others as little as possible.
Rule 3: a reply holds the new head, a count and figures; never a window or an embedding.

Embeddings are standardised by the device's own train windows before training, and the
standardisation is folded back into the head, which stays a plain linear layer. The
anchor is the proximal term of FedProx (Li et al. 2020, arXiv 1812.06127) in that
standardised space, where a weight counts as much as the feature it multiplies varies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.contract.limits import MAX_ANCHOR, MAX_EPOCHS, MAX_LEARNING_RATE
from agent.contract.messages import Quality
from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    Failure,
    FlowerMessage,
    MetricRecord,
    Record,
    decode_message,
    encode_message,
)
from agent.errors import MalformedError, ModelError
from agent.learn.samples import LabelledWindows, Split

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Windows (n, channels, samples) float32 in, embeddings (n, width) float32 out."""

WEIGHT, BIAS = "weight", "bias"
_FLOOR = 1e-3  # of a feature's deviation, so that a constant feature divides by no zero


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """``probabilities = softmax(embedding @ weight.T + bias)``.

    Attributes:
        weight: (classes, width) float32.
        bias: (classes,) float32.

    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def answers(self, embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the class (n,) of each embedding (n, width)."""
        return np.asarray((embeddings @ self.weight.T + self.bias).argmax(axis=1), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadTraining:
    """How a head is trained: full-batch gradient descent.

    Attributes:
        learning_rate: Above 0, at most 10.
        epochs: 1 to 2000 steps.
        anchor: Strength of the pull towards the head that was received, or the running one;
            0 to 100.

    """

    learning_rate: float = 0.5
    epochs: int = 100
    anchor: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= MAX_LEARNING_RATE or not 1 <= self.epochs <= MAX_EPOCHS:
            raise MalformedError(
                f"a head cannot be trained with rate {self.learning_rate}, {self.epochs} epochs"
            )
        if not 0 <= self.anchor <= MAX_ANCHOR:
            raise MalformedError(f"an anchor of {self.anchor} is not within 0 and {MAX_ANCHOR}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a task produced: the Flower reply and the figures that go into ``TaskAnswer``.

    ``decide`` and ``withheld`` are the quality of the head in the message (for a *train*
    task the one received, before training; for *evaluate* the candidate);
    the ``_running`` pair is that of the running head, when an *evaluate* message carries it.
    """

    reply: bytes
    decide: Quality
    withheld: Quality
    decide_running: Quality | None = None
    withheld_running: Quality | None = None


def answer_task(message: bytes, kind: str, embed: Embed, samples: LabelledWindows) -> Answered:
    """Do one task of a federated round and return its answer.

    Args:
        message: The Flower message that is the task's attachment.
        kind: ``train`` or ``evaluate``, as in the signed ``Task``.
        embed: The backbone; called once per split.
        samples: The device's own windows.

    Raises:
        ContractError: The message does not parse, or does not hold a head that fits.
        ModelError: Training produced weights that are not finite.

    """
    asked = decode_message(message)
    if isinstance(asked.content, Failure) or asked.metadata.message_type != kind:
        raise MalformedError(f"a {kind} task came with a message of another kind")
    head = _read_head(asked.content, "arrays")
    running = _read_head(asked.content, "running") if "running" in asked.content else None
    if running is not None and running.weight.shape != head.weight.shape:
        raise MalformedError("the running head and the candidate are of different shapes")
    decide = _embedded(samples, Split.DECIDE, embed, head)
    withheld = _embedded(samples, Split.WITHHELD, embed, head)
    if kind == "train":
        x, y = _embedded(samples, Split.TRAIN, embed, head)
        content = _trained(head, running, x, y, _read_training(asked.content))
        running = None
    else:
        content = _evaluated(count_right(head, *decide))
    return Answered(
        reply=encode_message(_reply(asked, content)),
        decide=count_right(head, *decide),
        withheld=count_right(head, *withheld),
        decide_running=count_right(running, *decide) if running else None,
        withheld_running=count_right(running, *withheld) if running else None,
    )


def train_head(
    head: LinearHead,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    training: HeadTraining,
    towards: LinearHead | None = None,
) -> LinearHead:
    """Return the head after training.

    Args:
        head: Where training starts.
        x: Embeddings (n, width) float32.
        y: Classes (n,) int64, each below the head's number of classes.
        training: Rate, epochs and anchor.
        towards: What the anchor pulls towards, of the shapes of ``head``; None is ``head``.

    Raises:
        ModelError: There is nothing to train on, or the weights are not finite.

    """
    classes = len(head.bias)
    if not len(y) or y.max() >= classes:
        raise ModelError(f"{len(y)} train windows with labels that {classes} classes do not hold")
    wide = x.astype(np.float64)
    mean, deviation = wide.mean(axis=0), wide.std(axis=0) + _FLOOR
    features = np.column_stack([(wide - mean) / deviation, np.ones(len(y))])
    found = _in_features(head, mean, deviation)
    still = found.copy() if towards is None else _in_features(towards, mean, deviation)
    wanted = np.eye(classes)[y]
    with np.errstate(over="ignore", invalid="ignore"):  # what grows without bound is refused
        for _ in range(training.epochs):
            slope = (_softmax(features @ found.T) - wanted).T @ features / len(y)
            found -= training.learning_rate * (slope + training.anchor * (found - still))
        weight = found[:, :-1] / deviation
        bias = found[:, -1] - weight @ mean
        made = LinearHead(weight=weight.astype(np.float32), bias=bias.astype(np.float32))
    if not np.isfinite(made.weight).all() or not np.isfinite(made.bias).all():
        raise ModelError("training produced weights that are not finite")
    return made


def _in_features(
    head: LinearHead, mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the head (classes, width + 1) that says the same of standardised embeddings."""
    weight, bias = head.weight.astype(np.float64), head.bias.astype(np.float64)
    return np.column_stack([weight * deviation, bias + weight @ mean])


def count_right(head: LinearHead, x: NDArray[np.float32], y: NDArray[np.int64]) -> Quality:
    """Return how many embeddings (n, width) the head names as labelled."""
    right = int(np.count_nonzero(head.answers(x) == y)) if len(y) else 0
    return Quality(right=right, windows=len(y))


def _embedded(
    samples: LabelledWindows, split: Split, embed: Embed, head: LinearHead
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    windows, y = samples.of(split)
    width = head.weight.shape[1]
    x = embed(windows) if len(windows) else np.zeros((0, width), np.float32)
    if x.shape != (len(y), width):
        raise MalformedError(f"a head of width {width} does not fit embeddings of shape {x.shape}")
    return x, y


def _evaluated(figures: Quality) -> dict[str, Record]:
    return {
        "metrics": MetricRecord({"num-examples": figures.windows, "accuracy": figures.accuracy})
    }


def _trained(
    head: LinearHead,
    towards: LinearHead | None,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    training: HeadTraining,
) -> dict[str, Record]:
    made = train_head(head, x, y, training, towards)
    chances = _softmax((x @ made.weight.T + made.bias).astype(np.float64))
    loss = -np.log(np.maximum(chances[np.arange(len(y)), y], 1e-12)).mean()
    figures = {
        "num-examples": len(y),
        "train-loss": float(loss),
        "train-accuracy": count_right(made, x, y).accuracy,
    }
    return {
        "arrays": ArrayRecord({WEIGHT: made.weight, BIAS: made.bias}),
        "metrics": MetricRecord(figures),
    }


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _reply(asked: FlowerMessage, content: Mapping[str, Record]) -> FlowerMessage:
    metadata = replace(
        asked.metadata,
        message_id="",
        src_node_id=asked.metadata.dst_node_id,
        dst_node_id=asked.metadata.src_node_id,
        reply_to_message_id=asked.metadata.message_id,
        src_task_id=asked.metadata.dst_task_id,
        dst_task_id=asked.metadata.src_task_id,
    )
    return FlowerMessage(metadata=metadata, content=content)


def _read_head(content: Mapping[str, Record], name: str) -> LinearHead:
    record = content.get(name)
    arrays: Mapping[str, NDArray[Any]] = record.items if isinstance(record, ArrayRecord) else {}
    if arrays.keys() != {WEIGHT, BIAS}:
        raise MalformedError(f"record {name!r} holds {sorted(arrays)[:8]}, not a weight and a bias")
    weight, bias = arrays[WEIGHT], arrays[BIAS]
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or not weight.size:  # noqa: PLR2004 - a matrix
        raise MalformedError(f"a head of shapes {weight.shape} and {bias.shape} cannot be")
    for array in (weight, bias):
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise MalformedError(f"record {name!r} is {array.dtype} or not finite, not float32")
    return LinearHead(weight=weight, bias=bias)


def _read_training(content: Mapping[str, Record]) -> HeadTraining:
    record = content.get("config")
    given = record.items if isinstance(record, ConfigRecord) else {}
    ordinary = HeadTraining()
    rate = given.get("learning-rate", ordinary.learning_rate)
    epochs = given.get("epochs", ordinary.epochs)
    anchor = given.get("anchor", ordinary.anchor)
    if (
        not isinstance(rate, float | int)
        or not isinstance(epochs, int)
        or not isinstance(anchor, float | int)
    ):
        raise MalformedError("learning-rate, epochs and anchor must be numbers")
    return HeadTraining(learning_rate=float(rate), epochs=epochs, anchor=float(anchor))
