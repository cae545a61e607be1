"""Conducts one run: journal first, then offers, answers and the Flower child.

Rule 1: everything is called from one thread, the manager's; the child's reader thread
        only puts its words where that thread takes them.
Rule 2: an event is journalled before any of its effects happens.
Rule 3: bytes are spooled under their task's name before the event that speaks of them.
Rule 4: one answer costs the same whether ten devices take part or ten thousand.

How the service uses it::

    conductor = Conductor(plan, head, doors)          # or history=events after a restart
    conductor.begin(now_ms)
    ...   conductor.heard(word, now_ms)               # what the child said (doors.put)
    ...   conductor.answered(device, answer, attachment, now_ms)
    ...   conductor.returned(device, now_ms)          # it connected again: offers repeat
    ...   conductor.tick(now_ms)                      # at least once a second
    conductor.state                                   # training, evaluating, finished, …
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import assert_never

from agent.contract.rounds import TaskAnswer
from agent.errors import ContractError
from fleet.errors import RefusedError
from fleet.rounds import engine
from fleet.rounds.answers import judgement_of, tasks_of
from fleet.rounds.asking import Asking
from fleet.rounds.buffered import open_tasks, open_tasks_of, whom_to_ask
from fleet.rounds.delivery import fetched, folded_of, replies_of
from fleet.rounds.doors import Doors
from fleet.rounds.events import (
    FINAL,
    Answered,
    ChildFinished,
    Failed,
    NotEvaluated,
    Paused,
    Posted,
    Pushed,
    Resumed,
    RunEvent,
    RunPlan,
    Stopped,
    Surplus,
    decode_event,
    encode_event,
)
from fleet.rounds.heads import HeadArrays, begin_word, read_arrays, read_final
from fleet.rounds.host import Child, FlowerChild, Put
from fleet.rounds.pipe import Begin, Crashed, Done, Fetch, Gone, Push
from fleet.rounds.program import Program
from fleet.rounds.screen import screen_reply
from fleet.rounds.sends import Send

__all__ = ["Conductor", "Doors", "HeadArrays"]


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
        self._plan, self._head, self._doors = plan, head, doors
        self._state = engine.replay(plan, [decode_event(e) for e in history])
        self._devices = {engine.node_of(d): d for d in plan.participants}
        self._evaluators = frozenset(plan.evaluators)
        self._program = Program(launch, doors.put)
        self._asking = Asking(plan, head, doors)
        self._left: dict[str, str] = {}

    @property
    def plan(self) -> RunPlan:
        """What was asked for."""
        return self._plan

    @property
    def state(self) -> engine.RunState:
        """Where the run is."""
        return self._state

    @property
    def put_off(self) -> Mapping[str, str]:
        """Why a device wants a task later, by task."""
        return self._asking.put_off

    def begin(self, now_ms: int) -> None:
        """Start, or resume: asks again for what is open and starts the Flower child."""
        self._perform(engine.resume(self._plan, self._state), now_ms)

    def heard(self, word: object, now_ms: int) -> None:
        """Take what the child said."""
        said = self._program.said(word)
        match said:
            case None:
                return
            case Push() as push:
                self._pushed(push, now_ms)
            case Fetch() as asked:
                device = self._devices.get(asked.node)
                self._program.hand(fetched(self._plan.run, device, asked, self._doors.read))
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
        send = self._state.find(answer.task)
        posted = None if send is None else send.by_name[answer.task]
        if send is None or posted is None or posted.device != device:
            return "unknown"
        if not isinstance(self._state.phase, engine.Driving) or not send.is_open(answer.task):
            return self._came_in_vain(send, answer, now_ms)
        if answer.outcome == "deferred":
            self._asking.later(answer.task, device, now_ms, answer.why)
            return "deferred"
        if answer.outcome == "done" and not self._asking.knows(answer.task):
            return "early"  # a restarted child asks for it soon, and the device sends it again
        outcome, why, norm = answer.outcome, answer.why, None
        if outcome == "done":
            refusal, norm = self._spool(posted, answer, attachment)
            if refusal:
                outcome, why = "refused", refusal
        self._asking.settle(answer.task)
        event = Answered(task=answer.task, outcome=outcome, why=why[:500], norm=norm, at_ms=now_ms)
        self._happen(event, now_ms)
        return f"refused: {why}" if outcome == "refused" else "counted"

    def returned(self, device: str, now_ms: int) -> None:
        """Offer a device its open tasks again."""
        mine = open_tasks_of(self._plan.run, self._state, device)
        self._asking.train(self._state, mine, now_ms)
        if self._state.awaits(device):
            self._asking.judge(self._state, [device], now_ms)

    def left(self, device: str, now_ms: int, why: str = "it is of the fleet no more") -> None:
        """Go on without a device that is of the fleet no more, or is not to learn with it."""
        self._left[device] = why[:500]
        self._answer_for_the_gone(now_ms)

    def fail(self, why: str, now_ms: int) -> None:
        """End the run: something in it went wrong."""
        self._happen(Failed(why=why[:500], at_ms=now_ms), now_ms)

    def tick(self, now_ms: int) -> None:
        """Let time pass: deadlines, and the offers whose time has come."""
        passed = self._asking.time_is_up(self._state, now_ms)
        if passed is not None:
            self._happen(passed, now_ms)
        self._asking.move(self._state, now_ms)

    def pause(self, now_ms: int) -> None:
        """Offer nothing and let no deadline pass until ``go_on``; answers count all the same."""
        self._happen(Paused(at_ms=now_ms), now_ms)
        if self._state.paused_ms is not None:
            self._asking.clear()

    def go_on(self, now_ms: int) -> None:
        """End a pause."""
        self._happen(Resumed(at_ms=now_ms), now_ms)

    def stop(self, why: str, now_ms: int) -> None:
        """End the run on an operator's word."""
        self._happen(Stopped(why=why[:500], at_ms=now_ms), now_ms)

    def close(self) -> None:
        """End the child without ending the run: the manager is shutting down."""
        self._program.close()

    def candidate(self) -> HeadArrays | None:
        """Return the aggregated head once there is one."""
        return self._asking.candidate()

    def _happen(self, event: RunEvent, now_ms: int) -> None:
        state, effects = engine.step(self._plan, self._state, event)
        if state is not self._state:
            self._doors.journal(encode_event(event))
            self._state = state
        self._perform(effects, now_ms)

    def _perform(self, effects: Sequence[engine.Effect], now_ms: int) -> None:
        for effect in effects:
            match effect:
                case engine.StartChild():
                    self._start_child()
                case engine.Offer(tasks):
                    self._asking.train(self._state, tasks, now_ms)
                case engine.Deliver(ordinal):
                    self._deliver(ordinal)
                case engine.AskEvaluation(devices):
                    self._asking.judge(self._state, devices, now_ms)
                case engine.Conclude():
                    self.close()
                case _ as never:
                    assert_never(never)

    def _start_child(self) -> None:
        nodes = tuple(sorted(self._devices))
        self._program.start(begin_word(self._plan, self._head, nodes))

    def _pushed(self, push: Push, now_ms: int) -> None:
        try:
            named = tasks_of(self._plan.run, push, self._devices)
        except RefusedError as why:
            self.fail(str(why), now_ms)
            return
        posted = [task for task, _ in named]
        tasks = whom_to_ask(self._plan, self._state, push.ordinal, posted)
        asked = {task.task for task in tasks}
        self._asking.take_messages(self._state, {t.task: m for t, m in named if t.task in asked})
        self._program.asks(push.ordinal)
        event = Pushed(ordinal=push.ordinal, tasks=tasks, named=len(named), at_ms=now_ms)
        self._happen(event, now_ms)
        self._answer_for_the_gone(now_ms)

    def _answer_for_the_gone(self, now_ms: int) -> None:
        if not self._left:
            return
        for posted in tuple(open_tasks(self._state)):
            if why := self._left.get(posted.device):
                event = Answered(task=posted.task, outcome="declined", why=why, at_ms=now_ms)
                self._happen(event, now_ms)
        for device in engine.awaited(self._plan, self._state):
            if why := self._left.get(device):
                self._happen(NotEvaluated(device=device, why=why, at_ms=now_ms), now_ms)

    def _done(self, arrays: bytes, now_ms: int) -> None:
        try:
            judged = self._is_head(arrays)
        except RefusedError as why:
            self._happen(Failed(why=str(why)[:500], at_ms=now_ms), now_ms)
            return
        self._doors.keep(FINAL, arrays)
        digest = sha256(self._doors.read(FINAL) or arrays).hexdigest()
        self._happen(ChildFinished(digest=digest, judged=judged, at_ms=now_ms), now_ms)
        self._answer_for_the_gone(now_ms)

    def _is_head(self, arrays: bytes) -> bool:
        """Return whether devices can judge the arrays; those of an app of theirs may be any.

        Raises:
            RefusedError: They are of no use.

        """
        try:
            read_final(arrays, self._head)
        except RefusedError:
            if self._plan.client_app is None:
                raise
            read_arrays(arrays)
            return False
        return True

    def _gone(self, why: str, now_ms: int) -> None:
        self.close()
        if not self._program.may_start:
            self.fail(f"it died {self._program.started} times: {why}", now_ms)
        elif isinstance(self._state.phase, engine.Driving):
            self._start_child()

    def _deliver(self, ordinal: int) -> None:
        if not self._program.waits_for(ordinal):
            return  # a restarted child asks again, and is then answered at once
        send = self._state.sends[ordinal - 1]
        self._asking.take_messages(self._state, {})  # what it asked is of no use any more
        large = self._head.weight.nbytes + self._head.bias.nbytes
        if self._plan.buffer:
            told = folded_of(self._state, send, large, self._doors.read)
        else:
            told = replies_of(self._plan, send, large, self._doors.read)
        self._program.reply(ordinal, told)

    def _spool(
        self, posted: Posted, answer: TaskAnswer, attachment: bytes
    ) -> tuple[str, float | None]:
        """Keep a good reply; return why it is none, and the length of its step."""
        if answer.digest != sha256(attachment).hexdigest():
            return "the reply is not the one that its answer names", None
        try:
            screened = screen_reply(attachment, self._asking.message(posted.task) or b"")
        except ContractError as why:
            return str(why), None
        self._doors.keep(posted.task, attachment)
        return "", screened.norm

    def _judged(self, device: str, answer: TaskAnswer, now_ms: int) -> str:
        if not self._state.awaits(device):
            if device not in self._evaluators:
                return "unknown"
            known = device in self._state.figures or device in self._state.silent
            return "duplicate" if known else "late"
        if answer.outcome == "deferred":
            self._asking.later(answer.task, device, now_ms, answer.why)
            return "deferred"
        self._asking.settle(answer.task)
        self._happen(judgement_of(device, answer, now_ms), now_ms)
        return "counted"

    def _came_in_vain(self, send: Send, answer: TaskAnswer, now_ms: int) -> str:
        known = answer.task in send.answers
        if known or answer.outcome != "deferred":
            how = "again" if known else "late"
            self._happen(Surplus(task=answer.task, how=how, at_ms=now_ms), now_ms)
        return "duplicate" if known else "late"
