"""Flower's ClientApp: which function of an app answers a message.

Source: flwr.clientapp of flwr 1.41, whose names and behaviour these are.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from agent.learn.stand_in.legacy import NumPyClient, answer_legacy
from agent.learn.stand_in.messages import Context, Message

Answers = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Answers], Message]
Register = Callable[[Answers], Answers]
DEFAULT_ACTION = "default"


class ClientApp:
    """An app with functions for messages (``@app.train()``), or with a legacy ``client_fn``."""

    def __init__(
        self, client_fn: Callable[..., Any] | None = None, mods: list[Mod] | None = None
    ) -> None:
        self._mods = list(mods or [])
        self._functions: dict[str, Answers] = {}
        self._lifespan: Callable[[Context], AbstractContextManager[None]] = lambda _: nullcontext()
        self._legacy: Answers | None = None
        if client_fn is not None:
            self._legacy = _modified(_legacy_answers(client_fn), self._mods)

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        with self._lifespan(context):
            if self._legacy is not None:
                return self._legacy(message, context)
            category, _, action = message.metadata.message_type.partition(".")
            answers = self._functions.get(f"{category}.{action or DEFAULT_ACTION}")
            if answers is None:
                raise ValueError(
                    f"No {category} function registered with name '{action or DEFAULT_ACTION}'"
                )
            return answers(message, context)

    def train(self, action: str = DEFAULT_ACTION, *, mods: list[Mod] | None = None) -> Register:
        """Register a function that trains."""
        return self._register("train", action, mods)

    def evaluate(self, action: str = DEFAULT_ACTION, *, mods: list[Mod] | None = None) -> Register:
        """Register a function that evaluates."""
        return self._register("evaluate", action, mods)

    def query(self, action: str = DEFAULT_ACTION, *, mods: list[Mod] | None = None) -> Register:
        """Register a function that answers a question."""
        return self._register("query", action, mods)

    def lifespan(
        self,
    ) -> Callable[[Callable[[Context], Iterator[None]]], Callable[[Context], Iterator[None]]]:
        """Register what goes on around each message: a generator that yields once."""

        def register(
            function: Callable[[Context], Iterator[None]],
        ) -> Callable[[Context], Iterator[None]]:
            self._lifespan = contextmanager(function)
            return function

        return register

    def _register(self, category: str, action: str, mods: list[Mod] | None) -> Register:
        if self._legacy is not None:
            raise ValueError("use either `client_fn` or the decorators of a ClientApp, not both")

        def register(function: Answers) -> Answers:
            self._functions[f"{category}.{action}"] = _modified(
                function, [*self._mods, *(mods or [])]
            )
            return function

        return register


def _modified(answers: Answers, mods: list[Mod]) -> Answers:
    for mod in reversed(mods):
        answers = _wrapped(mod, answers)
    return answers


def _wrapped(mod: Mod, answers: Answers) -> Answers:
    return lambda message, context: mod(message, context, answers)


def _legacy_answers(client_fn: Callable[..., Any]) -> Answers:
    arguments = list(inspect.signature(client_fn).parameters.values())
    if len(arguments) != 1:
        raise ValueError("A `client_fn` has the form `def client_fn(context: Context)`.")
    by_name = arguments[0].annotation is str or arguments[0].name == "cid"

    def answers(message: Message, context: Context) -> Message:
        name = str(context.node_config.get("partition-id", context.node_id))
        client = client_fn(name if by_name else context)
        return answer_legacy(
            client.to_client() if isinstance(client, NumPyClient) else client, message
        )

    return answers
