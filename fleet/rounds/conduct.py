"""Conducts one run: journal first, then offers, answers and the Flower child.

Rule 1: everything is called from one thread, the manager's; the child's reader thread
        only puts its words where that thread takes them.
Rule 2: an event is journalled before any of its effects happens.
Rule 3: bytes are spooled under their task's name before the event that speaks of them.

How the service uses it::

    conductor = Conductor(plan, head, doors)          # or history=events after a restart
    conductor.begin(now_ms)
    ...   conductor.heard(word, now_ms)               # what the child said (doors.put)
    ...   conductor.answered(device, answer, attachment, now_ms)
    ...   conductor.returned(device, now_ms)          # it connected again: offers repeat
    ...   conductor.tick(now_ms)                      # at least once a second
    conductor.state                                   # training, evaluating, finished, …
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import assert_never

from agent.contract.rounds import Task, TaskAnswer
from agent.errors import ContractError
from fleet.errors import RefusedError
from fleet.rounds import engine
from fleet.rounds.answers import judgement_of, tasks_of
from fleet.rounds.doors import Doors, Heard
from fleet.rounds.events import (
    FINAL,
    Answered,
    ChildFinished,
    EvaluationClosed,
    Failed,
    NotEvaluated,
    Posted,
    Pushed,
    RunEvent,
    RunPlan,
    Stopped,
    TimedOut,
    decode_event,
    encode_event,
)
from fleet.rounds.heads import HeadArrays, begin_word, evaluation_message, read_final
from fleet.rounds.host import Child, FlowerChild, Put
from fleet.rounds.pipe import Begin, Crashed, Done, FromChild, Gone, Push, Replies, Reply
from fleet.rounds.screen import screen_reply

__all__ = ["Conductor", "Doors", "HeadArrays"]

MAX_RESTARTS = 3
OFFER_AGAIN_MS = 5_000


class Conductor:
    """One federated run in this manager.

    Args:
        plan: What was asked for.
        head: The running head, from ``release.candidate.read_head``.
        doors: The world.
        history: Journalled events of this run, oldest first; empty for a new run.
        launch: Starts the Flower program.

    Raises:
        RegistryError: The journal holds an event that this program does not know.

    """

    def __init__(
        self,
        plan: RunPlan,
        head: HeadArrays,
        doors: Doors,
        history: Iterable[bytes] = (),
        launch: Callable[[Begin, Put], Child] = FlowerChild,
    ) -> None:
        self._plan, self._head, self._doors, self._launch = plan, head, doors, launch
        self._state = engine.replay(plan, [decode_event(e) for e in history])
        self._devices = {engine.node_of(d): d for d in plan.participants}
        self._child: Child | None = None
        self._children = 0
        self._waits_for: int | None = None
        self._messages: dict[str, bytes] = {}
        self._offer_again: dict[str, int] = {}
        self._left: set[str] = set()
        self._due: tuple[int, int] = (0, 0)
        self.late = self.duplicates = 0

    @property
    def state(self) -> engine.RunState:
        """Where the run is."""
        return self._state

    def begin(self, now_ms: int) -> None:
        """Start, or resume: asks again for what is open and starts the Flower child."""
        self._perform(engine.resume(self._plan, self._state), now_ms)

    def heard(self, word: object, now_ms: int) -> None:
        """Take what the child said."""
        if not isinstance(word, Heard) or word.child != self._children or self._child is None:
            return
        match word.word:
            case Push() as push:
                self._pushed(push, now_ms)
            case Done(arrays=arrays):
                self._done(arrays, now_ms)
            case Crashed(why=why):
                self._happen(Failed(why=f"the Flower app raised {why}"[:500], at_ms=now_ms), now_ms)
            case Gone(why=why):
                self._gone(why, now_ms)
            case _ as never:
                assert_never(never)

    def answered(self, device: str, answer: TaskAnswer, attachment: bytes, now_ms: int) -> str:
        """Take a device's answer, already believed to be the device's; return what was made of it.

        ``counted``, ``deferred``, ``duplicate``, ``late``, ``early``, ``unknown``, or
        ``refused: …``.
        """
        if answer.task == engine.task_name(self._plan.run, 0, device):
            return self._judged(device, answer, now_ms)
        posted = next(
            (t for s in self._state.sends for t in s.tasks if t.task == answer.task), None
        )
        if posted is None or posted.device != device:
            return "unknown"
        if answer.task not in {t.task for t in self._open_tasks()}:
            return self._counted_out(any(answer.task in s.answers for s in self._state.sends))
        if answer.outcome == "deferred":
            self._offer_again[answer.task] = now_ms + OFFER_AGAIN_MS
            return "deferred"
        if answer.outcome == "done" and answer.task not in self._messages:
            return "early"  # a restarted child asks for it soon, and the device sends it again
        outcome, why = answer.outcome, answer.why
        if outcome == "done":
            refusal = self._spool(posted, answer, attachment)
            if refusal:
                outcome, why = "refused", refusal
        event = Answered(task=answer.task, outcome=outcome, why=why[:500], at_ms=now_ms)
        self._happen(event, now_ms)
        return f"refused: {why}" if outcome == "refused" else "counted"

    def returned(self, device: str, now_ms: int) -> None:
        """Offer a device its open tasks again."""
        self._offer([t for t in self._open_tasks() if t.device == device], now_ms)
        if device in engine.awaited(self._plan, self._state):
            self._ask_evaluation([device], now_ms)

    def left(self, device: str, now_ms: int) -> None:
        """Go on without a device that is of the fleet no more."""
        self._left.add(device)
        self._answer_for_the_gone(now_ms)

    def fail(self, why: str, now_ms: int) -> None:
        """End the run: something in it went wrong."""
        self._happen(Failed(why=why[:500], at_ms=now_ms), now_ms)

    def tick(self, now_ms: int) -> None:
        """Let time pass: deadlines, and offers to devices that asked for a later one."""
        match self._state.phase:
            case engine.Driving() if self._state.sends:
                send = self._state.sends[-1]
                if not send.closed and now_ms >= self._due_ms(send.deadline_ms, now_ms):
                    self._happen(TimedOut(ordinal=send.ordinal, at_ms=now_ms), now_ms)
            case engine.Evaluating(deadline_ms) if now_ms >= self._due_ms(deadline_ms, now_ms):
                self._happen(EvaluationClosed(at_ms=now_ms), now_ms)
        soon = range(now_ms + 1, now_ms + OFFER_AGAIN_MS + 1)
        due = {t for t, at in self._offer_again.items() if at not in soon}
        for task in due:
            del self._offer_again[task]
        if due:
            self._offer([t for t in self._open_tasks() if t.task in due], now_ms)
            waiting = engine.awaited(self._plan, self._state)
            names = {engine.task_name(self._plan.run, 0, d): d for d in waiting}
            self._ask_evaluation([d for t, d in names.items() if t in due], now_ms)

    def stop(self, why: str, now_ms: int) -> None:
        """End the run on an operator's word."""
        self._happen(Stopped(why=why[:500], at_ms=now_ms), now_ms)

    def close(self) -> None:
        """End the child without ending the run: the manager is shutting down."""
        child, self._child, self._waits_for = self._child, None, None
        if child is not None:
            child.close()

    def candidate(self) -> HeadArrays | None:
        """Return the aggregated head once there is one."""
        content = self._doors.read(FINAL)
        return None if content is None else read_final(content, self._head)

    def _happen(self, event: RunEvent, now_ms: int) -> None:
        state, effects = engine.step(self._plan, self._state, event)
        if state != self._state:
            self._doors.journal(encode_event(event))
            self._state = state
        self._perform(effects, now_ms)

    def _perform(self, effects: Sequence[engine.Effect], now_ms: int) -> None:
        for effect in effects:
            match effect:
                case engine.StartChild():
                    self._start_child()
                case engine.Offer(tasks):
                    self._offer(tasks, now_ms)
                case engine.Deliver(ordinal):
                    self._deliver(ordinal)
                case engine.AskEvaluation(devices):
                    self._ask_evaluation(devices, now_ms)
                case engine.Conclude():
                    self.close()
                case _ as never:
                    assert_never(never)

    def _start_child(self) -> None:
        self._children += 1
        number = self._children

        def put(word: FromChild) -> None:
            self._doors.put(Heard(number, word))

        nodes = tuple(sorted(self._devices))
        self._child = self._launch(begin_word(self._plan, self._head, nodes), put)

    def _pushed(self, push: Push, now_ms: int) -> None:
        open_now = {t.task for t in self._open_tasks()}
        self._messages = {t: m for t, m in self._messages.items() if t in open_now}
        try:
            tasks = tasks_of(self._plan.run, push, self._devices)
        except RefusedError as why:
            self.fail(str(why), now_ms)
            return
        self._messages |= {posted.task: message for posted, message in tasks}
        self._waits_for = push.ordinal
        event = Pushed(ordinal=push.ordinal, tasks=tuple(t for t, _ in tasks), at_ms=now_ms)
        self._happen(event, now_ms)
        self._answer_for_the_gone(now_ms)

    def _answer_for_the_gone(self, now_ms: int) -> None:
        why = "it is of the fleet no more"
        for posted in self._open_tasks():
            if posted.device in self._left:
                event = Answered(task=posted.task, outcome="declined", why=why, at_ms=now_ms)
                self._happen(event, now_ms)
        for device in engine.awaited(self._plan, self._state):
            if device in self._left:
                self._happen(NotEvaluated(device=device, why=why, at_ms=now_ms), now_ms)

    def _done(self, arrays: bytes, now_ms: int) -> None:
        try:
            read_final(arrays, self._head)
        except RefusedError as why:
            self._happen(Failed(why=str(why)[:500], at_ms=now_ms), now_ms)
            return
        self._doors.keep(FINAL, arrays)
        digest = sha256(self._doors.read(FINAL) or arrays).hexdigest()
        self._happen(ChildFinished(digest=digest, at_ms=now_ms), now_ms)
        self._answer_for_the_gone(now_ms)

    def _gone(self, why: str, now_ms: int) -> None:
        self.close()
        if self._children > MAX_RESTARTS:
            self.fail(f"it died {self._children} times: {why}", now_ms)
        elif isinstance(self._state.phase, engine.Driving):
            self._start_child()

    def _open_tasks(self) -> tuple[Posted, ...]:
        sends = self._state.sends
        driving = isinstance(self._state.phase, engine.Driving)
        return sends[-1].open_tasks if driving and sends else ()

    def _offer(self, tasks: Iterable[Posted], now_ms: int) -> None:
        for posted in tasks:
            content = self._messages.get(posted.task)
            if content is None:
                continue  # a restarted child has not come this far again
            left_ms = self._due_ms(self._state.sends[-1].deadline_ms, now_ms) - now_ms
            self._send_task(posted.device, posted.task, posted.kind, content, left_ms)

    def _ask_evaluation(self, devices: Iterable[str], now_ms: int) -> None:
        candidate, phase = self.candidate(), self._state.phase
        if candidate is None or not isinstance(phase, engine.Evaluating):
            return
        for device in devices:
            task = engine.task_name(self._plan.run, 0, device)
            content = evaluation_message(self._plan, task, device, candidate, self._head)
            left_ms = self._due_ms(phase.deadline_ms, now_ms) - now_ms
            self._send_task(device, task, "evaluate", content, left_ms)

    def _due_ms(self, deadline_ms: int, now_ms: int) -> int:
        """Return a deadline, no farther away than one was ever set: clocks are put back."""
        latest = now_ms + self._plan.deadline_seconds * 1000
        known, due_ms = self._due
        due_ms = min(due_ms if known == deadline_ms else deadline_ms, latest)
        self._due = (deadline_ms, due_ms)
        return due_ms

    def _send_task(self, device: str, name: str, kind: str, content: bytes, left_ms: int) -> None:
        task = Task(
            device=device,
            run=self._plan.run,
            task=name,
            kind=kind,
            backbone=self._plan.backbone,
            digest=sha256(content).hexdigest(),
            lasts_seconds=max(1, -(-left_ms // 1000)),
        )
        self._doors.offer(task, content)

    def _deliver(self, ordinal: int) -> None:
        if self._child is None or self._waits_for != ordinal:
            return  # a restarted child asks again, and is then answered at once
        send = self._state.sends[ordinal - 1]
        replies = []
        for posted in sorted(send.tasks, key=lambda t: engine.node_of(t.device)):
            answer, node = send.answers.get(posted.task), engine.node_of(posted.device)
            if answer is not None:
                content = self._doors.read(posted.task) if answer.outcome == "done" else None
                replies.append(Reply(node=node, content=content, why=answer.why))
        self._waits_for = None
        self._child.send(Replies(ordinal=ordinal, replies=tuple(replies)))

    def _spool(self, posted: Posted, answer: TaskAnswer, attachment: bytes) -> str | None:
        """Keep a good reply; return why it is none."""
        if answer.digest != sha256(attachment).hexdigest():
            return "the reply is not the one that its answer names"
        try:
            screen_reply(attachment, self._messages[posted.task])
        except ContractError as why:
            return str(why)
        self._doors.keep(posted.task, attachment)
        return None

    def _judged(self, device: str, answer: TaskAnswer, now_ms: int) -> str:
        if device not in engine.awaited(self._plan, self._state):
            known = device in self._state.figures or device in self._state.silent
            return self._counted_out(known) if device in self._plan.evaluators else "unknown"
        if answer.outcome == "deferred":
            self._offer_again[answer.task] = now_ms + OFFER_AGAIN_MS
            return "deferred"
        self._happen(judgement_of(device, answer, now_ms), now_ms)
        return "counted"

    def _counted_out(self, known: bool) -> str:  # noqa: FBT001 -- one private caller's word
        self.duplicates += known
        self.late += not known
        return "duplicate" if known else "late"
