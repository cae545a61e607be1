"""Federated rounds: tasks that the director offers, done by a child, answered once.

Rule 1: whether a task is taken is ``learn.offer``'s decision; the answer says why not.
Rule 2: an answer is on the medium before it is sent, and sent again when the same task is
        offered again: work that was done is never done twice.
Rule 3: one task at a time. The broker is told that an offer is dealt with only when its
        answer is kept, so that a device that dies in between gets the offer again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from agent.contract.codec import encode
from agent.contract.frames import pack_parcel
from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.contract.rounds import Task, TaskAnswer
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError, StoreError
from agent.learn.offer import Accept, Conditions, Decline, Defer, decide
from agent.worker.jobs import LearnAnswer

FOLDER = "answers"
MAX_KEPT_ANSWERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        conditions: What the device knows about itself now, given what it is busy with.
        start: Starts the child for a task and its attachment; may raise.
        answer: Publishes a parcel for a run; False when offline.
        alarm: (code, sentence).
        monotonic: Seconds.

    """

    conditions: Callable[[str | None], Conditions]
    start: Callable[[Task, bytes], None]
    answer: Callable[[str, bytes], bool]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float]


class Learning:
    """The tasks of this device."""

    def __init__(self, disk: Disk, around: Surroundings) -> None:
        self._disk = disk
        self._around = around
        self._task: Task | None = None
        self._settle: Callable[[], None] = lambda: None
        self._last: tuple[str, bytes, float] | None = None

    def connected(self) -> None:
        """Send the last answer again while it is wanted: the old connection may have lost it."""
        if self._last is not None and self._around.monotonic() < self._last[2]:
            self._around.answer(self._last[0], self._last[1])

    def offered(self, task: Task, attachment: bytes, settle: Callable[[], None]) -> None:
        """Answer, do or refuse a believed task; ``settle`` when the offer is dealt with."""
        known = self._disk.read(_place(task))
        if known is not None:
            log.info(event("task-answered-again", run=task.run, task=task.task))
            self._around.answer(task.run, known)
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
        settle, self._settle = self._settle, lambda: None
        match answer:
            case LearnAnswer():
                said = TaskAnswer(
                    run=task.run,
                    task=task.task,
                    outcome="done",
                    digest=sha256(answer.reply).hexdigest(),
                    decide=answer.decide,
                    withheld=answer.withheld,
                    decide_running=answer.decide_running,
                    withheld_running=answer.withheld_running,
                )
                parcel = pack_parcel(encode(said), answer.reply)
            case AgentError():
                self._around.alarm(answer.code, f"task {task.task}: {answer}")
                parcel = _without_reply(task, "failed", str(answer))
        if len(parcel) > MAX_PAYLOAD_BYTES:
            why = f"the answer has {len(parcel)} bytes; one message holds {MAX_PAYLOAD_BYTES}"
            parcel = _without_reply(task, "failed", why)
        self._keep(task, parcel)
        log.info(event("task-done", run=task.run, task=task.task, size_bytes=len(parcel)))
        self._last = (task.run, parcel, self._around.monotonic() + task.lasts_seconds)
        self._around.answer(task.run, parcel)
        settle()

    def _begin(self, task: Task, attachment: bytes, settle: Callable[[], None]) -> None:
        log.info(event("task-taken", run=task.run, task=task.task, kind=task.kind))
        try:
            self._around.start(task, attachment)
        except AgentError as why:
            self._refuse(task, "failed", str(why))
            settle()
            return
        self._task, self._settle = task, settle

    def _refuse(self, task: Task, outcome: str, why: str) -> None:
        log.info(event("task-refused", run=task.run, task=task.task, outcome=outcome, why=why))
        self._around.answer(task.run, _without_reply(task, outcome, why))

    def _keep(self, task: Task, parcel: bytes) -> None:
        try:
            self._disk.replace(_place(task), parcel)
            kept = [f"{FOLDER}/{name}" for name in self._disk.names(FOLDER)]
            oldest = sorted(kept, key=lambda name: self._disk.path(name).stat().st_mtime)
            for name in oldest[:-MAX_KEPT_ANSWERS]:
                self._disk.remove(name)
        except StoreError as why:
            self._around.alarm(why.code, f"the answer of task {task.task} is not kept: {why}")


def _place(task: Task) -> str:
    return f"{FOLDER}/{task.run}.{task.task}"


def _without_reply(task: Task, outcome: str, why: str) -> bytes:
    said = TaskAnswer(run=task.run, task=task.task, outcome=outcome, why=why[:500])
    return pack_parcel(encode(said), b"")
