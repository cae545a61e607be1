"""The room of judging: which evidence is there, which is missing, and that it goes on looking."""

from dataclasses import dataclass, field, replace

import pytest

from agent.config import UpdateConfig
from agent.contract.messages import Assigned, Finding, Quality
from agent.daemon.agenda import Agenda
from agent.daemon.judging import Judging, Measures, Surroundings
from agent.errors import AgentError, StoreError
from agent.infer.comparison import Comparison, Side
from agent.update.events import Failed, Prove, Proved
from agent.worker.jobs import CheckAnswer, Labels

GOLDEN = (Finding(check="golden-vectors", held=True, why="8 of 8 vectors"),)


def release(number: int) -> Assigned:
    return Assigned(target=f"models/motion/{number}.json", digest=f"{number:064x}", counter=number)


def labelled(windows: int) -> CheckAnswer:
    withheld = Quality(right=0, windows=0)
    labels = Labels(decide=(True,) * windows, withheld=withheld)
    return CheckAnswer(findings=GOLDEN, rss_bytes=1, labels=labels)


def labelled_by_people(*names: str, right: bool = True) -> CheckAnswer:
    labels = Labels(
        decide=(), kept=dict.fromkeys(names, right), withheld=Quality(right=0, windows=0)
    )
    return CheckAnswer(findings=GOLDEN, rss_bytes=1, labels=labels)


OLD, NEW = release(1), release(2)
PROVE = Prove(NEW, OLD, GOLDEN)


def side(assigned: Assigned) -> Side:
    return Side(
        release=assigned.digest,
        answered=200,
        confidence=0.8,
        latency_p50_us=40.0,
        latency_p95_us=50.0,
    )


BOTH = Comparison(serving=side(NEW), beside=side(OLD), windows=200, agreed=190, classified=200)


