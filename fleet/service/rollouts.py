"""Bringing a release to devices in waves: what operators ask, and what devices answer."""

import logging

from agent.contract.messages import Event
from fleet.errors import RefusedError
from fleet.rollout import journal
from fleet.rollout.engine import State
from fleet.rollout.events import AbortAsked, PauseAsked, ResumeAsked
from fleet.rollout.gate import Gate
from fleet.rollout.plan import make_plan, parse_size
from fleet.rollout.selector import Clause, Selector, parse_selector
from fleet.service import promoting, releases
from fleet.service.desk import Desk
from fleet.service.overview import name_of
from fleet.service.views import RolloutDeviceView, RolloutView
from fleet.service.wishes import RolloutWish

LOG = logging.getLogger(__name__)


def create(desk: Desk, wish: RolloutWish) -> RolloutView:
    """Plan a rollout and ask its canary.

    Raises:
        NotFoundError: There is no such release.
        RefusedError: Selector, sizes or devices do not make a plan.
        ConflictError: An active rollout of the slot shares a device.

    """
    registry, now_ms = desk.registry, desk.now_ms()
    published = releases.find(desk, wish.release)
    if desk.repository.target(published.release.target) is None:
        raise RefusedError(f"{published.release.target} was withdrawn: no device would verify it")
    every = registry.devices.listing()
    number = len(registry.rollouts.listing()) + 1
    plan = make_plan(
        rollout=f"rollout-{number}",
        release=published.release,
        assigned=published.assigned,
        selector=_selector(wish),
        devices=every,
        desired=registry.devices.desired_by_device(),
        at_ms=now_ms,
        canary=parse_size(wish.canary),
        waves=[parse_size(size) for size in wish.waves],
        gate=Gate(
            min_completed=wish.min_completed,
            max_failed_percent=wish.failed_percent,
            silence_seconds=wish.silence_seconds,
            soak_seconds=wish.soak_seconds,
        ),
        one_way=wish.one_way,
    )
    promoting.require_cohort(desk, published.release, plan)
    with registry.transaction():
        journal.begin(registry, plan, at_ms=now_ms)
    LOG.info("rollout id=%s release=%s waves=%s", plan.id, published.release.target, plan.waves)
    return show(desk, plan.id)


def listing(desk: Desk) -> list[RolloutView]:
    """Return every rollout, oldest first."""
    return [show(desk, row.id) for row in desk.registry.rollouts.listing()]


def show(desk: Desk, rollout: str) -> RolloutView:
    """Return one rollout.

    Raises:
        NotFoundError: There is none with this id.

    """
    return _view(desk, journal.load(desk.registry, rollout))


def command(desk: Desk, rollout: str, word: str) -> RolloutView:
    """Pause, resume, abort (and take everybody back) or keep (abort, leave everybody).

    Raises:
        NotFoundError: There is none with this id.
        RefusedError: It is none of these words.

    """
    now_ms = desk.now_ms()
    match word:
        case "pause":
            event: PauseAsked | ResumeAsked | AbortAsked = PauseAsked(
                why="paused by an operator", at_ms=now_ms
            )
        case "resume":
            event = ResumeAsked(at_ms=now_ms)
        case "abort" | "keep":
            event = AbortAsked(why="aborted by an operator", revert=word == "abort", at_ms=now_ms)
        case _:
            raise RefusedError(f"{word!r} is not pause, resume, abort or keep")
    with desk.registry.transaction():
        state = journal.advance(desk.registry, rollout, [event], at_ms=now_ms)
    return _view(desk, state)


def heard(desk: Desk, device: str, event: Event) -> None:
    """Tell active rollouts how a device's update ended; call it inside a transaction."""
    moved = journal.hear_update(desk.registry, device, event, at_ms=desk.now_ms())
    LOG.info(
        "update device=%s release=%s outcome=%s rollouts=%s why=%s",
        device,
        name_of(desk, event.release),
        event.outcome,
        ",".join(moved) or "none",
        event.why,
    )


def left(desk: Desk, device: str, why: str) -> None:
    """Let active rollouts go on without a device; call it inside a transaction."""
    for rollout in journal.hear_left(desk.registry, device, why, at_ms=desk.now_ms()):
        LOG.info("rollout id=%s goes on without device=%s why=%s", rollout, device, why)


def tick(desk: Desk) -> None:
    """Let time pass for every active rollout."""
    with desk.registry.transaction():
        moved = journal.tick(desk.registry, at_ms=desk.now_ms())
    for rollout in moved:
        view = show(desk, rollout)
        LOG.info(
            "rollout id=%s status=%s wave=%d why=%s", rollout, view.status, view.wave, view.why
        )


def _selector(wish: RolloutWish) -> Selector:
    if wish.devices:
        clause = Clause(word="id", compare="=", values=wish.devices)
        return Selector(text=f"{len(wish.devices)} chosen devices", clauses=(clause,))
    return parse_selector(wish.select)


def _view(desk: Desk, state: State) -> RolloutView:
    plan = state.plan
    why = getattr(state.phase, "why", "") or state.verdict()[1]
    over = [
        RolloutDeviceView(device=device, wave=0, state="passed over", why=reason)
        for device, reason in plan.passed_over.items()
    ]
    row = desk.registry.rollouts.find(plan.id)
    labelled = desk.registry.reports.labels.of_release(plan.release.digest)
    return RolloutView(
        id=plan.id,
        release=name_of(desk, plan.release.digest),
        release_digest=plan.release.digest,
        slot=plan.slot,
        status=state.status,
        wave=state.wave + 1,
        waves=len(plan.waves),
        why=why,
        started_ms=plan.created_ms,
        ended_ms=row.changed_ms if row and not state.active else None,
        devices=tuple(
            RolloutDeviceView(
                device=m.device,
                wave=m.wave + 1,
                state=f"{m.standing}, taken back" if m.returned else str(m.standing),
                why=m.why,
                in_the_field=labelled.get(m.device),
            )
            for m in state.members.values()
        )
        + tuple(over),
    )
