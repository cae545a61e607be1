"""Where a federated run is, as one value that only ``engine.step`` makes anew."""

from dataclasses import dataclass, field

from fleet.rounds.events import Evaluated
from fleet.rounds.pages import Pages
from fleet.rounds.sends import Send


@dataclass(frozen=True, slots=True)
class Driving:
    """The Flower program drives the devices."""


@dataclass(frozen=True, slots=True)
class Evaluating:
    """Devices judge the candidate until the deadline; ``asked`` are all of them."""

    deadline_ms: int
    asked: frozenset[str] = field(default=frozenset(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over: ``finished``, ``stopped`` or ``failed``."""

    status: str


Phase = Driving | Evaluating | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run is.

    Attributes:
        sends: Every send so far, in order.
        buffer: Tasks with good answers that wait to be folded, of a buffered run.
        figures: What devices measured of the candidate, by device.
        silent: Evaluators without figures, with the reason.
        paused_ms: Wall clock since which an operator holds the run, or None.
        why: The sentence about its end.

    """

    phase: Phase = field(default_factory=Driving)
    sends: tuple[Send, ...] = ()
    buffer: tuple[str, ...] = ()
    figures: Pages[Evaluated] = field(default_factory=Pages)
    silent: Pages[str] = field(default_factory=Pages)
    paused_ms: int | None = None
    why: str = ""

    @property
    def status(self) -> str:
        """``training``, ``evaluating``, ``paused``, ``finished``, ``stopped`` or ``failed``."""
        match self.phase:
            case Ended(status):
                return status
            case _ if self.paused_ms is not None:
                return "paused"
            case Driving():
                return "training"
            case Evaluating():
                return "evaluating"

    @property
    def active(self) -> bool:
        """Whether anything can still happen."""
        return not isinstance(self.phase, Ended)

    @property
    def underway(self) -> Send | None:
        """The send whose answers are waited for."""
        open_now = isinstance(self.phase, Driving) and self.sends and not self.sends[-1].closed
        return self.sends[-1] if open_now else None

    @property
    def rounds_completed(self) -> int:
        """Rounds of training that are closed."""
        return sum(s.closed and s.trains for s in self.sends)

    @property
    def replies(self) -> int:
        """Good answers counted."""
        return sum(s.good for s in self.sends)

    @property
    def refused(self) -> int:
        """Answers without a usable result."""
        return sum(len(s.answers) - s.good for s in self.sends)

    def surplus(self, how: str) -> int:
        """Return of how many tasks an answer came ``late``, or came ``again``."""
        return sum(list(s.surplus.values()).count(how) for s in self.sends)

    def awaits(self, device: str) -> bool:
        """Return whether this device's judgement of the candidate is wanted now."""
        asked = isinstance(self.phase, Evaluating) and device in self.phase.asked
        return asked and device not in self.figures and device not in self.silent

    def find(self, task: str) -> Send | None:
        """Return the send that a task belongs to."""
        return next((s for s in reversed(self.sends) if task in s.by_name), None)
