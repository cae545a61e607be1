"""The built-in Flower program: rounds of training under one strategy, without flwr itself.

It speaks Flower's messages to the devices, as any other program does, through the manager's
pipe; see ``rounds.flower`` for the programs that operators bring.

Rule 1: the same ``Begin`` and the same replies give the same messages, byte for byte:
        a restarted run is replayed.
Rule 2: replies are taken in ascending order of their nodes, one at a time; means hold
        none of them, robust rules put them into a file.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.contract import wireformat as wire
from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    Failure,
    FlowerMessage,
    Metadata,
    MetricRecord,
    Record,
    decode_message,
    encode_message,
)
from fleet.errors import RefusedError
from fleet.rounds.aggregate import Arrays, Delta, Mean, require_floats
from fleet.rounds.events import ANCHOR_TO
from fleet.rounds.fedbuff import Versions
from fleet.rounds.pipe import (
    MAX_FRAME_BYTES,
    Begin,
    Crashed,
    Done,
    Fetch,
    Fetched,
    Instruction,
    ManagerGoneError,
    Push,
    Replies,
    ToChild,
)
from fleet.rounds.robust import Gathered, robust_step
from fleet.rounds.screen import BESIDE, WEIGHT_KEY
from fleet.rounds.server_step import ServerStep
from fleet.rounds.strategies import ROBUST, Strategy

SERVER_NODE: Final = 1
ARRAYS, CONFIG = "arrays", "config"
Content = bytes | memoryview
Word = Push | Fetch | Done | Crashed
Say = Callable[[Word], None]
Hear = Callable[[], ToChild | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one node learned: its arrays, views of the reply's bytes, and how much they weigh.

    ``asked`` is the push whose model it started from.
    """

    arrays: Arrays
    examples: float
    metrics: dict[str, float]
    asked: int


@dataclass(slots=True)
class Figures:
    """The train metrics of a round, weighted by examples."""

    examples: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, update: Update) -> None:
        """Take those of one update; what not every update has is left out at the end."""
        fresh = not self.examples
        known = update.metrics.keys() if fresh else self.sums.keys() & update.metrics.keys()
        self.sums = {
            k: self.sums.get(k, 0.0) + update.examples * update.metrics[k] for k in sorted(known)
        }
        self.examples += update.examples

    def means(self) -> dict[str, float]:
        """Return the means."""
        return {k: total / self.examples for k, total in self.sums.items()}


def run_builtin(begin: Begin, strategy: Strategy, say: Say, hear: Hear) -> Done:
    """Drive the rounds of one run and return its last word.

    Raises:
        RefusedError: The arrays cannot be averaged, or the replies make no model.
        ManagerGoneError: The pipe ended.

    """
    model = _first_model(begin)
    require_floats(model)
    first = model if begin.settings.get(ANCHOR_TO) == "running" else None
    optimiser, versions = ServerStep(strategy), Versions()
    means: dict[str, float] = {}
    for ordinal in range(1, begin.rounds + 1):
        say(_push(begin, ordinal, model, first))
        updates = _updates(ordinal, say, hear)
        if begin.buffer:
            versions.keep(ordinal, model)
            delta, means = _buffered(versions, ordinal, updates)
        else:
            delta, means = _aggregate(strategy, model, updates)
        model = optimiser.take(model, delta)
        del delta
    last = FlowerMessage(
        metadata=_metadata(begin, "final", SERVER_NODE, 0), content={ARRAYS: ArrayRecord(model)}
    )
    return Done(arrays=encode_message(last), metrics=means)


def _aggregate(
    strategy: Strategy, model: Arrays, updates: Iterator[Update]
) -> tuple[Delta, dict[str, float]]:
    figures = Figures()
    if strategy.name in ROBUST:
        with Gathered(model) as gathered:
            for update in updates:
                gathered.add(update.arrays)
                figures.add(update)
                del update  # before the next is read: each is as large as the model
            return robust_step(gathered, strategy), figures.means()
    with Mean(model) as mean:
        for update in updates:
            mean.fold(update.arrays, update.examples)
            figures.add(update)
            del update  # as above
        return mean.step(), figures.means()


