"""What a probation is judged by: live windows, the child's figures, and never withheld ones."""

from dataclasses import dataclass, field

import pytest

from agent.config import UpdateConfig
from agent.contract.messages import Assigned, Finding, Quality
from agent.daemon.agenda import Agenda
from agent.daemon.judging import Judging, Measures, Surroundings
from agent.infer.comparison import Comparison, Side
from agent.update import machine
from agent.worker.jobs import CheckAnswer, Labels

OLD, NEW = (Assigned(target=f"models/m/{n}.json", digest=f"{n:064x}", counter=n) for n in (1, 2))
GOLDEN = (Finding(check="golden-vectors", held=True, why="8 of 8"),)


def measured(decide: int, withheld: int) -> CheckAnswer:
    """So many of 100 windows right, in each split."""
    labels = Labels(
        decide=tuple(n < decide for n in range(100)), withheld=Quality(right=withheld, windows=100)
    )
    return CheckAnswer(findings=GOLDEN, rss_bytes=2**20, labels=labels)


@dataclass
class Slot:
    """One probation; its children have answered and its windows have been seen."""

    candidate: CheckAnswer
    running: CheckAnswer
    windows: int = 200
    now: float = 0.0
    ends: list[machine.Proved | machine.Failed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agenda = Agenda()
        self.measures = Measures(lambda _: None)
        self.judging = Judging(
            UpdateConfig(probation_seconds=60.0, look_seconds=1.0),
            self.measures,
            self.agenda,
            Surroundings(
                comparison=lambda _: self.shown(),
                conclude=lambda _, end: self.ends.append(end),
                monotonic=lambda: self.now,
            ),
        )
        self.judging.begin("m", machine.Prove(NEW, OLD, GOLDEN))
        self.measures.answered(NEW.digest, self.candidate)
        self.measures.answered(OLD.digest, self.running)

    def shown(self) -> Comparison:
        sides = [
            Side(release=one.digest, answered=self.windows, latency_p50_us=100, latency_p95_us=200)
            for one in (NEW, OLD)
        ]
        n = self.windows
        return Comparison(serving=sides[0], beside=sides[1], windows=n, agreed=n, classified=n)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for action in self.agenda.due(self.now):
            action()


@pytest.mark.parametrize("withheld", [0, 100])
def test_withheld_windows_decide_nothing_however_bad_or_good_they_are(withheld: int):
    same = Slot(measured(90, withheld), measured(90, 50))
    same.wait(1.0)
    assert isinstance(same.ends[0], machine.Proved)
    worse = Slot(measured(50, withheld), measured(90, 50))
    worse.wait(1.0)
    assert isinstance(worse.ends[0], machine.Failed)
    assert not worse.ends[0].retryable
    assert [f.check for f in worse.ends[0].findings if not f.held] == ["accuracy"]


def test_a_probation_without_windows_waits_and_then_says_that_it_knows_nothing():
    slot = Slot(measured(90, 90), measured(90, 90), windows=0)
    slot.wait(59.0)
    assert slot.ends == []
    slot.wait(1.0)
    assert isinstance(slot.ends[0], machine.Failed)
    assert slot.ends[0].retryable


def test_a_probation_that_was_given_up_concludes_nothing():
    slot = Slot(measured(90, 90), measured(90, 90))
    slot.judging.stop("m")
    slot.wait(100.0)
    assert slot.ends == []
