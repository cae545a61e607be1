"""Where a slot's requests are answered: on the loop while it is quick, else in its own thread.

Rule 1: the loop answers for a slot only while its last answers were quick: changing threads
        costs more than a small model does.
Rule 2: a slot has one thread, as its model answers one at a time anyway; a slow slot keeps
        none of the others waiting, and none of the questions after its health.
Rule 3: only so many wait for a slot; the next is told so at once.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Final

QUICK_SECONDS: Final = 0.005
HELD_UP_SECONDS: Final = 0.1
"""One answer that took so long sends the slot to its lane at once."""
KNOWN_AFTER: Final = 3
_NEWEST: Final = 0.2
"""Share of the newest answer in the moving average."""
_SLOW_SHARE: Final = 0.5
"""A busy machine makes any answer slow now and then: so many are borne."""

Job = Callable[[], None]


class Lane:
    """One slot's pace and thread.

    Args:
        slot: Names the thread.
        waiting: How many jobs may wait.

    """

    def __init__(self, slot: str, waiting: int) -> None:
        self.slot = slot
        self._jobs: Queue[Job | None] = Queue(maxsize=waiting)
        self._thread: threading.Thread | None = None
        self._slow = 0.0
        self._answers = 0

    @property
    def quick(self) -> bool:
        """Whether the next answer may be waited for on the loop."""
        return self._answers >= KNOWN_AFTER and self._slow < _SLOW_SHARE

    def took(self, seconds: float) -> None:
        """Note how long an answer took."""
        self._answers += 1
        if seconds > HELD_UP_SECONDS:
            self._slow = 1.0
        else:
            self._slow += _NEWEST * ((seconds > QUICK_SECONDS) - self._slow)

    def submit(self, job: Job) -> bool:
        """Have a job done in the slot's thread; False when too many wait. It must not raise."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"serve-{self.slot}", daemon=True
            )
            self._thread.start()
        try:
            self._jobs.put_nowait(job)
        except Full:
            return False
        return True

    def close(self) -> None:
        """Let the thread end after the job that it is at; what waits is dropped."""
        while True:
            try:
                self._jobs.put_nowait(None)
            except Full:
                with suppress(Empty):  # the thread was quicker
                    self._jobs.get_nowait()
            else:
                return

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
