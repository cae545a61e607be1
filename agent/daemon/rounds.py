"""The rooms of federated rounds, joined: tasks, the models they bring, the apps they are for.

Rule 1: an offer goes to ``apps`` first, which hands on what needs no app, or has it here.
Rule 2: devices that were asked together answer at moments of their own.
"""

import time
from collections.abc import Callable
from random import SystemRandom

from agent.config import Config
from agent.contract.rounds import Task
from agent.daemon import apps, learning
from agent.daemon.agenda import Agenda
from agent.daemon.children import Children
from agent.daemon.desired import Desired
from agent.daemon.reporting import Reporting
from agent.daemon.round_models import RoundModels
from agent.disk import Disk
from agent.learn.offer import Conditions


class Rounds:
    """What this device does in rounds.

    Attributes:
        learning: Tasks.
        apps: Signed apps that may do them.

    """

    def __init__(
        self,
        config: Config,
        disk: Disk,
        agenda: Agenda,
        *,
        models: RoundModels,
        reporting: Reporting,
        children: Children,
        desired: Desired,
        conditions: Callable[[str | None], Conditions],
        changed: Callable[[], None],
    ) -> None:
        """``conditions`` tells how the device is, ``changed`` that its inventory is another."""
        self._agenda = agenda
        self._children = children
        self.learning = learning.Learning(
            disk,
            learning.Surroundings(
                conditions=conditions,
                start=self._start,
                answer=reporting.answer_task,
                chunk=reporting.round_chunk,
                gather=models.gather,
                postpone=self._within_spread,
                alarm=reporting.alarm,
                monotonic=time.monotonic,
            ),
        )
        self.apps = apps.Apps(
            config,
            disk,
            apps.Surroundings(
                want=desired.want_manifest,
                vouches=desired.vouches,
                check=children.check_app,
                start=children.app,
                offered=self.learning.offered,
                changed=changed,
                alarm=reporting.alarm,
            ),
        )

    def _start(self, task: Task, attachment: bytes) -> None:
        if task.app is None:
            self._children.learn(task, attachment)
        else:
            self.apps.start(task, task.app, attachment)

    def _within_spread(self, task: Task, act: Callable[[], None]) -> None:
        """Do something at a random moment, so that devices that were asked together do not."""
        wait = SystemRandom().uniform(0, task.spread_seconds)
        if wait:
            self._agenda.at(f"answer-{task.task}", time.monotonic() + wait, act)
        else:
            act()