def _buffered(
    versions: Versions, ordinal: int, updates: Iterator[Update]
) -> tuple[Delta, dict[str, float]]:
    figures = Figures()

    def each() -> Iterator[tuple[int, Arrays]]:
        for update in updates:
            figures.add(update)
            yield update.asked, update.arrays

    return versions.step(ordinal, each()), figures.means()


def _push(begin: Begin, ordinal: int, model: Arrays, anchor: Arrays | None) -> Push:
    """Return the message to every node: its own metadata, and content that all share."""
    settings = ConfigRecord({**begin.settings, "server-round": ordinal})
    content: dict[str, Record] = {ARRAYS: ArrayRecord(model), CONFIG: settings}
    if anchor is not None:
        content[BESIDE] = ArrayRecord(anchor)
    instructions, shared = [], b""
    for node in begin.nodes:
        metadata = _metadata(begin, f"{ordinal}.{node}", node, ordinal)
        if not shared:
            whole = encode_message(FlowerMessage(metadata=metadata, content=content))
            shared = whole[_first_field_bytes(whole) :]
            del whole
        empty = encode_message(FlowerMessage(metadata=metadata, content={}))
        head = empty[: _first_field_bytes(empty)]
        instructions.append(Instruction(node=node, kind="train", content=head))
    return Push(ordinal=ordinal, instructions=tuple(instructions), shared=shared)


def _first_field_bytes(message: bytes) -> int:
    """Return how many bytes a message's metadata takes, with tag and length."""
    _, value = next(wire.read_fields(memoryview(message)))
    size = len(wire.read_bytes(value))
    return 1 + len(wire.write_varint(size)) + size


def _updates(ordinal: int, say: Say, hear: Hear) -> Iterator[Update]:
    word = hear()
    if word is None:
        raise ManagerGoneError
    if not isinstance(word, Replies) or word.ordinal != ordinal:
        raise ValueError(f"the manager answered something else than push {ordinal}")
    for reply in sorted(word.replies, key=lambda r: (r.node, r.asked)):
        asked = reply.asked or ordinal
        if reply.spooled:
            say(Fetch(ordinal=asked, node=reply.node))
            yield _update(_fetched(asked, reply.node, hear()), asked)
        elif reply.content is not None:
            yield _update(reply.content, asked)


def _fetched(ordinal: int, node: int, word: ToChild | None) -> Content:
    if word is None:
        raise ManagerGoneError
    if not isinstance(word, Fetched) or (word.ordinal, word.node) != (ordinal, node):
        raise ValueError(f"the manager sent something else than the reply of node {node}")
    return word.content


def _update(reply: Content, asked: int) -> Update:
    """Return what a reply holds, which the manager has screened."""
    content = decode_message(reply, limit=MAX_FRAME_BYTES).content  # type: ignore[arg-type]  # it takes any buffer
    if isinstance(content, Failure):
        raise RefusedError("a reply that failed was counted as good")
    metrics = next(r for r in content.values() if isinstance(r, MetricRecord)).items
    examples = metrics[WEIGHT_KEY]
    if not isinstance(examples, int | float):
        raise RefusedError(f"{WEIGHT_KEY} is {examples!r}")
    return Update(
        arrays=next(r for r in content.values() if isinstance(r, ArrayRecord)).items,
        examples=float(examples),
        metrics={
            k: float(v)
            for k, v in metrics.items()
            if isinstance(v, int | float) and k != WEIGHT_KEY
        },
        asked=asked,
    )


def _first_model(begin: Begin) -> dict[str, NDArray[Any]]:
    content = decode_message(begin.arrays, limit=MAX_FRAME_BYTES).content
    record = None if isinstance(content, Failure) else content.get(ARRAYS)
    if not isinstance(record, ArrayRecord):
        raise RefusedError("the run starts without arrays")
    return {name: np.ascontiguousarray(array) for name, array in record.items.items()}


def _metadata(begin: Begin, name: str, node: int, ordinal: int) -> Metadata:
    return Metadata(
        run_id=begin.run_id,
        message_id=name,
        src_node_id=SERVER_NODE,
        dst_node_id=node,
        message_type="train",
        group_id=str(ordinal) if ordinal else "",
        created_at=begin.started_ms / 1000 + ordinal,
    )
