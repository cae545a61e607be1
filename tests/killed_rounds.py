"""A whole federated run in one process whose parts can be killed at every step of it.

Manager, broker, devices and the Flower child are the program's own code; only the wire
between them is a pair of queues. What a killed part held in memory is gone:

    manager   its conductor and its child; an answer that it had not settled comes again,
              an offer that it had published is still underway
    broker    all that was underway; both sides connect again
    device    what it was doing; an offer that it had not settled comes again
    child     the Flower program; what it was about to say is lost with it

Each step that can be killed at has a name, as in ``manager: before journal answered``.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.contract.codec import decode
from agent.contract.frames import unpack_parcel
from agent.contract.rounds import Task, TaskAnswer
from agent.daemon.learning import Learning, Surroundings
from agent.disk import Disk
from agent.learn.offer import Conditions
from agent.learn.trainer import answer_task
from agent.worker.jobs import LearnAnswer
from fleet.rounds.events import decode_event
from fleet.rounds.pipe import Gone
from tests.small_rounds import BACKBONE, ThreadChild, World, conductor, mean_over_time, windows

MANAGER, BROKER, CHILD = "manager", "broker", "child"
NOW = 1_700_000_001_000


class KilledError(BaseException):
    """Somebody's plug was pulled. Not an ``Exception``: no code under test may survive it."""


@dataclass
class Plug:
    """Who is killed, and at which of the steps.

    Attributes:
        victim: manager, broker, child, or a device's name.
        at: Numbers of the steps at which it is killed, counted from 1 over the whole run.
        steps: Name of each step so far.

    """

    victim: str = ""
    at: frozenset[int] = frozenset()
    steps: list[str] = field(default_factory=list)

    def passes(self, name: str) -> bool:
        """Count one step; returns whether the victim is killed now."""
        self.steps.append(name)
        return len(self.steps) in self.at


class WatchedDisk(Disk):
    """A device's disk, which names what is about to be written.

    Nothing is synced: the kernel keeps what a killed process wrote, and there are hundreds.
    """

    def __init__(self, root: Path, watch: "Watch") -> None:
        super().__init__(root)
        self._watch = watch

    def write(self, name: str, content: bytes) -> None:
        self._watch.step("write the answer")
        self._make_parent(name)
        self.path(name).write_bytes(content)

    def rename(self, old: str, new: str) -> None:
        self._watch.step("rename the answer")
        self.path(old).replace(self.path(new))


class Watch:
    """The steps of one part; the part itself dies at its own, others only beside it."""

    def __init__(self, name: str, plug: Plug, beside: "KilledRun") -> None:
        self._name, self._plug, self._run = name, plug, beside

    def step(self, what: str) -> None:
        if not self._plug.passes(f"{self._name}: {what}"):
            return
        if self._plug.victim == self._name:
            raise KilledError
        self._run.kill(self._plug.victim)


class KilledDevice:
    """The agent's room for tasks, and the child that would do them."""

    def __init__(self, name: str, seed: int, folder: Path, plug: Plug, run: "KilledRun") -> None:
        self.name = name
        self.samples = windows(seed)
        self.trained = 0
        self._run, self._watch = run, Watch(name, plug, run)
        self._disk = WatchedDisk(folder, self._watch)
        self.boot()

    def boot(self) -> None:
        self.work: deque[tuple[Task, bytes]] = deque()
        around = Surroundings(
            conditions=self._conditions,
            start=lambda task, content: self.work.append((task, content)),
            answer=self._answer,
            alarm=lambda code, why: self._run.alarms.append(f"{code}: {why}"),
            monotonic=lambda: 0.0,
        )
        self.learning = Learning(self._disk, around)

    def offered(self, task: Task, content: bytes) -> None:
        self._watch.step("is offered a task")
        self.learning.offered(task, content, lambda: self._run.settle(task))

    def do_work(self) -> None:
        task, content = self.work.popleft()
        self._watch.step("does a task")
        made = answer_task(content, task.kind, mean_over_time, self.samples)
        self.trained += task.kind == "train"
        self._watch.step("has done a task")
        self.learning.finished(
            LearnAnswer(
                reply=made.reply,
                decide=made.decide,
                withheld=made.withheld,
                decide_running=made.decide_running,
                withheld_running=made.withheld_running,
            )
        )

    def _answer(self, _: str, parcel: bytes) -> bool:
        self._watch.step("before its answer")
        came = self._run.publish_answer(self.name, parcel)
        self._watch.step("after its answer")
        return came

    def _conditions(self, busy_with: str | None) -> Conditions:
        return Conditions(
            device=self.name,
            trains=True,
            evaluates=True,
            train_windows=20,
            decide_windows=20,
            backbones=frozenset({BACKBONE}),
            busy_with=busy_with,
        )


class MortalChild(ThreadChild):
    """The Flower program, which can die between two words."""

    def __init__(self, begin, put, watch: Watch) -> None:
        self._put, self._watch = put, watch
        self._dead = False
        super().__init__(begin, self._say)

    def _say(self, word) -> None:
        if not self._dead:
            self._put(word)

    def send(self, word) -> None:
        self._watch.step("before replies to the child")
        if not self._dead:
            super().send(word)
        self._watch.step("after replies to the child")

    def die(self) -> None:
        self._dead = True
        self._put(Gone(why="killed"))


