"""Federated runs: started, shown, moved on with what devices and time bring, and ended.

Rule 1: a run starts from the release that its devices run now; devices that run
        something else wait for the next one.
Rule 2: what goes wrong in a run ends this run, and not the manager.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from agent.contract.codec import encode
from agent.contract.rounds import TaskAnswer
from fleet.errors import ConflictError, RefusedError, RegistryError
from fleet.registry.devices import Device, DeviceState
from fleet.registry.models import Published
from fleet.rollout.selector import parse_selector, select
from fleet.rounds.conduct import Conductor
from fleet.rounds.engine import RunPlan, Training
from fleet.service.desk import Desk
from fleet.service.overview import name_of
from fleet.service.run_doors import conductor_of, row_of
from fleet.service.run_views import plan_of, view
from fleet.service.views import RunView
from fleet.service.wishes import RunWish

LOG = logging.getLogger(__name__)
R = TypeVar("R")


def start(desk: Desk, wish: RunWish) -> RunView:
    """Start a run.

    Raises:
        RefusedError: Nobody can train, or the release has no trainable head.
        ConflictError: A run of this slot is active.

    """
    registry, now_ms = desk.registry, desk.now_ms()
    for row in registry.runs.listing(active=True):
        if plan_of(row).slot == wish.slot:
            raise ConflictError(f"{row.id} of slot {wish.slot} is active; stop it first")
    chosen = [d for d in select(parse_selector(wish.select), registry.devices.listing()) if _fit(d)]
    backbone = _backbone(desk, chosen, wish.slot)
    on_it = [d for d in chosen if _runs(d, wish.slot) == backbone.digest]
    guard = _guard(desk, wish, backbone)
    judges = tuple(d.id for d in on_it if d.inventory and d.inventory.evaluates)
    judges += tuple(d for d in guard if d not in judges)
    on_it = [d for d in on_it if d.id not in guard]
    trainers = tuple(d.id for d in on_it if d.inventory and d.inventory.trains)
    if not trainers:
        raise RefusedError(
            f"none of the {len(on_it)} online devices that run "
            f"{name_of(desk, backbone.digest)} trains; set [learn] train = true on some"
        )
    plan = RunPlan(
        run=f"run-{len(registry.runs.listing()) + 1}",
        slot=wish.slot,
        backbone=backbone.digest,
        rounds=wish.rounds,
        seed=wish.seed,
        started_ms=now_ms,
        deadline_seconds=desk.config.task_seconds,
        minimum_replies=min(desk.config.minimum_replies, len(trainers)),
        participants=trainers,
        evaluators=judges,
        training=_training(wish),
        app=wish.app,
        app_folder=wish.app_folder,
    )
    conductor = conductor_of(desk, plan, history=[])
    registry.runs.create(plan.run, plan=encode(plan), state=b"{}", status="training", at_ms=now_ms)
    desk.conductors[plan.run] = conductor
    _drive(desk, plan.run, lambda begun: begun.begin(now_ms))
    return show(desk, plan.run)


def listing(desk: Desk) -> list[RunView]:
    """Return every run, oldest first."""
    return [view(desk, row, desk.conductors.get(row.id)) for row in desk.registry.runs.listing()]


def show(desk: Desk, run: str) -> RunView:
    """Return one run.

    Raises:
        NotFoundError: There is none with this id.

    """
    return view(desk, row_of(desk, run), desk.conductors.get(run))


def stop(desk: Desk, run: str) -> RunView:
    """End a run without a candidate; an ended one stays as it is.

    Raises:
        NotFoundError: There is none with this id.

    """
    row = row_of(desk, run)
    conductor = desk.conductors.get(row.id)
    if conductor is not None:
        conductor.stop("stopped by an operator", desk.now_ms())
        _project(desk, row.id)
    return show(desk, run)


def take_up(desk: Desk) -> None:
    """Continue the runs that were active when the manager ended."""
    for row in desk.registry.runs.listing(active=True):
        plan = plan_of(row)
        conductor = conductor_of(desk, plan, history=desk.registry.runs.journal(row.id))
        desk.conductors[row.id] = conductor
        _drive(desk, row.id, lambda taken_up: taken_up.begin(desk.now_ms()))
        revoked = {d.id for d in desk.registry.devices.listing(DeviceState.REVOKED)}
        for device in sorted(revoked & {*plan.participants, *plan.evaluators}):
            left(desk, device)
        LOG.info("run id=%s taken up again", row.id)


def put_down(desk: Desk) -> None:
    """End the children of active runs; the runs themselves go on at the next start."""
    for conductor in desk.conductors.values():
        conductor.close()


def tick(desk: Desk) -> None:
    """Let time pass for every active run."""
    for run in _active(desk):
        _drive(desk, run, lambda conductor: conductor.tick(desk.now_ms()))


def heard(desk: Desk, run: str, word: object) -> None:
    """Take what a run's child said."""
    if run in desk.conductors:
        _drive(desk, run, lambda conductor: conductor.heard(word, desk.now_ms()))


