"""Federated rounds: tasks that the director offers, done by a child, answered once.

Rule 1: whether a task is taken is ``learn.offer``'s decision; the answer says why not.
Rule 2: an answer is on the medium before it is sent, and sent again when the same task is
        offered again: work that was done is never done twice.
Rule 3: arrays that a task shares with other devices are fetched before it is begun; where
        they do not come, it is put off.
Rule 4: one task at a time. The broker is told that an offer is dealt with only when its
        answer is kept, so that a device that dies in between gets the offer again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from agent.contract.codec import encode
from agent.contract.frames import pack_parcel
from agent.contract.rounds import Task, TaskAnswer, UploadRequest
from agent.daemon.host import event, log
from agent.daemon.round_answers import RoundAnswers, framed, shortened
from agent.daemon.round_coding import CodedReply, code_reply, keep_residual
from agent.disk import Disk
from agent.errors import AgentError, CorruptError, LinkError, StoreError
from agent.learn.offer import Accept, Conditions, Decline, Defer, decide
from agent.worker.jobs import LearnAnswer

Gathered = Callable[[bytes | AgentError], None]


def _at_once(_task: Task, act: Callable[[], None]) -> None:
    act()


def _gather_nothing(task: Task, _frame: bytes, done: Gathered) -> None:
    done(AgentError(f"this device cannot fetch what task {task.task} shares"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        conditions: What the device knows about itself now, given what it is busy with.
        start: Starts the child for a task and its attachment; may raise.
        answer: Publishes a parcel for a run; False when offline.
        alarm: (code, sentence).
        monotonic: Seconds.
        chunk: Publishes a piece of an answer by the head of its digest; False when offline.
        gather: Gets the message of a task that shares arrays whole, or the error why not.
        postpone: Does something within the task's ``spread_seconds``, at a random moment.

    """

    conditions: Callable[[str | None], Conditions]
    start: Callable[[Task, bytes], None]
    answer: Callable[[str, bytes], bool]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float]
    chunk: Callable[[str, bytes], bool] = lambda _name, _piece: False
    gather: Callable[[Task, bytes, Gathered], None] = _gather_nothing
    postpone: Callable[[Task, Callable[[], None]], None] = _at_once


class Learning:
    """The tasks of this device."""

    def __init__(self, disk: Disk, around: Surroundings) -> None:
        self._disk = disk
        self._around = around
        self._answers = RoundAnswers(disk, around.answer, around.chunk)
        self._task: Task | None = None
        self._message = b""
        self._settle: Callable[[], None] = lambda: None
        self._last: tuple[Task, float] | None = None

    def connected(self) -> None:
        """Send the last answer again while it is wanted: the old connection may have lost it."""
        self._answers.connected()
        if self._last is not None and self._around.monotonic() < self._last[1]:
            task = self._last[0]
            self._around.postpone(task, lambda: self._send(task, None))

    def upload_asked(self, run: str, wanted: UploadRequest) -> None:
        """Send chunks of an answer that does not fit into one message.

        Raises:
            StoreError: The disk refuses.

        """
        self._answers.asked(run, wanted)

    def offered(self, task: Task, attachment: bytes, settle: Callable[[], None]) -> None:
        """Answer, do or refuse a believed task; ``settle`` when the offer is dealt with."""
        if self._answers.has(task):
            log.info(event("task-answered-again", run=task.run, task=task.task))
            self._answers.send(task.run, task.task)
            settle()
            return
        if self._task is not None and self._task.task == task.task:
            # offered anew on another connection, where the first one can be settled no more
            earlier, self._settle = self._settle, settle
            earlier()
            return
        busy = self._task.task if self._task else None
        match decide(task, self._around.conditions(busy)):
            case Accept():
                self._begin(task, attachment, settle)
            case Defer(why):
                self._refuse(task, "deferred", why)
                settle()
            case Decline(why):
                self._refuse(task, "declined", why)
                settle()

    def finished(self, answer: LearnAnswer | AgentError) -> None:
        """Take what the child made of the task; keep it, then send it."""
        task, self._task = self._task, None
        if task is None:
            return
        message, self._message = self._message, b""
        settle, self._settle = self._settle, lambda: None
        said, coded = self._answer_of(task, message, answer)
        self._keep(task, said, coded)
        log.info(event("task-done", run=task.run, task=task.task, size_bytes=len(coded.attachment)))
        settle()

    def _answer_of(
        self, task: Task, message: bytes, answer: LearnAnswer | AgentError
    ) -> tuple[TaskAnswer, CodedReply]:
        """Return what is said of a task, and the reply as it is sent."""
        if isinstance(answer, LearnAnswer):
            try:
                coded = code_reply(task, message, answer.reply, self._disk)
            except AgentError as why:
                answer = why
            else:
                said = TaskAnswer(
                    run=task.run,
                    task=task.task,
                    outcome="done",
                    digest=sha256(coded.attachment).hexdigest(),
                    decide=answer.decide,
                    withheld=answer.withheld,
                    decide_running=answer.decide_running,
                    withheld_running=answer.withheld_running,
                    sent=coded.sent,
                )
                return said, coded
        self._around.alarm(answer.code, f"task {task.task}: {answer}")
        return _without_reply(task, "failed", str(answer)), CodedReply(sent=(), attachment=b"")

    def _begin(self, task: Task, attachment: bytes, settle: Callable[[], None]) -> None:
        log.info(event("task-taken", run=task.run, task=task.task, kind=task.kind))
        self._task, self._settle = task, settle
        if task.shared:
            self._around.gather(task, attachment, lambda found: self._gathered(task, found))
        else:
            self._start(task, attachment)

    def _gathered(self, task: Task, found: bytes | AgentError) -> None:
        """Begin a task whose message is whole, or put it off."""
        if self._task is not task:
            return
        match found:
            case bytes():
                self._start(task, found)
            case LinkError() | StoreError() | CorruptError():
                self._give_up(task, "deferred", found)
            case AgentError():
                self._give_up(task, "failed", found)

    def _start(self, task: Task, message: bytes) -> None:
        try:
            self._around.start(task, message)
        except AgentError as why:
            self._give_up(task, "failed", why)
            return
        self._message = message

    def _give_up(self, task: Task, outcome: str, why: AgentError) -> None:
        settle, self._settle = self._settle, lambda: None
        self._task = None
        self._refuse(task, outcome, str(why))
        settle()

    def _refuse(self, task: Task, outcome: str, why: str) -> None:
        log.info(event("task-refused", run=task.run, task=task.task, outcome=outcome, why=why))
        said = _without_reply(task, outcome, why)
        self._around.answer(task.run, pack_parcel(encode(said), b""))

    def _keep(self, task: Task, said: TaskAnswer, coded: CodedReply) -> None:
        """Keep an answer, then send it; one that cannot be kept is sent nevertheless."""
        try:
            self._answers.keep(said, coded.attachment)
            if coded.residual is not None:
                keep_residual(self._disk, task.run, coded.residual)
        except StoreError as why:
            self._around.alarm(why.code, f"the answer of task {task.task} is not kept: {why}")
        self._last = task, self._around.monotonic() + task.lasts_seconds
        unkept = None if self._answers.has(task) else shortened(framed(said, coded.attachment))
        self._around.postpone(task, lambda: self._send(task, unkept))

    def _send(self, task: Task, unkept: bytes | None) -> None:
        if unkept is None:
            self._answers.send(task.run, task.task)
        else:
            self._around.answer(task.run, unkept)


def _without_reply(task: Task, outcome: str, why: str) -> TaskAnswer:
    return TaskAnswer(run=task.run, task=task.task, outcome=outcome, why=why[:500])
