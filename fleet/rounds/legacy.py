"""Flower apps written before its Message API: ``server_fn`` and ``NumPyClient``, unmodified.

Flower's old server asks each client from a thread of its own and takes the answers as they
come, so that neither what is sent together nor the order of sums would be the same twice.
Here a round is one push, and its results stand by ascending node.

Rule 1: nothing is changed but how clients are asked; clients that are not reached over our
        Grid are asked as before.
Rule 2: an old array is bytes without a name of its type; it is sent with its type and
        shape, which old clients do not look at and our checks do.
Rule 3: what is replaced is put back when the app ends.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import Result

# What of flwr is private, but in its place in 1.41 and 1.42: the _compat section.
from flwr.common import Code  # isort: skip
from flwr.compat.common import recorddict_compat as records  # isort: skip
from flwr.server import server as old_server  # isort: skip
from flwr.server.compat import app as old_app  # isort: skip
from flwr.server.compat.grid_client_proxy import GridClientProxy  # isort: skip

Asked = Sequence[tuple[Any, Any]]
Outcome = tuple[list[tuple[Any, Any]], list[Any]]


class OldApps:
    """While it is entered, old apps run through our Grid and leave their result.

    Args:
        results: Where the result of each old server is put.

    """

    def __init__(self, results: list[Result]) -> None:
        self._results = results

    def __enter__(self) -> None:
        self._before = (old_server.fit_clients, old_server.evaluate_clients, old_app.run_fl)
        fit, evaluate, run = self._before

        def fit_clients(
            client_instructions: Asked, max_workers: Any, timeout: float | None, group_id: int
        ) -> Outcome:
            if not _all_ours(client_instructions):
                outcome: Outcome = fit(client_instructions, max_workers, timeout, group_id)
                return outcome
            return _ask(client_instructions, "train", timeout, group_id)

        def evaluate_clients(
            client_instructions: Asked, max_workers: Any, timeout: float | None, group_id: int
        ) -> Outcome:
            if not _all_ours(client_instructions):
                outcome: Outcome = evaluate(client_instructions, max_workers, timeout, group_id)
                return outcome
            return _ask(client_instructions, "evaluate", timeout, group_id)

        def run_fl(server: Any, config: Any) -> Any:
            history = run(server, config)
            arrays = _typed(records.parameters_to_arrayrecord(server.parameters, keep_input=True))
            self._results.append(Result(arrays=arrays))
            return history

        old_server.fit_clients, old_server.evaluate_clients = fit_clients, evaluate_clients
        old_app.run_fl = run_fl

    def __exit__(self, *_: object) -> None:
        old_server.fit_clients, old_server.evaluate_clients, old_app.run_fl = self._before


def _all_ours(asked: Asked) -> bool:
    return bool(asked) and all(isinstance(client, GridClientProxy) for client, _ in asked)


def _ask(asked: Asked, kind: str, timeout: float | None, group_id: int) -> Outcome:
    """Send a round as one push; return results and failures by ascending node."""
    write, read = _TRANSLATED[kind]
    clients = {client.node_id: client for client, _ in asked}
    grid = asked[0][0].grid
    replies = {
        reply.metadata.src_node_id: reply
        for reply in grid.send_and_receive(
            [
                Message(
                    content=write(instruction),
                    message_type=kind,
                    dst_node_id=client.node_id,
                    group_id=str(group_id) if group_id else "",
                    ttl=timeout,
                )
                for client, instruction in asked
            ]
        )
    }
    results: list[tuple[Any, Any]] = []
    failures: list[Any] = []
    for node in sorted(clients):
        reply = replies.get(node)
        if reply is None or reply.has_error():
            failures.append(ValueError(reply.error.reason if reply else "it did not answer"))
            continue
        try:
            result = (clients[node], read(reply.content))
        except (KeyError, TypeError, ValueError) as why:
            failures.append(ValueError(f"not what an old client answers: {why!r}"))
            continue
        (results if result[1].status.code == Code.OK else failures).append(result)
    return results, failures


def _fit(instruction: Any) -> RecordDict:
    return _all_typed(records.fitins_to_recorddict(instruction, keep_input=True))


def _evaluate(instruction: Any) -> RecordDict:
    return _all_typed(records.evaluateins_to_recorddict(instruction, keep_input=True))


def _fitted(content: RecordDict) -> Any:
    return records.recorddict_to_fitres(content, keep_input=True)


_TRANSLATED: dict[str, tuple[Callable[[Any], RecordDict], Callable[[RecordDict], Any]]] = {
    "train": (_fit, _fitted),
    "evaluate": (_evaluate, records.recorddict_to_evaluateres),
}


def _all_typed(content: RecordDict) -> RecordDict:
    for name, record in list(content.array_records.items()):
        content[name] = _typed(record)
    return content


def _typed(record: ArrayRecord) -> ArrayRecord:
    return ArrayRecord(
        {name: Array(_read(array)) for name, array in record.items() if len(array.data)}
    )


def _read(array: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.load(io.BytesIO(array.data), allow_pickle=False)
    return found
