"""Federated runs: who trains, what the manager remembers, and the candidate at the end.

Rule 1: a run is driven by its ``Conductor``; its journal, its spool and its offers are
        the registry's and the director's, handed over as ``Doors``.
Rule 2: a run starts from the release that its devices run now; devices that run
        something else wait for the next one.
Rule 3: whether a device receives the candidate is decided by its *decide* windows alone.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from agent.contract.codec import encode
from agent.contract.manifest import Head, Release
from agent.contract.rounds import Task, TaskAnswer
from agent.contract.topics import ROUND_OFFER
from fleet.errors import ConflictError, NotFoundError, RefusedError, RegistryError
from fleet.registry.devices import Device, DeviceState
from fleet.registry.models import Published
from fleet.registry.runs import RunRow
from fleet.release.candidate import read_head, with_head
from fleet.rollout.selector import parse_selector, select
from fleet.rounds.conduct import Conductor, Doors, HeadArrays
from fleet.rounds.engine import FINAL, RunPlan, Training
from fleet.service import contents
from fleet.service.desk import Desk
from fleet.service.overview import name_of
from fleet.service.run_views import plan_of, view
from fleet.service.views import CandidateView, RunView
from fleet.service.wishes import RunWish
from fleet.signing.assignment import sign_task

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
    trainers = tuple(d.id for d in on_it if d.inventory and d.inventory.trains)
    judges = tuple(d.id for d in on_it if d.inventory and d.inventory.evaluates)
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
    conductor = _conductor(desk, plan, history=[])
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
    return view(desk, _row(desk, run), desk.conductors.get(run))


def stop(desk: Desk, run: str) -> RunView:
    """End a run without a candidate; an ended one stays as it is.

    Raises:
        NotFoundError: There is none with this id.

    """
    row = _row(desk, run)
    conductor = desk.conductors.get(row.id)
    if conductor is not None:
        conductor.stop("stopped by an operator", desk.now_ms())
        _project(desk, row.id)
    return show(desk, run)


def candidate(desk: Desk, run: str) -> CandidateView:
    """Return the model that a finished run offers.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: The run has no candidate.

    """
    row = _row(desk, run)
    plan, shown = plan_of(row), show(desk, run)
    if shown.status != "finished":
        raise ConflictError(f"{run} has no candidate: it is {shown.status}")
    if desk.registry.runs.blob(run, FINAL) is None:
        raise ConflictError(
            f"{run} has no candidate any more: its weights were removed "
            f"{desk.config.retention.runs_days} days after its end (retention.runs_days)"
        )
    head = _find_conductor(desk, row).candidate()
    if head is None:
        raise ConflictError(f"{run} has no candidate")
    parent = desk.registry.models.require(plan.backbone)
    release, place = parent.release, _head_of(parent)
    running = contents.read(desk, release.variants[0].model)
    return CandidateView(
        run=run,
        slot=plan.slot,
        family=release.family,
        parent=parent.digest,
        parent_manifest=parent.manifest,
        parent_golden=contents.read(desk, release.golden),
        model=with_head(running, place, head.weight, head.bias),
        rounds=shown.rounds_completed,
        cohort=plan.participants,
        receivers=tuple(j.device for j in shown.judged if j.receives),
        judged=shown.judged,
    )


def take_up(desk: Desk) -> None:
    """Continue the runs that were active when the manager ended."""
    for row in desk.registry.runs.listing(active=True):
        plan = plan_of(row)
        conductor = _conductor(desk, plan, history=desk.registry.runs.journal(row.id))
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


def _conductor(desk: Desk, plan: RunPlan, history: list[bytes]) -> Conductor:
    runs = desk.registry.runs

    def journal(event: bytes) -> None:
        runs.advance(
            plan.run,
            events=[event],
            state=b"{}",
            status="training",
            active=True,
            at_ms=desk.now_ms(),
        )

    def offer(task: Task, attachment: bytes) -> None:
        authority = desk.repository.authority()
        payload = sign_task(desk.keys.director, task, attachment, authority=authority)
        desk.send(ROUND_OFFER.at(task.device, task.run), payload)

    doors = Doors(
        journal=journal,
        keep=lambda name, content: _keep(desk, plan.run, name, content),
        read=lambda name: runs.blob(plan.run, name),
        offer=offer,
        put=lambda word: desk.heard(plan.run, word),
    )
    parent = desk.registry.models.require(plan.backbone)
    model = contents.read(desk, parent.release.variants[0].model)
    weight, bias = read_head(model, _head_of(parent))
    return Conductor(plan, HeadArrays(weight=weight, bias=bias), doors, history)


def _keep(desk: Desk, run: str, name: str, content: bytes) -> None:
    desk.registry.runs.blob_keep(run, name, content, at_ms=desk.now_ms())


def _find_conductor(desk: Desk, row: RunRow) -> Conductor:
    running = desk.conductors.get(row.id)
    return running or _conductor(desk, plan_of(row), history=desk.registry.runs.journal(row.id))


def _active(desk: Desk) -> list[str]:
    return [run for run, c in desk.conductors.items() if c.state.active]


def _backbone(desk: Desk, devices: list[Device], slot: str) -> Published:
    running = Counter(found for d in devices if (found := _runs(d, slot)))
    if not running:
        raise RefusedError(
            f"no online device runs anything in slot {slot!r}; roll a release out first"
        )
    return desk.registry.models.require(running.most_common(1)[0][0])


def _runs(device: Device, slot: str) -> str | None:
    told = device.reported.slots.get(slot) if device.reported else None
    return told.current if told else None


def _fit(device: Device) -> bool:
    return (
        device.state is DeviceState.ENROLLED
        and device.presence == "online"
        and device.quarantined_why is None
    )


def _head_of(published: Published) -> Head:
    release: Release = published.release
    if release.head is None:
        raise RefusedError(
            f"{release.family} {release.version} has no trainable head: its model needs an output "
            "'embedding' and initialisers 'head.weight' and 'head.bias'"
        )
    return release.head


def _row(desk: Desk, run: str) -> RunRow:
    row = desk.registry.runs.find(run)
    if row is None:
        known = ", ".join(r.id for r in desk.registry.runs.listing())
        raise NotFoundError(f"there is no run {run!r}; known are: {known or 'none'}")
    return row


def _project(desk: Desk, run: str) -> None:
    """Write what listings show, and let go of a run that has ended."""
    row, conductor = _row(desk, run), desk.conductors[run]
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
