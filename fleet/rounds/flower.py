"""The Flower child: an ordinary ServerApp drives devices that it reaches over two pipes.

``rounds.host`` starts it through ``rounds.apart``, in an environment that names no key and
no registry. ``MqttGrid`` is what the app sees of the fleet; the
manager behind the pipe signs, publishes, waits and journals.

Rule 1: the same ``Begin`` gives the same messages, byte for byte: random seeds, node
        order and every time stamp are fixed, because a restarted run is replayed.
Rule 2: replies reach the strategy in ascending order of their nodes, so that sums of
        floats come out the same however the answers arrived.
Rule 3: the app's own output goes to standard error; the pipe carries words alone.

A run that names neither app nor strategy was started before there were strategies: it goes
on with ``FedAvg`` of flwr, unmodified (McMahan et al. 2017, arXiv 1602.05629).
"""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result, Strategy

# What of flwr is private, but stable in its place from 1.21 to 1.42: the _compat section.
from flwr.common.serde import message_from_proto, message_to_proto  # isort: skip
from flwr.proto.message_pb2 import Message as ProtoMessage  # isort: skip
from flwr.supercore.run import Run  # isort: skip

from fleet.rounds.alike import Alike
from fleet.rounds.legacy import OldApps
from fleet.rounds.pipe import Begin, Done, Instruction, ManagerGoneError, Push, Replies
from fleet.rounds.project import read_project
from fleet.rounds.widths import Widths

SERVER_NODE = 1
NO_REPLY_CODE = 2
KINDS = ("train", "evaluate")
WAITS_SECONDS, WAITS_CALLS = 60.0, 20
"""An app that looks so often and so long for devices, and sends nothing, waits for more."""
Say = Callable[[Push], None]


def _set_identity(run_id: int) -> None:
    try:
        from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415 - older versions have none
    except ImportError:  # before flwr 1.38 messages need none
        return
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, SERVER_NODE, 1


