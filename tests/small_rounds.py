"""A federated run in one process: devices with blobs for windows, and the world around it."""

import os
import threading
from collections import deque
from hashlib import sha256
from queue import SimpleQueue

import numpy as np

from agent.contract.rounds import TaskAnswer
from agent.learn.samples import LabelledWindows
from agent.learn.trainer import answer_task
from fleet.rounds.child import serve
from fleet.rounds.conduct import Conductor, Doors, HeadArrays
from fleet.rounds.engine import RunPlan
from fleet.rounds.pipe import Gone, read_from_child, write_word

CLASSES, WIDTH = 3, 4
BACKBONE = "ab" * 32
DEVICES = ("d-one", "d-two", "d-three")


class CrashError(Exception):
    """The manager died here."""


def running_head():
    chance = np.random.default_rng(9)
    return HeadArrays(
        weight=chance.normal(0, 0.1, (CLASSES, WIDTH)).astype(np.float32),
        bias=np.zeros(CLASSES, np.float32),
    )


def plan(**changes):
    fields = {
        "run": "run-1",
        "slot": "motion",
        "backbone": BACKBONE,
        "rounds": 2,
        "started_ms": 1_700_000_000_000,
        "participants": DEVICES[:2],
        "evaluators": DEVICES,
        **changes,
    }
    return RunPlan(**fields)


def windows(seed, count=60):
    chance = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    centres = np.eye(CLASSES, WIDTH) * 2 + seed
    x = (centres[y] + chance.normal(0, 0.5, (count, WIDTH))).astype(np.float32)
    split = (np.arange(count) // CLASSES % 3).astype(np.uint8)
    return LabelledWindows(x=np.repeat(x[:, :, None], 8, axis=2), y=y.astype(np.int64), split=split)


def mean_over_time(x):
    return x.mean(axis=2).astype(np.float32)


class SmallDevice:
    """Does a task as the agent's worker does."""

    def __init__(self, seed) -> None:
        self.samples = windows(seed)
        self.trained = 0

    def embed(self, x):
        return mean_over_time(x)

    def answer(self, task, attachment):
        self.trained += task.kind == "train"
        made = answer_task(attachment, task.kind, self.embed, self.samples)
        said = TaskAnswer(
            run=task.run,
            task=task.task,
            outcome="done",
            digest=sha256(made.reply).hexdigest(),
            decide=made.decide,
            withheld=made.withheld,
            decide_running=made.decide_running,
            withheld_running=made.withheld_running,
        )
        return said, made.reply


class ThreadChild:
    """The Flower program in a thread, spoken to over real pipes."""

    def __init__(self, begin, put) -> None:
        down, self._to_child = (
            os.fdopen(f, m) for f, m in zip(os.pipe(), ("rb", "wb"), strict=True)
        )
        from_child, up = (os.fdopen(f, m) for f, m in zip(os.pipe(), ("rb", "wb"), strict=True))

        def run():
            with down, up:
                serve(down, up)

        def read():
            with from_child:
                while (word := read_from_child(from_child)) is not None:
                    put(word)
            put(Gone(why="the thread ended"))

        self._threads = [threading.Thread(target=t) for t in (run, read)]
        for thread in self._threads:
            thread.start()
        write_word(self._to_child, begin)

    def send(self, word):
        write_word(self._to_child, word)

    def close(self):
        self._to_child.close()
        for thread in self._threads:
            thread.join(20)


class World:
    """Journal, spool, offers and words of one run; it may die at a given moment."""

    def __init__(self, dies_at=None) -> None:
        self.journal = []
        self.spool = {}
        self.offers = deque()
        self.words = SimpleQueue()
        self.moments = 0
        self.dies_at = dies_at
        self.doors = Doors(
            journal=self._record,
            keep=self._keep,
            read=self.spool.get,
            offer=lambda task, content: self.offers.append((task, content)),
            put=self.words.put,
        )

    def lose_what_was_underway(self):
        """What was published and said, but not journalled, dies with the manager."""
        self.offers.clear()
        while not self.words.empty():
            self.words.get()

    def _moment(self):
        self.moments += 1
        if self.moments == self.dies_at:
            raise CrashError

    def _record(self, event):
        self._moment()  # before it is on the medium
        self.journal.append(event)
        self._moment()  # on the medium, but nothing of it done

    def _keep(self, name, content):
        self.spool.setdefault(name, content)
        self._moment()


def conductor(world, asked=None, *, launch=ThreadChild, head=None):
    return Conductor(
        asked or plan(), head or running_head(), world.doors, list(world.journal), launch
    )


def drive(run, world, devices, *, now_ms=1_700_000_001_000, answer=None):
    """Let devices answer and the child speak until the run is over."""
    answer = answer or (lambda device, task, content: devices[device].answer(task, content))
    try:
        run.begin(now_ms)
        while run.state.active:
            if world.offers:
                task, content = world.offers.popleft()
                said = answer(task.device, task, content)
                if said is not None:
                    run.answered(task.device, *said, now_ms)
            else:
                run.heard(world.words.get(timeout=30), now_ms)
    finally:
        run.close()
    return run.state


def three_devices():
    return {name: SmallDevice(seed) for seed, name in enumerate(DEVICES)}
