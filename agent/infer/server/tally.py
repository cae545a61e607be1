"""How often models were asked here, and what was refused and why, since the start."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus

from agent.infer.server.replies import Reply


@dataclass(slots=True)
class Asked:
    """What one model was asked since the server started."""

    answered: int = 0
    answered_ns: int = 0
    refused: int = 0
    refused_ns: int = 0
    last_ms: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests so far.

    Attributes:
        answered: With status 200.
        refused: The others, by their reason.

    """

    answered: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Tally:
    """Counts on the loop; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered = 0
        self._refused: Counter[str] = Counter()
        self.models: dict[str, Asked] = {}

    def count(self, reply: Reply) -> int:
        """Count one reply; return how often one for this reason was given by now."""
        with self._lock:
            if reply.status == HTTPStatus.OK:
                self._answered += 1
                return self._answered
            self._refused[reply.reason] += 1
            return self._refused[reply.reason]

    def inferred(self, model: str, reply: Reply, took_ns: int, now_ms: int) -> None:
        """Count what one model was asked; only of models that there are."""
        asked = self.models.setdefault(model, Asked())
        asked.last_ms = now_ms
        if reply.status == HTTPStatus.OK:
            asked.answered += 1
            asked.answered_ns += took_ns
        else:
            asked.refused += 1
            asked.refused_ns += took_ns

    def counts(self) -> Counts:
        """Return what was counted."""
        with self._lock:
            return Counts(self._answered, dict(self._refused))
