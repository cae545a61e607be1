"""The probe at the start of the agent: nothing is served before it is known what runs here.

Rule 1: a library that does not work is told of in one alarm, and the agent goes on without.
Rule 2: a child that could not be started, was killed or took too long is asked again; while
        nothing works at all, for ever.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from agent.config_runtime import RuntimeConfig
from agent.daemon.agenda import Agenda
from agent.errors import AgentError
from agent.worker.jobs import ProbeAnswer, ProbeJob
from agent.worker.probes import is_final, joined, probe_jobs

AGAIN_SECONDS: Final = 60.0
MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        start: Starts the child of a ticket; its answer comes by ``answered``.
        found: Takes what the device can do, once.
        alarm: Tells the fleet (code, sentence).
        monotonic: Seconds.

    """

    start: Callable[[str, ProbeJob], None]
    found: Callable[[ProbeAnswer], None]
    alarm: Callable[[str, str], object]
    monotonic: Callable[[], float]


class Probing:
    """The children that try one library each."""

    def __init__(
        self,
        samples: str | None,
        agenda: Agenda,
        around: Surroundings,
        runtimes: Mapping[str, RuntimeConfig] = MappingProxyType({}),
    ) -> None:
        """``samples`` is the file of labelled windows, ``runtimes`` those of the configuration."""
        self._jobs = probe_jobs(samples, runtimes)
        self._agenda = agenda
        self._around = around
        self._answers: dict[str, ProbeAnswer | AgentError] = {}
        self._waiting: set[str] = set()
        self._tries = 0

    def begin(self) -> None:
        """Try everything that is installed."""
        self._try(tuple(self._jobs))

    def answered(self, ticket: str, answer: ProbeAnswer | AgentError) -> None:
        """Take the answer of one child; the last one ends the probe, or begins another try."""
        self._answers[ticket] = answer
        self._waiting.discard(ticket)
        if not self._waiting:
            self._conclude()

    def _try(self, tickets: tuple[str, ...]) -> None:
        self._tries += 1
        self._waiting = set(tickets)
        for ticket in tickets:
            try:
                self._around.start(ticket, self._jobs[ticket])
            except AgentError as why:
                self._answers[ticket] = why
                self._waiting.discard(ticket)
        if not self._waiting:
            self._conclude()

    def _conclude(self) -> None:
        again = tuple(t for t, answer in self._answers.items() if not is_final(answer))
        for ticket in again:
            why = self._answers[ticket]
            if isinstance(why, AgentError):
                self._around.alarm(why.code, f"{ticket} cannot be probed: {why}")
        found = joined(self._answers)
        if again and not (found.runtimes and self._tries >= MAX_TRIES):
            due = self._around.monotonic() + AGAIN_SECONDS
            self._agenda.at("probe", due, lambda: self._try(again))
            return
        for unusable in found.unusable:
            if unusable.library not in again:
                self._around.alarm(unusable.code, unusable.why)
        self._around.found(found)
