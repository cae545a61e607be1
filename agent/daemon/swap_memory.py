"""What a change of models in a slot did to this process's memory.

A change begins before the new model is loaded and ends when the old one is closed and its
memory given back, which may be a probation later and in another thread.
"""

import threading

from agent.contract.telemetry import Swap
from agent.daemon.host import event, log
from agent.infer.heap import trim
from agent.observe.resources import rss_bytes


class SwapMemory:
    """The resident memory before and after the last change of one slot."""

    def __init__(self, slot: str) -> None:
        self._slot = slot
        self._lock = threading.Lock()
        self._before: int | None = None
        self._last: Swap | None = None

    def begin(self) -> None:
        """Note that a model is about to be loaded, unless a change is under way already."""
        with self._lock:
            if self._before is None:
                self._before = rss_bytes()

    def end(self) -> None:
        """Note that what is no longer used was closed; any thread may."""
        trim()  # loading leaves much that is free again, too
        with self._lock:
            if self._before is None:
                return
            self._last = Swap(before_bytes=self._before, after_bytes=rss_bytes())
            self._before = None
            said = self._last
        log.info(
            event(
                "swapped",
                slot=self._slot,
                rss_before=said.before_bytes,
                rss_after=said.after_bytes,
            )
        )

    def take(self) -> Swap | None:
        """Return the last change that was not told yet."""
        with self._lock:
            last, self._last = self._last, None
            return last
