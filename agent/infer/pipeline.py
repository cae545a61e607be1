"""One slot's thread: from a source, through the served model, to the sinks.

Rule 1: a source that ends or breaks is a state, with its reason; the agent lives on.
Rule 2: ``stop`` returns when the thread has ended, or says that it would not.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agent.errors import AgentError
from agent.infer.serving import Serving
from agent.infer.sources import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Idle:
    """Not started yet."""


@dataclass(frozen=True, slots=True)
class Flowing:
    """Samples are read."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The source has no more samples, or the pipeline was stopped."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The source failed; ``why`` is one sentence."""

    why: str


Flow = Idle | Flowing | Ended | Broken


class Pipeline:
    """Reads a source and feeds a ``Serving``, in a thread of its own.

    Args:
        slot: Names the thread.
        source: Read by this pipeline alone.
        serving: Fed by this pipeline alone.
        on_end: Called once, from the thread, with ``Ended`` or ``Broken``; must not wait.

    """

    def __init__(
        self,
        slot: str,
        source: Source,
        serving: Serving,
        on_end: Callable[[Ended | Broken], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._serving = serving
        self._on_end = on_end
        self._stop = threading.Event()
        self._flow: Flow = Idle()
        self._slot = slot
        self._thread = threading.Thread(target=self._run, name=f"infer-{slot}", daemon=True)

    @property
    def flow(self) -> Flow:
        """Whether samples flow, and if not, why."""
        return self._flow

    def start(self) -> None:
        """Start reading."""
        self._flow = Flowing()
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> bool:
        """End the thread; False when the source kept it for longer than that."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        end: Ended | Broken = Ended()
        try:
            for block in self._source.blocks(self._stop):
                if self._stop.is_set():
                    break
                if block is None:
                    self._serving.gap()
                else:
                    self._serving.take(block)
        except AgentError as why:
            end = Broken(str(why))
        except Exception as why:  # the thread's top loop: sources are the operator's code
            log.exception("source=broken slot=%s", self._slot)
            end = Broken(f"the source of {self._slot} raised {type(why).__name__}: {why}")
        self._flow = end
        self._on_end(end)
