"""A selector that looks again for a moment before it sleeps, while a client asks without pause.

Being woken costs a sleeping thread more than a small model's inference, so who was asked
again at once keeps looking for that long. It is the adaptive spinning of mutexes and of
network cards (``SO_BUSY_POLL`` of socket(7)), in front of epoll.

Rule 1: only a request that came within ``LOOK_SECONDS`` of the last one earns the next look;
        a look in vain ends it. Who is asked now and then costs nothing.
Rule 2: every look gives the interpreter free, so that other threads run meanwhile.
"""

import selectors
from time import perf_counter
from typing import Final

LOOK_SECONDS: Final = 100e-6


class EagerSelector(selectors.EpollSelector):
    """See the rules above."""

    def __init__(self) -> None:
        super().__init__()
        self._eager = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, as every selector does."""
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        began = perf_counter()
        if self._eager:
            ends = began + LOOK_SECONDS
            while perf_counter() < ends:
                if ready := super().select(0):
                    return ready
        ready = super().select(timeout)
        self._eager = bool(ready) and perf_counter() - began < LOOK_SECONDS
        return ready
