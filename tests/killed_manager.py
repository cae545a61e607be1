"""The manager's own program, which pulls a plug at a chosen step of a federated run.

``python -m tests.killed_manager serve --home HOME`` is ``fieldfare serve``, except that the
conductor's doors are watched: at the step that ``HOME/kill.json`` names, a process is killed
with SIGKILL, this one or another. The file is removed first, so that each is killed once.
"""

import os
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from msgspec import Struct, json

from fleet.__main__ import main
from fleet.rounds.conduct import Conductor
from fleet.rounds.events import decode_event
from fleet.rounds.host import FlowerChild
from fleet.service import run_doors

ASKED = "kill.json"


class Kill(Struct, frozen=True):
    """Which process dies at the ``nth`` time that a step is passed; pid 0 is the manager."""

    step: str
    nth: int = 1
    pid: int = 0


class Watched:
    """The steps of one conductor, counted."""

    def __init__(self, home: Path) -> None:
        self._asked = home / ASKED
        self._passed: Counter[str] = Counter()

    def passes(self, step: str) -> None:
        self._passed[step] += 1
        if not self._asked.exists():
            return
        kill = json.decode(self._asked.read_bytes(), type=Kill)
        if (kill.step, kill.nth) == (step, self._passed[step]):
            self._asked.unlink()
            os.kill(kill.pid or os.getpid(), signal.SIGKILL)


class WatchedChild(FlowerChild):
    """The Flower child; what it is told is a step."""

    def __init__(self, begin, put, watched: Watched) -> None:
        super().__init__(begin, put)
        self._watched = watched

    def send(self, word) -> None:
        super().send(word)
        self._watched.passes("replies are delivered")


class WatchedConductor(Conductor):
    """The conductor of a run, its doors watched."""

    def __init__(self, plan, head, doors, *arguments: object, **named: object) -> None:
        watched = Watched(HOME)

        def journal(event: bytes) -> None:
            kind = type(decode_event(event)).__name__
            watched.passes(f"before {kind}")
            doors.journal(event)
            watched.passes(f"after {kind}")

        def keep(name: str, content: bytes) -> None:
            doors.keep(name, content)
            watched.passes("the final weights are spooled" if name == "final" else "spooled")

        def offer(task, content: bytes) -> None:
            doors.offer(task, content)
            watched.passes(f"{task.kind} is offered")

        mortal = replace(doors, journal=journal, keep=keep, offer=offer)
        launch = partial(WatchedChild, watched=watched)
        super().__init__(plan, head, mortal, *arguments, **(named | {"launch": launch}))


if __name__ == "__main__":
    import sys

    HOME = Path(sys.argv[sys.argv.index("--home") + 1])
    run_doors.Conductor = WatchedConductor
    main()
