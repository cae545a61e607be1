"""The quality of proven releases on the device's own labelled windows, as reports.

Rule 1: one report for a release in one life; its id is derived from device, slot and
        release, so that the fleet counts it once however often it is told. Where people
        labelled windows since, it is another report: their number is part of the id.
Rule 2: a running release that no longer reproduces its golden vectors is an alarm.
"""

from collections.abc import Callable
from dataclasses import dataclass

from agent.contract.messages import Event
from agent.daemon.judging import Measures
from agent.errors import AgentError
from agent.update.slot import derived_id
from agent.worker.jobs import CheckAnswer, Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        report: Puts an event into the outbox.
        alarm: (code, sentence).
        moment: Wall clock and monotonic ms.

    """

    report: Callable[[Event], None]
    alarm: Callable[[str, str], None]
    moment: Callable[[], tuple[int, int]]


class Evaluating:
    """Measures what runs, and says how good it is."""

    def __init__(self, device: str, measures: Measures, around: Surroundings) -> None:
        self._device = device
        self._measures = measures
        self._around = around
        self._told: set[tuple[str, str]] = set()

    def evaluate(self, slot: str, digest: str) -> None:
        """Report a running release's quality, when a child has measured it."""
        self._measures.ask(digest, lambda answer: self._measured(slot, digest, answer))

    def _measured(self, slot: str, digest: str, answer: CheckAnswer | AgentError) -> None:
        if isinstance(answer, AgentError):
            self._around.alarm(answer.code, f"release {digest[:16]} in {slot}: {answer}")
            return
        if not answer.held:
            why = "; ".join(finding.why for finding in answer.findings if not finding.held)
            self._around.alarm("check", f"release {digest[:16]} in {slot}: {why}")
            return
        labels = answer.labels
        if labels is None or not labels.windows or (slot, digest) in self._told:
            return
        ts, up = self._around.moment()
        self._around.report(
            Event(
                id=derived_id(self._device, slot, "evaluation", digest, *_labelled(labels)),
                type="evaluation",
                ts=ts,
                up=up,
                slot=slot,
                release=digest,
                decide=labels.decide_quality,
                withheld=labels.withheld,
            )
        )
        self._told.add((slot, digest))


def _labelled(labels: Labels) -> tuple[str, ...]:
    return (str(labels.windows),) if labels.kept else ()
