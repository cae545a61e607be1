"""One send of the Flower program: whom it asks, whom it waits for, and what came back.

Rule 1: who is asked is drawn from the run's seed and the send's ordinal alone, so that a
        run that is replayed asks the same devices.
Rule 2: only a send that is all training is over-selected: whom the program wants judged
        by, it names itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Self

from fleet.rounds.events import Answered, Posted, RunPlan
from fleet.rounds.norms import too_long
from fleet.rounds.pages import Pages

MAX_LASTS_MS = 86_400_000
"""A task says at most this to its device."""


def task_name(run: str, ordinal: int, device: str) -> str:
    """Return the name of a task: the same for the same send and device. 0 is evaluation."""
    return "t-" + blake2b(f"{run}/{ordinal}/{device}".encode(), digest_size=10).hexdigest()


def node_of(device: str) -> int:
    """Return the Flower node id of a device: 63 bits of BLAKE2b, never 0 or 1."""
    raw = blake2b(device.encode(), digest_size=8, person=b"fieldfare-node").digest()
    return (int.from_bytes(raw, "big") >> 1) | 2


def is_training(tasks: Sequence[Posted]) -> bool:
    """Return whether a send is a round of training and nothing else."""
    return bool(tasks) and all(t.kind == "train" for t in tasks)


def wanted_of(plan: RunPlan, tasks: Sequence[Posted]) -> int:
    """Return how many good answers end a send before its deadline."""
    if plan.buffer:
        return plan.buffer
    return min(plan.clients or len(tasks), len(tasks)) if is_training(tasks) else len(tasks)


def choose(plan: RunPlan, ordinal: int, tasks: Sequence[Posted]) -> tuple[Posted, ...]:
    """Return the tasks of a send that devices are asked for, in the given order.

    Args:
        plan: How many a round wants, how many more it asks, and the seed.
        ordinal: Of the send.
        tasks: One for each node that the program named.

    """
    asked = -(-wanted_of(plan, tasks) * plan.over_selection_percent // 100)
    return draw(plan, ordinal, tasks, asked)


def draw(plan: RunPlan, ordinal: int, tasks: Sequence[Posted], count: int) -> tuple[Posted, ...]:
    """Return so many tasks of a send, in the given order, drawn from the run's seed."""
    if count >= len(tasks):
        return tuple(tasks)

    def drawn(task: Posted) -> bytes:
        return blake2b(f"{plan.seed}/{plan.run}/{ordinal}/{task.device}".encode()).digest()

    chosen = {t.task for t in sorted(tasks, key=drawn)[:count]}
    return tuple(t for t in tasks if t.task in chosen)


def lasts_ms(plan: RunPlan, asked: int) -> int:
    """Return how long a send waits: its deadline, beside what pace and spread take away."""
    pacing = asked * 1000 // plan.offers_per_second if plan.offers_per_second else 0
    more_ms = pacing + spread_seconds(plan, asked) * 1000
    return min(plan.deadline_seconds * 1000 + more_ms, MAX_LASTS_MS)


def spread_seconds(plan: RunPlan, asked: int) -> int:
    """Return within how many seconds a device sends its answer, at a random moment.

    Nothing up to what is offered in a second, so that small fleets lose no time.
    """
    pacing = asked // plan.offers_per_second if plan.offers_per_second else 0
    return min(pacing, plan.deadline_seconds // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One send: its tasks, and the answers so far by task.

    Attributes:
        ordinal: Counts the sends from 1.
        tasks: What devices are asked for.
        by_name: The same by the task's name.
        named: How many nodes the program named.
        wanted: So many good answers close it.
        deadline_ms: Wall clock; moves on while the run is paused.
        surplus: ``late`` or ``again`` by task.
        good: How many answers carry a result.
        outliers: Once it is closed, why an answer with a result is left out, by task.
        lingers: Its tasks may be answered when it is closed (``rounds.buffered``).
        folded: What a closed one of a buffered run takes to the program, by task.

    """

    ordinal: int
    tasks: tuple[Posted, ...]
    by_name: Mapping[str, Posted] = field(compare=False, repr=False)
    named: int
    wanted: int
    deadline_ms: int
    answers: Pages[Answered] = field(default_factory=Pages)
    surplus: Pages[str] = field(default_factory=Pages)
    good: int = 0
    closed: bool = False
    outliers: Mapping[str, str] = field(default_factory=dict)
    lingers: bool = False
    folded: tuple[str, ...] = ()

    @property
    def open_tasks(self) -> tuple[Posted, ...]:
        """Tasks that may still be answered."""
        return tuple(t for t in self.tasks if t.task not in self.answers) if self.open_count else ()

    @property
    def open_count(self) -> int:
        """How many tasks may still be answered."""
        ended = self.closed and not self.lingers
        return 0 if ended else len(self.tasks) - len(self.answers)

    @property
    def satisfied(self) -> bool:
        """Whether nothing more is waited for."""
        return self.good >= self.wanted or len(self.answers) == len(self.tasks)

    @property
    def trains(self) -> bool:
        """Whether this send is a round of training."""
        return any(t.kind == "train" for t in self.tasks) or bool(self.folded)

    def is_open(self, task: str) -> bool:
        """Return whether a task may still be answered."""
        may_be = not self.closed or self.lingers
        return may_be and task in self.by_name and task not in self.answers

    def answered(self, answer: Answered) -> Self:
        """Return the send with one more answer."""
        good = self.good + (answer.outcome == "done")
        return replace(self, answers=self.answers.plus(answer.task, answer), good=good)

    def close(self, max_norm: float | None) -> Self:
        """Return the send closed, without the steps that are far longer than the others.

        Args:
            max_norm: How many times longer than the median one a step may be.

        """
        norms = {
            task: answer.norm
            for task, answer in self.answers.items()
            if answer.outcome == "done" and answer.norm is not None
        }
        found = too_long(norms, max_norm) if max_norm is not None else {}
        return replace(self, closed=True, outliers=found, good=self.good - len(found))
