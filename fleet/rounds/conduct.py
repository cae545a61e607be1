"""Conducts one run: journal first, then offers, answers and the Flower child.

Rule 1: everything is called from one thread, the manager's; the child's reader thread
        only puts its words where that thread takes them.
Rule 2: an event is journalled before any of its effects happens.
Rule 3: bytes are spooled under their task's name before the event that speaks of them.

How the service uses it::

    conductor = Conductor(plan, head, doors)          # or history=events after a restart
    conductor.begin(now_ms)
    ...   conductor.heard(word, now_ms)               # what the child said (doors.put)
    ...   conductor.answered(device, answer, attachment, now_ms)
    ...   conductor.returned(device, now_ms)          # it connected again: offers repeat
    ...   conductor.tick(now_ms)                      # at least once a second
    conductor.state                                   # Training…, Evaluating…, Finished…
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.contract.messages import Task, TaskAnswer
from fleet.rounds.engine import RunPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadArrays:
    """A head's weight (classes, width) and bias (classes,), both float32."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What a run may do in the world; the service gives these.

    Attributes:
        journal: Record one event (JSON bytes of ``engine.RunEvent``); durable on return.
        keep: Spool bytes under a name of this run; durable, harmless to repeat.
        read: Return spooled bytes, or None.
        offer: Sign ``task`` for its device and publish it with its attachment.
        put: Called from the child's reader thread with one word of the child; must
            only hand it to the manager's thread, which calls ``Conductor.heard``.

    """

    journal: Callable[[bytes], None]
    keep: Callable[[str, bytes], None]
    read: Callable[[str], bytes | None]
    offer: Callable[[Task, bytes], None]
    put: Callable[[object], None]


class Conductor:
    """One federated run in this manager.

    Args:
        plan: What was asked for.
        head: The running head, from ``release.candidate.read_head``.
        doors: The world.
        history: Journalled events of this run, oldest first; empty for a new run.

    Raises:
        RegistryError: The journal holds an event that this program does not know.

    """

    def __init__(
        self, plan: RunPlan, head: HeadArrays, doors: Doors, history: Iterable[bytes] = ()
    ) -> None:
        raise NotImplementedError

    def begin(self, now_ms: int) -> None:
        """Start, or resume: repeats open offers and starts the Flower child."""
        raise NotImplementedError

    def heard(self, word: object, now_ms: int) -> None:
        """Take what the child said."""
        raise NotImplementedError

    def answered(self, device: str, answer: TaskAnswer, attachment: bytes, now_ms: int) -> str:
        """Take a device's answer, already believed to be the device's; return what was made of it.

        ``counted``, ``duplicate``, ``late``, ``unknown``, or ``refused: …``.
        """
        raise NotImplementedError

    def returned(self, device: str, now_ms: int) -> None:
        """Offer a device its open tasks again."""
        raise NotImplementedError

    def tick(self, now_ms: int) -> None:
        """Let time pass: deadlines."""
        raise NotImplementedError

    def stop(self, why: str, now_ms: int) -> None:
        """End the run on an operator's word."""
        raise NotImplementedError

    def close(self) -> None:
        """End the child without ending the run: the manager is shutting down."""
        raise NotImplementedError

    def candidate(self) -> HeadArrays | None:
        """Return the aggregated head once there is one."""
        raise NotImplementedError
