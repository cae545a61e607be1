"""Whether this device takes a task: its own decision, as a pure function.

Rule 1: a device may always say no; the sentence says why.
Rule 2: *defer* is for conditions that pass by themselves, *decline* for all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.contract.rounds import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the device knows about itself when an offer arrives.

    Attributes:
        device: Own device id.
        trains, evaluates: What its operator allows.
        train_windows, decide_windows: Labelled windows it holds per split.
        minimum_windows: Fewer than this and a task is declined.
        backbones: Manifest digests whose artifacts are on this device and whose
            embedding can be computed: normally the running releases.
        updating: An update of the slot is being fetched or proven.
        busy_with: The task that the worker is doing now, if any.
        hot: Why nothing more should be begun on this device now; "" where it may.
        unready: Why it cannot tell yet what it holds, as after its start; "" where it can.
        apps: Whether signed apps may train here.
        lacking: Why an app cannot run here, by its digest.
        unfetched: Why an app is not here yet, by its digest.

    """

    device: str
    trains: bool
    evaluates: bool
    train_windows: int
    decide_windows: int
    minimum_windows: int = 20
    backbones: frozenset[str] = frozenset()
    updating: bool = False
    busy_with: str | None = None
    hot: str = ""
    unready: str = ""
    apps: bool = False
    lacking: Mapping[str, str] = field(default_factory=dict)
    unfetched: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accept:
    """Do it."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now; offer it again later. ``why`` is one sentence."""

    why: str


@dataclass(frozen=True, slots=True)
class Decline:
    """Not this task, now or later. ``why`` is one sentence."""

    why: str


Decision = Accept | Defer | Decline


def decide(task: Task, conditions: Conditions) -> Decision:
    """Return whether the device takes ``task``."""
    if task.device != conditions.device:
        return Decline(f"the task is for {task.device}")
    allowed = conditions.trains if task.kind == "train" else conditions.evaluates
    if not allowed:
        return Decline(f"this device's operator does not let it {task.kind}")
    if conditions.unready:
        return Defer(conditions.unready)
    about_app = _decide_app(task, conditions)
    if about_app is not None:
        return about_app
    held, what = conditions.decide_windows, "decide"
    least = 1
    if task.kind == "train":
        held, what, least = conditions.train_windows, "train", conditions.minimum_windows
    if held < least:
        return Decline(f"it has {held} {what} windows; at least {least} are needed")
    if conditions.hot and conditions.busy_with != task.task:
        return Defer(conditions.hot)
    if conditions.updating:
        return Defer("an update is being fetched or proven")
    if task.backbone not in conditions.backbones:
        return Decline(f"release {task.backbone[:16]} is not running here")
    if conditions.busy_with is not None and conditions.busy_with != task.task:
        return Defer(f"task {conditions.busy_with} is being done")
    return Accept()


def _decide_app(task: Task, conditions: Conditions) -> Decision | None:
    """Return why the task's app cannot run here, or None where it can, or where there is none."""
    if task.app is None:
        return None
    if not conditions.apps:
        return Decline("this device's operator allows no apps: [learn] apps is not true")
    digest = task.app.digest
    if digest in conditions.lacking:
        return Decline(conditions.lacking[digest])
    return Defer(conditions.unfetched[digest]) if digest in conditions.unfetched else None