class MqttGrid(Grid):  # type: ignore[misc]  # flwr is not followed by mypy
    """Flower's Grid over the manager's pipe; ``send_and_receive`` waits for its replies."""

    def __init__(
        self,
        begin: Begin,
        say: Say,
        hear: Callable[[], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._begin, self._clock = begin, clock
        self._thread = threading.get_ident()
        self._looks, self._looks_since = 0, 0.0
        self._say, self._hear = say, hear
        self._ordinal = self._declined = 0
        self._waiting: dict[str, Message] = {}
        self._run: Any = None
        self.widths = Widths()

    def set_run(self, run: Any) -> None:
        """Take the run that messages belong to."""
        self._run = run
        _set_identity(self._begin.run_id)

    @property
    def run(self) -> Any:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message for one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the participants, fixed when the run started.

        Raises:
            ValueError: The app only waits for more of them.

        """
        nodes = list(self._begin.nodes)
        if threading.get_ident() == self._thread:
            now = self._clock()
            self._looks_since = self._looks_since if self._looks else now
            self._looks += 1
            if self._looks > WAITS_CALLS and now - self._looks_since > WAITS_SECONDS:
                raise ValueError(
                    f"it waits for more devices than the {len(nodes)} that take part; "
                    "none joins a run that has begun"
                )
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and wait for their replies, which ``pull_messages`` then returns.

        What is neither training nor evaluation is answered here: no device takes it.
        """
        everything = list(messages)
        self._looks = 0
        declined = [self._decline(m) for m in everything if not _is_taken(m)]
        sent = [m for m in everything if _is_taken(m)]
        return [*declined, *self._ask(sent)] if sent else declined

    def _ask(self, sent: list[Message]) -> list[str]:
        self._ordinal += 1
        by_node: dict[int, Message] = {}
        instructions = []
        self.widths.new_push()
        for message in sent:
            proto = self._proto(message)
            node = message.metadata.dst_node_id
            name = f"{self._ordinal}.{node}"
            proto.metadata.run_id = self._begin.run_id
            proto.metadata.message_id = name
            proto.metadata.src_node_id = SERVER_NODE
            proto.metadata.created_at = self._begin.started_ms / 1000 + self._ordinal
            by_node[node] = message_from_proto(proto)
            instructions.append(
                Instruction(
                    node=node,
                    kind=proto.metadata.message_type,
                    content=proto.SerializeToString(deterministic=True),
                )
            )
        if len(by_node) != len(sent):
            raise ValueError("two messages of one push go to the same node")
        self._say(Push(ordinal=self._ordinal, instructions=tuple(instructions)))
        for reply in self._replies():
            asked = by_node[reply.node]
            self._waiting[asked.metadata.message_id] = _reply_message(
                asked, reply.content, reply.why
            )
        return [m.metadata.message_id for m in by_node.values()]

    def _proto(self, message: Message) -> Any:
        own = message.content
        message.content = self.widths.narrow(own)
        try:
            return message_to_proto(message)
        finally:
            message.content = own

    def _decline(self, message: Message) -> str:
        self._declined += 1
        proto = message_to_proto(message)
        proto.metadata.message_id = f"declined.{self._declined}"
        asked, kind = message_from_proto(proto), message.metadata.message_type
        why = f"no device takes {kind!r}: they take {' and '.join(KINDS)}"
        self._waiting[asked.metadata.message_id] = _reply_message(asked, None, why)
        return f"declined.{self._declined}"

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that came, once each."""
        return [self._waiting.pop(i) for i in list(message_ids) if i in self._waiting]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies by ascending node; how long is waited is the manager's rule."""
        del timeout
        replies = self.pull_messages(self.push_messages(messages))
        return sorted(replies, key=lambda m: m.metadata.src_node_id)

    def _replies(self) -> Iterable[Any]:
        word = self._hear()
        if word is None:
            raise ManagerGoneError
        if not isinstance(word, Replies) or word.ordinal != self._ordinal:
            raise ValueError(f"the manager answered something else than push {self._ordinal}")
        return word.replies


def _is_taken(message: Message) -> bool:
    return message.metadata.message_type.partition(".")[0] in KINDS


def _reply_message(asked: Message, content: bytes | None, why: str) -> Message:
    if content is None:
        return Message(Error(code=NO_REPLY_CODE, reason=why), reply_to=asked)
    proto = ProtoMessage.FromString(content)
    # who answered is what the manager verified, not what the device wrote
    proto.metadata.src_node_id = asked.metadata.dst_node_id
    proto.metadata.dst_node_id = SERVER_NODE
    proto.metadata.reply_to_message_id = asked.metadata.message_id
    proto.metadata.message_id = f"{asked.metadata.message_id}.reply"
    return message_from_proto(proto)


def run_app(begin: Begin, say: Say, hear: Callable[[], Any]) -> Done:
    """Drive one app through a Grid over the pipe and return its last word.

    Raises:
        ManagerGoneError: The pipe ended.
        Exception: Whatever the app raises.

    """
    return _run_app(begin, MqttGrid(begin, say, hear))


def _run_app(begin: Begin, grid: MqttGrid) -> Done:
    random.seed(begin.seed)
    np.random.seed(begin.seed)  # noqa: NPY002 -- apps and strategies use the global generator
    _set_identity(begin.run_id)
    grid.set_run(Run.create_empty(begin.run_id))
    context = Context(
        run_id=begin.run_id,
        node_id=SERVER_NODE,
        node_config={},
        state=RecordDict(),
        run_config=_run_config(begin),
    )
    context.state["arrays"] = _arrays(begin)
    own = not (begin.app or begin.app_folder)
    app = _head_app(begin) if own else _operators_app(begin)
    results: list[Result] = []
    with _Overheard(results), OldApps(results), Alike():
        app(grid, context)
    if not results:
        raise ValueError("the app ended without running a strategy")
    arrays, metrics = results[-1].arrays, results[-1].train_metrics_clientapp
    if not arrays:
        raise ValueError("its strategy made no arrays in any round")
    final = RecordDict({"arrays": grid.widths.record(arrays)})
    proto = message_to_proto(Message(final, SERVER_NODE, "train"))
    proto.metadata.created_at = begin.started_ms / 1000
    last = metrics[max(metrics)] if metrics else {}
    return Done(
        arrays=proto.SerializeToString(deterministic=True),
        metrics={k: float(v) for k, v in last.items() if isinstance(v, int | float)},
    )


def _run_config(begin: Begin) -> dict[str, Any]:
    """Return what the run asks, below what the app's folder asks, below the rounds."""
    project = read_project(Path(begin.app_folder)) if begin.app_folder else None
    own = project.settings if project else {}
    return {**begin.settings, **own, "num-server-rounds": begin.rounds}


def _arrays(begin: Begin) -> ArrayRecord:
    message = message_from_proto(ProtoMessage.FromString(begin.arrays))
    arrays = message.content["arrays"]
    if not isinstance(arrays, ArrayRecord):
        raise TypeError("the run starts without arrays")
    return arrays


def _head_app(begin: Begin) -> ServerApp:
    """Return the built-in app: federated averaging of heads, no evaluation in between."""
    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]  # flwr is not followed by mypy
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_evaluate=0.0,
            min_train_nodes=len(begin.nodes),
            min_available_nodes=len(begin.nodes),
        )
        strategy.start(
            grid=grid,
            initial_arrays=context.state["arrays"],
            num_rounds=begin.rounds,
            train_config=ConfigRecord(dict(begin.settings)),
        )

    return app


def _operators_app(begin: Begin) -> Callable[[Grid, Context], None]:
    named = begin.app
    if begin.app_folder:
        sys.path.insert(0, begin.app_folder)
        project = read_project(Path(begin.app_folder))
        named = named or (project.server_app if project else "")
    if not named:
        raise ValueError(f"{begin.app_folder} names no serverapp in its pyproject.toml")
    module, _, attribute = named.partition(":")
    app: Callable[[Grid, Context], None] = getattr(import_module(module), attribute or "app")
    if not callable(app):
        raise TypeError(f"{named} is no ServerApp")
    return app


class _Overheard:
    """Notes the result of every strategy, because an ordinary app returns nothing."""

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    def __enter__(self) -> None:
        self._original = original = Strategy.start
        results = self._results

        def start(strategy: Strategy, *arguments: Any, **named: Any) -> Result:
            result = original(strategy, *arguments, **named)
            results.append(result)
            return result

        Strategy.start = start

    def __exit__(self, *_: object) -> None:
        Strategy.start = self._original
