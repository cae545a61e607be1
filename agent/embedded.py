"""The agent inside of another Python program: the same agent, started and asked in process.

    from agent.embedded import Agent

    with Agent("agent.toml") as agent:
        agent.wait("motion", seconds=60)
        said = agent.infer("motion", window)
        print(said.label, said.confidence)

Rule 1: it is the whole agent: it enrolled before, holds the lock of its state directory, and
        updates, watches and reports as the service does. Only signals stay the program's own.
Rule 2: every method may be called from any thread. Errors are those of ``agent.errors``.
Rule 3: arrays are handed over by reference; neither side changes them.
Rule 4: importing this costs what the configuration costs; the agent itself is imported when
        it starts.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike

from agent.config import Config
from agent.config_file import load_config
from agent.contract.manifest import Tensor
from agent.errors import InputRefusedError, NotServingError, StoppedError, UnknownModelError
from agent.infer.requests import Offered, Request, Response, Stream
from agent.infer.runtime import Array

if TYPE_CHECKING:
    from agent.daemon.running import Running
    from agent.infer.labelling import Taken

LONGEST_STOP_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.02


class Agent:
    """An agent of this process, from ``start`` to ``stop``, or for as long as a ``with`` lasts.

    Args:
        config: The file that ``fieldfare-agent run --config`` takes, or what was read from it.

    Raises:
        ConfigError: The file is wrong.

    """

    def __init__(self, config: Path | str | Config) -> None:
        self._config = config if isinstance(config, Config) else load_config(Path(config))
        self._held = ExitStack()
        self._running: Running | None = None
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Start the agent in a thread of its own; what ran before is loaded soon after.

        Raises:
            PlatformError: This machine is not a 64-bit Linux.
            BusyError: Another agent works on the state directory.
            EnrolmentError: The device is not enrolled: ``fieldfare-agent enrol`` first.
            AgentError: Whatever else keeps it from starting.

        """
        if self._running is not None:
            return
        from agent.daemon.running import opened_agent  # noqa: PLC0415 -- rule 4

        self._running = self._held.enter_context(opened_agent(self._config, {}))
        self._thread = Thread(target=self._running.loop.run, name="fieldfare-agent", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the agent in order: models are closed, reports flushed, the lock released.

        Raises:
            StoppedError: It has not ended after ``LONGEST_STOP_SECONDS``, and keeps its lock.

        """
        running, thread = self._running, self._thread
        if running is None or thread is None:
            return
        running.loop.stop("shutdown")
        thread.join(LONGEST_STOP_SECONDS)
        if thread.is_alive():
            raise StoppedError(f"the agent has not ended after {LONGEST_STOP_SECONDS:g} s")
        self._running = self._thread = None
        self._held.close()

    def models(self) -> tuple[Offered, ...]:
        """Return every slot of the configuration, with the model that answers there, if any."""
        return self._live().inference.offered()

    def wait(self, slot: str, *, seconds: float) -> Offered:
        """Return a slot as soon as its model answers.

        Raises:
            UnknownModelError: The configuration has no such slot.
            NotServingError: It has no model after so many seconds.

        """
        end = time.monotonic() + seconds
        while True:
            offered = {model.slot: model for model in self.models()}
            if slot not in offered:
                known = ", ".join(offered) or "none"
                raise UnknownModelError(f"there is no model {slot[:80]!r} here; there is {known}")
            if offered[slot].ready:
                return offered[slot]
            if time.monotonic() >= end:
                raise NotServingError(f"slot {slot} has no model after {seconds:g} s")
            time.sleep(_LOOK_AGAIN_SECONDS)

    def infer(
        self,
        slot: str,
        inputs: Mapping[str, ArrayLike] | ArrayLike,
        *,
        outputs: tuple[str, ...] = (),
        stream: Stream | None = None,
    ) -> Response:
        """Ask a slot's model, and wait for its answer.

        Args:
            slot: As in ``[pipeline.<slot>]``.
            inputs: Arrays by input name, or the one input's array. Lists and plain numbers
                take the model's type; an array must have it.
            outputs: Those wanted; all without.
            stream: Whose state goes on, for a recurrent model.

        Raises:
            UnknownModelError: No such slot.
            NotServingError: It has no model yet.
            InputRefusedError: The inputs do not fit the model, or an output is unknown.
            ModelError: The model failed.

        """
        inference = self._live().inference
        offered = next((model for model in inference.offered() if model.slot == slot), None)
        given = _arrays(inputs, offered.inputs if offered else ())
        return inference.request(slot, Request(inputs=given, outputs=outputs, stream=stream))

    def feedback(self, slot: str, prediction: str, label: str, *, row: int = 0) -> "Taken":
        """Say what a prediction should have been; see ``[feedback]`` in the configuration.

        Args:
            slot: Where it was made.
            prediction: ``Response.id``.
            label: The name of a class.
            row: Of a batch.

        Raises:
            NoFeedbackError: ``[feedback]`` is not set.
            UnknownModelError: No such slot.
            UnknownPredictionError: No such prediction is remembered any more.
            LabelRefusedError: The release knows no such class, or the answer no such row.

        """
        return self._live().feedback.label(slot, prediction, label, row=row)

    def _live(self) -> "Running":
        if self._running is None or self._thread is None or not self._thread.is_alive():
            raise StoppedError("the agent is not running: start it, or ask inside of its 'with'")
        return self._running


def _arrays(
    inputs: Mapping[str, ArrayLike] | ArrayLike, tensors: Sequence[Tensor]
) -> dict[str, Array]:
    """Return what was given as arrays; what is none yet takes the type of the model's input."""
    if not isinstance(inputs, Mapping):
        if len(tensors) > 1:
            names = ", ".join(tensor.name for tensor in tensors)
            raise InputRefusedError(f"the model takes {names}: give its inputs by name")
        inputs = {tensors[0].name if tensors else "": inputs}
    dtypes = {tensor.name: tensor.dtype for tensor in tensors}
    return {name: _array(name, value, dtypes.get(name)) for name, value in inputs.items()}


def _array(name: str, value: ArrayLike, dtype: str | None) -> Array:
    if isinstance(value, np.ndarray):
        return value
    try:
        return np.asarray(value, object if dtype == "string" else dtype)
    except (TypeError, ValueError, OverflowError) as why:
        wanted = dtype or "numbers"
        raise InputRefusedError(f"input {name!r} is no array of {wanted}: {why}") from why