class KilledRun:
    """One run from its beginning to its end, whatever is killed on the way."""

    def __init__(self, folder: Path, asked, plug: Plug) -> None:
        self.asked, self.plug = asked, plug
        self.world = World()
        self.world.doors = replace(
            self.world.doors, journal=self._journal, keep=self._keep, offer=self._offer
        )
        self.alarms: list[str] = []
        self.underway: deque[tuple[Task, bytes]] = deque()
        self.unsettled: dict[tuple[str, str], tuple[Task, bytes]] = {}
        self.answers: deque[tuple[str, bytes]] = deque()
        self.dead: set[str] = set()
        self.killed = 0
        self._watch = Watch(MANAGER, plug, self)
        names = dict.fromkeys((*asked.participants, *asked.evaluators))
        self.devices = {
            name: KilledDevice(name, seed, folder / name, plug, self)
            for seed, name in enumerate(names)
        }
        self.child: MortalChild | None = None

    @property
    def final(self) -> bytes:
        return self.world.spool["final"]

    def play(self):
        """Return the state at the end."""
        self.run = self._manager()
        try:
            self._alive(MANAGER, lambda: self.run.begin(NOW))
            while self.run.state.active or self.dead:
                self._turn()
        finally:
            self.run.close()
        return self.run.state

    def kill(self, victim: str) -> None:
        """Pull a plug that is not one's own."""
        self.killed += 1
        self.dead.add(victim)
        if victim == BROKER:
            self.underway.clear()
            self.answers.clear()
            self.unsettled.clear()

    def settle(self, task: Task) -> None:
        self.unsettled.pop((task.device, task.task), None)

    def publish_answer(self, device: str, parcel: bytes) -> bool:
        if BROKER in self.dead:
            return False
        self.answers.append((device, parcel))
        return True

    def _manager(self):
        def launch(begin, put):
            self.child = MortalChild(begin, put, self._watch)
            return self.child

        return conductor(self.world, self.asked, launch=launch)

    def _alive(self, who: str, act) -> None:
        try:
            act()
        except KilledError:
            self.killed += 1
            self.dead.add(who)

    def _turn(self) -> None:
        for victim in sorted(self.dead):
            self._revive(victim)
        if self.dead:
            return  # somebody did not live long
        working = next((d for d in self.devices.values() if d.work), None)
        if working is not None:
            self._alive(working.name, working.do_work)
        elif self.underway:
            task, content = self.underway.popleft()
            self.unsettled[task.device, task.task] = task, content
            self._alive(task.device, lambda: self.devices[task.device].offered(task, content))
        elif self.answers:
            self._alive(MANAGER, self._hear_answer)
        elif self.run.state.active:
            self._alive(MANAGER, self._hear_child)

    def _hear_answer(self) -> None:
        device, parcel = self.answers[0]
        document, attachment = unpack_parcel(parcel)
        self._watch.step("hears a device")
        self.run.answered(device, decode(TaskAnswer, document), attachment, NOW)
        if self.answers:  # a broker that died meanwhile has forgotten it
            self.answers.popleft()

    def _hear_child(self) -> None:
        word = self.world.words.get(timeout=30)
        self._watch.step("hears the child")
        self.run.heard(word, NOW)

    def _revive(self, victim: str) -> None:
        self.dead.discard(victim)
        if victim == MANAGER:
            self.run.close()
            while not self.world.words.empty():
                self.world.words.get()
            self.run = self._manager()
            self._alive(MANAGER, lambda: self.run.begin(NOW))
            self._meet(self.devices)
        elif victim == BROKER:
            self._meet(self.devices)
            for device in self.devices.values():
                self._alive(device.name, device.learning.connected)
        elif victim == CHILD:
            if self.child is not None:
                self.child.die()
        else:
            self.devices[victim].boot()
            again = [key for key in self.unsettled if key[0] == victim]
            self.underway.extend(self.unsettled.pop(key) for key in again)
            self._meet([victim])

    def _meet(self, names) -> None:
        def greet() -> None:
            for name in names:
                self.run.returned(name, NOW)

        if MANAGER not in self.dead:
            self._alive(MANAGER, greet)

    def _journal(self, event: bytes) -> None:
        kind = type(decode_event(event)).__name__
        self._watch.step(f"before journal {kind}")
        self.world.journal.append(event)
        self._watch.step(f"after journal {kind}")

    def _keep(self, name: str, content: bytes) -> None:
        what = "the final weights" if name == "final" else "a reply"
        self._watch.step(f"before spool of {what}")
        self.world.spool.setdefault(name, content)
        self._watch.step(f"after spool of {what}")

    def _offer(self, task: Task, content: bytes) -> None:
        self._watch.step(f"before offer of {task.kind}")
        if BROKER not in self.dead:
            self.underway.append((task, content))
        self._watch.step(f"after offer of {task.kind}")
