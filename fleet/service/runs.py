"""Federated runs: started, shown, held, moved on with what devices and time bring, and ended.

Rule 1: several runs may be active, each with devices of its own (``run_eligibility``).
Rule 2: what goes wrong in a run ends this run, and not the manager.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from agent.contract.codec import encode
from agent.contract.rounds import TaskAnswer
from fleet.errors import ConflictError, RegistryError
from fleet.registry.devices import DeviceState
from fleet.rounds.conduct import Conductor
from fleet.rounds.engine import RunPlan
from fleet.rounds.events import MOST_OFFERS
from fleet.rounds.project import server_app_of
from fleet.rounds.usual import training_of
from fleet.service import client_apps
from fleet.service.desk import Desk
from fleet.service.promoting import require_key
from fleet.service.run_doors import conductor_of, row_of
from fleet.service.run_eligibility import eligible
from fleet.service.run_mode import buffer_of, minimum_of
from fleet.service.run_strategy import bound_of, enough_replies, strategy_of
from fleet.service.run_views import plan_of, view
from fleet.service.standing import count_rounds, told
from fleet.service.views import RunView
from fleet.service.wishes import RunWish

LOG = logging.getLogger(__name__)
R = TypeVar("R")


def start(desk: Desk, wish: RunWish) -> RunView:
    """Start a run.

    Raises:
        RefusedError: Nobody can train, the release has no trainable head, a round could never
            have the replies that it must have, the app's folder names no server app, or only
            a person could promote its candidate.

    """
    registry, now_ms = desk.registry, desk.now_ms()
    wish = client_apps.server_of(desk, wish)
    found = eligible(desk, wish)
    if wish.promote:
        require_key(desk, found.backbone.release.family)
    app = bool(wish.app or wish.app_folder)
    strategy = strategy_of(wish, app=app)
    buffer = buffer_of(wish, strategy, len(found.trainers))
    wanted = buffer or min(wish.clients or len(found.trainers), len(found.trainers))
    minimum = minimum_of(wish, desk.config.minimum_replies, wanted)
    plan = RunPlan(
        run=f"run-{len(registry.runs.listing()) + 1}",
        slot=wish.slot,
        backbone=found.backbone.digest,
        rounds=wish.rounds,
        seed=wish.seed,
        started_ms=now_ms,
        deadline_seconds=wish.deadline_seconds or desk.config.task_seconds,
        minimum_replies=enough_replies(strategy, minimum, wanted),
        participants=found.trainers,
        evaluators=found.judges,
        clients=wish.clients,
        over_selection_percent=wish.over_selection_percent,
        offers_per_second=min(desk.config.offers_per_second, MOST_OFFERS),
        buffer=buffer,
        elsewhere=found.elsewhere,
        held_out=wish.held_out,
        promote=wish.promote,
        training=training_of(
            learning_rate=wish.learning_rate,
            epochs=wish.epochs,
            anchor=wish.anchor,
            anchor_to=wish.anchor_to,
            strategy=None if wish.client_app else strategy,
        ),
        strategy=strategy,
        max_norm=bound_of(wish, app=app),
        updates=wish.updates,
        app=wish.app or (server_app_of(wish.app_folder) if wish.app_folder else None),
        app_folder=wish.app_folder,
        app_seconds=desk.config.app_seconds,
        client_app=client_apps.wanted(desk, wish),
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


def pause(desk: Desk, run: str) -> RunView:
    """Hold a run: nothing is offered and no deadline passes until it is resumed.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: It has ended.

    """
    return _hold(desk, run, lambda conductor: conductor.pause(desk.now_ms()))


def resume(desk: Desk, run: str) -> RunView:
    """Let a paused run go on; one that is not paused stays as it is.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: It has ended.

    """
    return _hold(desk, run, lambda conductor: conductor.go_on(desk.now_ms()))


def take_up(desk: Desk) -> None:
    """Continue the runs that were active when the manager ended."""
    for row in desk.registry.runs.listing(active=True):
        plan = plan_of(row)
        conductor = conductor_of(desk, plan, history=desk.registry.runs.journal(row.id))
        desk.conductors[row.id] = conductor
        _drive(desk, row.id, partial(_begin_again, desk, plan))
        revoked = {d.id for d in desk.registry.devices.listing(DeviceState.REVOKED)}
        for device in sorted(revoked & {*plan.participants, *plan.evaluators}):
            left(desk, device)
        _leave_out(desk, desk.registry.standings.left_out())
        LOG.info("run id=%s taken up again", row.id)


def _begin_again(desk: Desk, plan: RunPlan, conductor: Conductor) -> None:
    client_apps.lay_out_again(desk, plan)
    conductor.begin(desk.now_ms())


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


def answered(desk: Desk, device: str, answer: TaskAnswer, attachment: bytes) -> str | None:
    """Take a device's answer to a task; return what was made of it."""
    if answer.run not in desk.conductors:
        LOG.info("answer device=%s run=%s made=unknown", device, answer.run)
        return "unknown"
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
    return made


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
    lost = count_rounds(desk, conductor.plan, conductor.state)
    _project(desk, run)
    _leave_out(desk, lost)
    return made


def _leave_out(desk: Desk, lost: Mapping[str, str]) -> None:
    """Let active runs go on without devices whose updates are trusted no more."""
    for device, why in lost.items():
        for run in _active(desk):
            _drive(desk, run, lambda c, d=device, w=why: c.left(d, desk.now_ms(), told(w)))  # type: ignore[misc]  # bound now


def _hold(desk: Desk, run: str, act: Callable[[Conductor], None]) -> RunView:
    row = row_of(desk, run)
    if row.id not in desk.conductors:
        raise ConflictError(f"{run} is {row.status}; only an active run is paused or resumed")
    _drive(desk, row.id, act)
    return show(desk, run)


def _active(desk: Desk) -> list[str]:
    return [run for run, c in desk.conductors.items() if c.state.active]


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
        desk.records.forget(run)
        del desk.conductors[run]