@dataclass
class Room:
    """Judging, with its time and its live windows in our hand."""

    shown: Comparison | None = BOTH
    now: float = 0.0
    duty: int = 1
    started: list[str] = field(default_factory=list)
    ends: list[Proved | Failed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agenda = Agenda()
        self.measures = Measures(self.started.append)
        self.judging = Judging(
            UpdateConfig(),
            self.measures,
            self.agenda,
            Surroundings(
                comparison=lambda _: self.shown,
                conclude=lambda _, end: self.ends.append(end),
                monotonic=lambda: self.now,
                duty=lambda: self.duty,
            ),
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for action in self.agenda.due(self.now):
            action()


def told(end: Proved | Failed) -> str:
    return "; ".join(f.why for f in end.findings if not f.held)


def test_both_are_measured_and_compared_before_a_candidate_stays():
    room = Room()
    room.judging.begin("motion", PROVE)
    room.measures.answered(NEW.digest, labelled(40))
    room.wait(60.0)
    assert room.ends == []
    room.measures.answered(OLD.digest, labelled(40))
    room.wait(60.0)
    (end,) = room.ends
    assert isinstance(end, Proved)
    assert "accuracy" in {f.check for f in end.findings}


def test_a_candidate_without_the_running_release_beside_it_does_not_pass():
    room = Room(shown=replace(BOTH, beside=None))
    room.judging.begin("motion", PROVE)
    room.wait(60.0)
    (end,) = room.ends
    assert isinstance(end, Failed)
    assert end.retryable
    assert "could not be loaded beside" in told(end)


def test_a_running_release_that_no_child_can_measure_keeps_the_candidate_from_passing():
    room = Room()
    room.judging.begin("motion", PROVE)
    room.measures.answered(NEW.digest, labelled(40))
    room.measures.answered(OLD.digest, AgentError("the check worker was killed by SIGKILL"))
    room.wait(60.0)
    assert room.ends == []
    room.wait(3600.0)
    (end,) = room.ends
    assert isinstance(end, Failed)
    assert end.retryable
    assert "could not measure" in told(end)


def test_a_hot_device_gives_a_candidate_time_for_as_many_windows_as_a_cool_one():
    few = replace(BOTH, windows=5)
    cool, hot = Room(shown=few), Room(shown=few, duty=4)
    for room in (cool, hot):
        room.judging.begin("motion", PROVE)
        for assigned in (NEW, OLD):
            room.measures.answered(assigned.digest, labelled(40))
        for _ in range(310):
            room.wait(1.0)
    assert [type(end) for end in cool.ends] == [Failed]
    assert hot.ends == []
    hot.shown = BOTH
    hot.wait(1.0)
    assert [type(end) for end in hot.ends] == [Proved]


def test_labelled_windows_that_changed_are_measured_anew_with_both():
    room = Room()
    room.measures.ask(OLD.digest, lambda _: None)
    room.measures.answered(OLD.digest, labelled(30))
    room.measures.ask(NEW.digest, lambda _: None)
    room.measures.answered(NEW.digest, labelled(40))
    room.judging.begin("motion", PROVE)
    assert room.started == [OLD.digest, NEW.digest, OLD.digest]
    room.measures.answered(OLD.digest, labelled(40))
    room.wait(60.0)
    assert isinstance(room.ends[0], Proved)


def test_windows_that_people_labelled_meanwhile_are_measured_with_both():
    room = Room()
    room.measures.ask(OLD.digest, lambda _: None)
    room.measures.answered(OLD.digest, labelled_by_people("a", "b"))
    room.measures.ask(NEW.digest, lambda _: None)
    room.measures.answered(NEW.digest, labelled_by_people("b", "c", "d"))
    room.judging.begin("motion", PROVE)
    assert room.started == [OLD.digest, NEW.digest, OLD.digest]


def test_two_releases_are_judged_on_the_labelled_windows_that_both_answered():
    room = Room()
    room.judging.begin("motion", PROVE)
    common = [f"both-{n}" for n in range(30)]
    room.measures.answered(NEW.digest, labelled_by_people("new-1", "new-2", *common, right=False))
    room.measures.answered(OLD.digest, labelled_by_people(*reversed(common), "old-1"))
    room.wait(60.0)
    (end,) = room.ends
    assert isinstance(end, Failed)
    assert "0 of 30 labelled windows right" in told(end)


def test_no_labelled_window_yet_is_no_obstacle():
    room = Room()
    room.judging.begin("motion", PROVE)
    room.measures.answered(NEW.digest, labelled_by_people("a"))
    room.measures.answered(OLD.digest, labelled_by_people())
    room.wait(60.0)
    (end,) = room.ends
    assert isinstance(end, Proved)


def test_windows_of_another_release_are_no_evidence():
    room = Room(shown=replace(BOTH, serving=side(release(7))))
    room.judging.begin("motion", PROVE)
    for one in (NEW, OLD):
        room.measures.answered(one.digest, labelled(40))
    room.wait(60.0)
    assert room.ends == []


def test_an_error_while_looking_does_not_end_the_looking():
    room = Room()
    failing = Surroundings(
        comparison=lambda _: (_ for _ in ()).throw(StoreError("the medium failed")),
        conclude=lambda _, end: room.ends.append(end),
        monotonic=lambda: room.now,
    )
    judging = Judging(UpdateConfig(), room.measures, room.agenda, failing)
    judging.begin("motion", PROVE)
    with pytest.raises(StoreError):
        room.wait(60.0)
    assert room.agenda.holds("judge motion")


def test_one_that_waits_for_a_measurement_does_not_cost_another_its_answer():
    room = Room()
    heard: list[str] = []

    def refuse(_: CheckAnswer | AgentError) -> None:
        raise StoreError("no space left")

    room.measures.ask(NEW.digest, refuse)
    room.measures.ask(NEW.digest, lambda _: heard.append("second"))
    with pytest.raises(StoreError):
        room.measures.answered(NEW.digest, labelled(1))
    assert heard == ["second"]
