"""What leaves for devices in a run: its offers, each at its time, and when time is up.

Rule 1: decides nothing about the run: it reads the state and sends what is open in it.
Rule 2: while the run is paused nothing leaves and no time is up.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256

from agent.contract.rounds import Task
from fleet.errors import RefusedError
from fleet.rounds.answers import Wording
from fleet.rounds.buffered import open_tasks
from fleet.rounds.doors import Doors
from fleet.rounds.events import (
    FINAL,
    EvaluationClosed,
    Posted,
    RunPlan,
    TimedOut,
)
from fleet.rounds.heads import HeadArrays, evaluation_message, read_final
from fleet.rounds.offering import Offering
from fleet.rounds.patience import Patience
from fleet.rounds.sends import Send, lasts_ms, spread_seconds, task_name
from fleet.rounds.state import Driving, Evaluating, RunState


class Asking:
    """The offers and deadlines of one run.

    Args:
        plan: What was asked for.
        head: The running head.
        doors: The world.

    """

    def __init__(self, plan: RunPlan, head: HeadArrays, doors: Doors) -> None:
        self._plan, self._head, self._doors = plan, head, doors
        self._offering = Offering(doors.may_offer)
        self._patience = Patience()
        self._messages: dict[str, Wording] = {}

    @property
    def put_off(self) -> Mapping[str, str]:
        """Why a device wants a task later, by task."""
        return self._offering.put_off

    def take_messages(self, state: RunState, messages: Mapping[str, Wording]) -> None:
        """Take the Flower messages of a send, by task; those that nobody needs are forgotten."""
        still = {task.task for task in open_tasks(state)}
        kept = {task: message for task, message in self._messages.items() if task in still}
        self._messages = {**kept, **messages}

    def message(self, task: str) -> bytes | None:
        """Return what a task asks; None before a restarted child has come this far again."""
        wording = self._messages.get(task)
        return None if wording is None else wording.whole()

    def knows(self, task: str) -> bool:
        """Return whether a restarted child has come as far as this task again."""
        return task in self._messages

    def candidate(self) -> HeadArrays | None:
        """Return the aggregated head once there is one; an app's own arrays are none."""
        content = self._doors.read(FINAL)
        try:
            return None if content is None else read_final(content, self._head)
        except RefusedError:
            if self._plan.client_app is None:
                raise
            return None

    def train(self, state: RunState, tasks: Iterable[Posted], now_ms: int) -> None:
        """Offer tasks of the Flower program."""
        self._offering.add((t.task, t.device) for t in tasks)
        self.move(state, now_ms)

    def judge(self, state: RunState, devices: Iterable[str], now_ms: int) -> None:
        """Offer devices the candidate for judgement."""
        self._offering.add((task_name(self._plan.run, 0, d), d) for d in devices)
        self.move(state, now_ms)

    def later(self, task: str, device: str, now_ms: int, why: str) -> None:
        """Offer a task again after a while."""
        self._offering.later(task, device, now_ms, why)

    def settle(self, task: str) -> None:
        """Forget the offer of a task that was answered."""
        self._offering.settle(task)

    def clear(self) -> None:
        """Forget every offer that has not left."""
        self._offering.clear()

    def move(self, state: RunState, now_ms: int) -> None:
        """Send the offers that may leave now."""
        if state.paused_ms is not None or self._offering.is_empty:
            return
        ready = self._offering.ready(
            now_ms, lambda task, device: self._makes_sense(state, task, device)
        )
        match state.phase:
            case Evaluating() as phase if (candidate := self.candidate()) is not None:
                left_ms = self._judging_due_ms(phase, now_ms) - now_ms
                asked = len(self._plan.evaluators)
                for task, device in ready:
                    content = evaluation_message(self._plan, task, device, candidate, self._head)
                    self._send(device, task, "evaluate", content, left_ms=left_ms, asked=asked)
            case Driving() if (send := state.underway) is not None:
                left_ms = self._send_due_ms(send, now_ms) - now_ms
                asked = len(send.tasks)
                for task, device in ready:
                    kind = (state.find(task) or send).by_name[task].kind
                    self._send(
                        device,
                        task,
                        kind,
                        self._messages[task].whole(),
                        left_ms=left_ms,
                        asked=asked,
                    )

    def time_is_up(self, state: RunState, now_ms: int) -> TimedOut | EvaluationClosed | None:
        """Return the deadline that has passed."""
        if state.paused_ms is not None:
            return None
        match state.phase:
            case Driving() if (send := state.underway) is not None:
                if now_ms >= self._send_due_ms(send, now_ms):
                    return TimedOut(ordinal=send.ordinal, at_ms=now_ms)
            case Evaluating() as phase if now_ms >= self._judging_due_ms(phase, now_ms):
                return EvaluationClosed(at_ms=now_ms)
        return None

    def _makes_sense(self, state: RunState, task: str, device: str) -> bool:
        if isinstance(state.phase, Evaluating):
            return state.awaits(device) and task == task_name(self._plan.run, 0, device)
        send = state.find(task)
        return send is not None and send.is_open(task) and task in self._messages

    def _send_due_ms(self, send: Send, now_ms: int) -> int:
        lasts = lasts_ms(self._plan, len(send.tasks))
        return self._patience.due_ms(send.deadline_ms, now_ms, lasts)

    def _judging_due_ms(self, phase: Evaluating, now_ms: int) -> int:
        lasts = lasts_ms(self._plan, len(self._plan.evaluators))
        return self._patience.due_ms(phase.deadline_ms, now_ms, lasts)

    def _send(
        self, device: str, name: str, kind: str, content: bytes, *, left_ms: int, asked: int
    ) -> None:
        task = Task(
            device=device,
            run=self._plan.run,
            task=name,
            kind=kind,
            backbone=self._plan.backbone,
            digest=sha256(content).hexdigest(),
            lasts_seconds=max(1, -(-left_ms // 1000)),
            spread_seconds=spread_seconds(self._plan, asked),
        )
        self._doors.offer(task, content)
