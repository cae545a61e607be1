"""What a run needs of the manager around it, as callables."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.contract.rounds import Task
from fleet.rounds.pipe import FromChild


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What a run may do in the world; the service gives these.

    Attributes:
        journal: Record one event (JSON bytes of ``events.RunEvent``); durable on return.
        keep: Spool bytes under a name of this run; durable, and the first ones stay.
        read: Return spooled bytes, or None.
        offer: Sign ``task`` for its device and publish it with its attachment.
        put: Called from the child's reader thread with one word of the child; must
            only hand it to the manager's thread, which calls ``Conductor.heard``.
        may_offer: Whether one more offer may leave at this time, ms since 1970.

    """

    journal: Callable[[bytes], None]
    keep: Callable[[str, bytes], None]
    read: Callable[[str], bytes | None]
    offer: Callable[[Task, bytes], None]
    put: Callable[[object], None]
    may_offer: Callable[[int], bool] = lambda _now_ms: True


@dataclass(frozen=True, slots=True)
class Heard:
    """A word, and which of the run's children said it: words of an earlier one are void."""

    child: int
    word: FromChild