def left(desk: Desk, device: str) -> None:
    """Let active runs go on without a device."""
    for run in _active(desk):
        _drive(desk, run, lambda conductor: conductor.left(device, desk.now_ms()))


def answered(desk: Desk, device: str, answer: TaskAnswer, attachment: bytes) -> None:
    """Take a device's answer to a task."""
    if answer.run not in desk.conductors:
        LOG.info("answer device=%s run=%s made=unknown", device, answer.run)
        return
    made = _drive(desk, answer.run, lambda c: c.answered(device, answer, attachment, desk.now_ms()))
    LOG.info(
        "answer device=%s run=%s task=%s outcome=%s made=%s why=%s",
        device,
        answer.run,
        answer.task,
        answer.outcome,
        made,
        answer.why,
    )


def returned(desk: Desk, device: str) -> None:
    """Offer a device that came back its open tasks again."""
    for run in _active(desk):
        _drive(desk, run, lambda conductor: conductor.returned(device, desk.now_ms()))


def _drive(desk: Desk, run: str, act: Callable[[Conductor], R]) -> R | None:
    """Move a run; what goes wrong in it ends it, and not the manager."""
    conductor = desk.conductors[run]
    made = None
    try:
        made = act(conductor)
    except RegistryError:
        raise
    except Exception as why:  # an operator's app and devices' bytes meet here
        LOG.exception("run id=%s", run)
        conductor.fail(str(why) or type(why).__name__, desk.now_ms())
    _project(desk, run)
    return made


def _active(desk: Desk) -> list[str]:
    return [run for run, c in desk.conductors.items() if c.state.active]


def _backbone(desk: Desk, devices: list[Device], slot: str) -> Published:
    running = Counter(found for d in devices if (found := _runs(d, slot)))
    if not running:
        raise RefusedError(
            f"no online device runs anything in slot {slot!r}; roll a release out first"
        )
    return desk.registry.models.require(running.most_common(1)[0][0])


def _guard(desk: Desk, wish: RunWish, backbone: Published) -> tuple[str, ...]:
    """Return the devices that were asked to judge and not to train."""
    if not wish.guard:
        return ()
    asked = select(parse_selector(wish.guard), desk.registry.devices.listing())
    on_it = [d for d in asked if _fit(d) and _runs(d, wish.slot) == backbone.digest]
    found = tuple(d.id for d in on_it if d.inventory and d.inventory.evaluates)
    if not found:
        raise RefusedError(
            f"none of the {len(on_it)} online devices of the guard {wish.guard!r} that run "
            f"{name_of(desk, backbone.digest)} evaluates; set [learn] evaluate = true on some"
        )
    return found


def _runs(device: Device, slot: str) -> str | None:
    told = device.reported.slots.get(slot) if device.reported else None
    return told.current if told else None


def _fit(device: Device) -> bool:
    return (
        device.state is DeviceState.ENROLLED
        and device.presence == "online"
        and device.quarantined_why is None
    )


def _project(desk: Desk, run: str) -> None:
    """Write what listings show, and let go of a run that has ended."""
    row, conductor = row_of(desk, run), desk.conductors[run]
    state = conductor.state
    if (row.status, row.active) != (state.status, state.active):
        desk.registry.runs.save_state(
            run, b"{}", status=state.status, active=state.active, at_ms=desk.now_ms()
        )
        LOG.info("run id=%s status=%s why=%s", run, state.status, state.why)
    if not state.active:
        conductor.close()
        del desk.conductors[run]


def _training(wish: RunWish) -> Training:
    usual = Training()
    return Training(
        learning_rate=usual.learning_rate if wish.learning_rate is None else wish.learning_rate,
        epochs=usual.epochs if wish.epochs is None else wish.epochs,
        anchor=usual.anchor if wish.anchor is None else wish.anchor,
    )
