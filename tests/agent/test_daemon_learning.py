from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.contract.codec import decode
from agent.contract.frames import check_attachment, unpack_parcel
from agent.contract.messages import Quality
from agent.contract.rounds import Task, TaskAnswer
from agent.daemon.judging import Measures
from agent.daemon.learning import Learning, Surroundings
from agent.disk import Disk
from agent.errors import AgentError
from agent.learn.offer import Conditions
from agent.worker.jobs import CheckAnswer, LearnAnswer

BACKBONE = "a" * 64
DONE = LearnAnswer(
    reply=b"new head",
    decide=Quality(right=3, windows=4),
    withheld=Quality(right=1, windows=4),
)


def task(name: str = "t1", **changes: object) -> Task:
    known: dict[str, object] = {
        "device": "d-one",
        "run": "run-1",
        "task": name,
        "kind": "train",
        "backbone": BACKBONE,
        "digest": "b" * 64,
        "lasts_seconds": 60,
    }
    return Task(**(known | changes))  # type: ignore[arg-type]


@dataclass
class Device:
    """A device that takes part, with its answers and what it started."""

    folder: Path
    trains: bool = True
    now: float = 0.0
    online: bool = True
    started: list[str] = field(default_factory=list)
    sent: list[tuple[TaskAnswer, bytes]] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    postponed: dict[str, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.learning = self.boot()

    def boot(self) -> Learning:
        around = Surroundings(
            conditions=self.conditions,
            start=lambda task, _: self.started.append(task.task),
            answer=self.answer,
            alarm=lambda code, _: self.alarms.append(code),
            monotonic=lambda: self.now,
            postpone=self.postpone,
        )
        return Learning(Disk(self.folder), around)

    def postpone(self, task: Task, act: Callable[[], None]) -> None:
        """Send at once, or with a spread when the test says so."""
        if task.spread_seconds:
            self.postponed[task.task] = act
        else:
            act()

    def conditions(self, busy_with: str | None) -> Conditions:
        return Conditions(
            device="d-one",
            trains=self.trains,
            evaluates=True,
            train_windows=50,
            decide_windows=50,
            backbones=frozenset({BACKBONE}),
            busy_with=busy_with,
        )

    def answer(self, run: str, parcel: bytes) -> bool:
        document, attachment = unpack_parcel(parcel)
        assert run == "run-1"
        if self.online:
            self.sent.append((decode(TaskAnswer, document), attachment))
        return self.online

    def offer(self, offered: Task) -> None:
        self.learning.offered(offered, b"global head", lambda: self.settled.append(offered.task))


def test_a_task_is_done_answered_and_only_then_settled(tmp_path):
    device = Device(tmp_path)
    device.offer(task())
    assert device.started == ["t1"]
    assert device.settled == []
    device.learning.finished(DONE)
    answer, reply = device.sent[0]
    assert (answer.outcome, answer.decide, answer.withheld) == ("done", DONE.decide, DONE.withheld)
    assert answer.digest is not None
    assert check_attachment(reply, answer.digest) == b"new head"
    assert device.settled == ["t1"]


def test_the_same_task_offered_again_is_answered_from_the_disk(tmp_path):
    device = Device(tmp_path)
    device.offer(task())
    device.learning.finished(DONE)
    device.learning = device.boot()
    device.offer(task())
    assert device.started == ["t1"]
    assert [reply for _, reply in device.sent] == [b"new head", b"new head"]
    assert device.settled == ["t1", "t1"]


def test_a_task_offered_again_while_it_is_done_starts_nothing(tmp_path):
    device = Device(tmp_path)
    device.offer(task())
    device.offer(task())
    assert device.started == ["t1"]
    assert device.settled == ["t1"]
    assert device.sent == []
    device.learning.finished(DONE)
    assert device.settled == ["t1", "t1"]


def test_the_offer_of_a_new_connection_is_settled_only_when_it_is_answered(tmp_path):
    device = Device(tmp_path)
    settled: list[str] = []
    device.learning.offered(task(), b"", lambda: settled.append("of the old connection"))
    device.learning.offered(task(), b"", lambda: settled.append("of the new one"))
    assert settled == ["of the old connection"]
    device.learning.finished(DONE)
    assert settled == ["of the old connection", "of the new one"]


def test_a_second_task_is_deferred_while_one_is_done(tmp_path):
    device = Device(tmp_path)
    device.offer(task())
    device.offer(task("t2"))
    assert [(a.task, a.outcome) for a, _ in device.sent] == [("t2", "deferred")]
    assert device.settled == ["t2"]


def test_a_device_that_does_not_train_declines_and_says_why(tmp_path):
    device = Device(tmp_path, trains=False)
    device.offer(task())
    answer = device.sent[0][0]
    assert answer.outcome == "declined"
    assert answer.why
    assert device.settled == ["t1"]


def test_a_child_that_fails_is_a_failed_answer_and_an_alarm(tmp_path):
    device = Device(tmp_path)
    device.offer(task())
    device.learning.finished(AgentError("the learn worker was killed by SIGKILL"))
    answer = device.sent[0][0]
    assert answer.outcome == "failed"
    assert "SIGKILL" in answer.why
    assert device.alarms == ["agent"]
    device.offer(task("t2"))
    assert device.started == ["t1", "t2"]


def test_an_answer_that_fell_into_an_outage_is_sent_after_it(tmp_path):
    device = Device(tmp_path)
    device.offer(task())
    device.online = False
    device.learning.finished(DONE)
    device.online = True
    device.learning.connected()
    assert len(device.sent) == 1
    device.now = 61.0  # nobody wants it any more
    device.learning.connected()
    assert len(device.sent) == 1


def test_an_answer_with_a_spread_is_kept_at_once_and_sent_at_its_moment(tmp_path):
    device = Device(tmp_path)
    spread = task(spread_seconds=30)
    device.offer(spread)
    device.learning.finished(DONE)
    assert (device.sent, device.settled) == ([], ["t1"])
    device.learning.connected()
    assert (device.sent, list(device.postponed)) == ([], ["t1"])
    device.postponed.pop("t1")()
    assert [(said.task, reply) for said, reply in device.sent] == [("t1", b"new head")]


def test_an_answer_with_a_spread_that_no_disk_takes_is_sent_at_its_moment_too(tmp_path):
    device = Device(tmp_path)
    (tmp_path / "answers").write_text("a file where the folder should be")
    device.offer(task(spread_seconds=30))
    device.learning.finished(DONE)
    device.postponed.pop("t1")()
    assert [said.outcome for said, _ in device.sent] == ["done"]
    assert device.alarms


def test_one_child_measures_at_a_time_and_what_it_found_is_kept():
    started: list[str] = []
    found: list[str] = []
    measures = Measures(started.append)
    answer = CheckAnswer(findings=(), rss_bytes=1)
    measures.ask("one", lambda _: found.append("one"))
    measures.ask("two", lambda _: found.append("two"))
    measures.ask("one", lambda _: found.append("one again"))
    assert started == ["one"]
    measures.answered("one", answer)
    assert started == ["one", "two"]
    assert found == ["one", "one again"]
    measures.answered("two", AgentError("no"))
    measures.ask("one", lambda _: found.append("known"))
    assert started == ["one", "two"]
    measures.ask("one", lambda _: found.append("anew"), anew=True)
    assert started == ["one", "two", "one"]
    measures.ask("two", lambda _: None)
    measures.answered("one", answer)
    assert started == ["one", "two", "one", "two"]
