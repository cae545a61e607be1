"""What this device says about itself as retained state: inventory and reported slots.

Rule 1: a revision grows with every change within a life; equal content keeps its number.
Rule 2: content that was handed to the connection is not sent again, unless all is anew.
"""

from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from agent.contract.messages import Inventory, Reported

S = TypeVar("S", Inventory, Reported)


class StateTeller:
    """Revisions, and what was sent last."""

    def __init__(
        self, send: Callable[[Inventory | Reported], bool], wall_ms: Callable[[], int]
    ) -> None:
        self._send = send
        self._wall_ms = wall_ms
        self._known: dict[str, Inventory | Reported] = {}
        self._revisions: dict[str, int] = {}
        self._sent: set[str] = set()

    def forget(self) -> None:
        """Send everything again at the next ``tell``."""
        self._sent.clear()

    def tell(self, message: S) -> None:
        """Send a message, given without revision and time, where it is news."""
        kind = type(message).__name__
        if self._known.get(kind) != message:
            self._known[kind] = message
            self._revisions[kind] = self._revisions.get(kind, 0) + 1
            self._sent.discard(kind)
        if kind in self._sent:
            return
        if self._send(replace(message, rev=self._revisions[kind], ts=self._wall_ms())):
            self._sent.add(kind)
