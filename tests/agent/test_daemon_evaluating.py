"""What a device says about the quality of what it runs: each split under its own name, once."""

from dataclasses import dataclass, field

from agent.contract.messages import Event, Finding, Quality
from agent.daemon.evaluating import Evaluating, Surroundings
from agent.daemon.judging import Measures
from agent.errors import StoreError
from agent.worker.jobs import CheckAnswer, Labels

DEVICE, DIGEST = "d-one", "1" * 64
GOOD = Finding(check="golden-vectors", held=True, why="8 of 8")
BAD = Finding(check="golden-vectors", held=False, why="largest difference 1")


@dataclass
class Room:
    told: list[Event] = field(default_factory=list)
    alarms: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.measures = Measures(lambda _: None)
        around = Surroundings(
            report=self.told.append,
            alarm=lambda code, why: self.alarms.append((code, why)),
            moment=lambda: (10, 20),
        )
        self.room = Evaluating(DEVICE, self.measures, around)


def answer(*findings: Finding, labelled: bool = True) -> CheckAnswer:
    labels = Labels(decide=(True, True, False), withheld=Quality(right=1, windows=9))
    return CheckAnswer(findings=findings, rss_bytes=1, labels=labels if labelled else None)


def test_decide_and_withheld_are_told_each_under_its_own_name_and_once():
    room = Room()
    room.room.evaluate("motion", DIGEST)
    room.measures.answered(DIGEST, answer(GOOD))
    room.room.evaluate("motion", DIGEST)
    (event,) = room.told
    assert (event.type, event.slot, event.release) == ("evaluation", "motion", DIGEST)
    assert event.decide == Quality(right=2, windows=3)
    assert event.withheld == Quality(right=1, windows=9)
    again = Room()
    again.room.evaluate("motion", DIGEST)
    again.measures.answered(DIGEST, answer(GOOD))
    assert again.told[0].id == event.id, "another life tells it under the same id"


def test_a_release_that_no_longer_holds_or_cannot_be_measured_is_an_alarm():
    room = Room()
    room.room.evaluate("motion", DIGEST)
    room.measures.answered(DIGEST, answer(BAD))
    room.room.evaluate("motion", "2" * 64)
    room.measures.answered("2" * 64, StoreError("it is not there"))
    assert [code for code, _ in room.alarms] == ["check", "store"]
    assert "largest difference 1" in room.alarms[0][1]
    assert room.told == []


def test_windows_that_people_labelled_since_make_another_report():
    ids = []
    for kept in ({}, {"a": True}, {"a": True, "b": False}, {"a": True, "b": True}):
        room = Room()
        labels = Labels(decide=(True,), kept=kept, withheld=Quality(right=0, windows=0))
        room.room.evaluate("motion", DIGEST)
        room.measures.answered(DIGEST, CheckAnswer(findings=(GOOD,), rss_bytes=1, labels=labels))
        ids.append(room.told[0].id)
        assert room.told[0].decide == Quality(right=1 + sum(kept.values()), windows=1 + len(kept))
    assert len(set(ids)) == 3
    assert ids[2] == ids[3]


def test_without_labelled_windows_nothing_is_told():
    room = Room()
    none = Labels(decide=(), withheld=Quality(right=0, windows=0))
    room.room.evaluate("motion", DIGEST)
    room.measures.answered(DIGEST, CheckAnswer(findings=(GOOD,), rss_bytes=1, labels=none))
    assert (room.told, room.alarms) == ([], [])
    room = Room()
    room.room.evaluate("motion", DIGEST)
    room.measures.answered(DIGEST, answer(GOOD, labelled=False))
    assert (room.told, room.alarms) == ([], [])
