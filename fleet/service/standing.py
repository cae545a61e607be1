"""Who may learn: what became of a device's updates decides whether its next ones are asked for.

Rule 1: a round counts when it closes, and once, also after a crash in between.
Rule 2: who is left out of learning gets releases as before, and says so in ``device show``.
"""

import logging
from dataclasses import replace

from fleet.registry.standings import Standing
from fleet.rounds.engine import RunPlan, RunState
from fleet.rounds.reputation import Reputation, after
from fleet.rounds.sends import Send
from fleet.service.desk import Desk
from fleet.service.standing_views import StandingView

LOG = logging.getLogger(__name__)
_WHY_CHARACTERS = 300


def count_rounds(desk: Desk, plan: RunPlan, state: RunState) -> dict[str, str]:
    """Count the closed rounds of a run that were not counted before.

    Returns:
        Why, for each device of the run that is left out of learning from now on.

    """
    standings = desk.registry.standings
    known = closed = standings.counted(plan.run) if state.sends else 0
    while closed < len(state.sends) and state.sends[closed].closed:
        closed += 1
    if closed <= known:
        return {}
    found: dict[str, Standing] = {}
    left_out: dict[str, str] = {}
    for send in state.sends[known:closed]:
        for device, refusal in verdicts(send).items():
            before = found.get(device) or standings.find(device) or Standing()
            found[device] = _judged(before, refusal)
            why = found[device].left_out_why
            if why is not None and before.left_out_why is None:
                left_out[device] = why
                LOG.warning("device id=%s left_out=learning run=%s why=%s", device, plan.run, why)
    standings.count(plan.run, closed, found, at_ms=desk.now_ms())
    return left_out


def standing_of(desk: Desk, device: str) -> StandingView | None:
    """Return how a device stands; None before its first update."""
    found = desk.registry.standings.find(device)
    if found is None:
        return None
    return StandingView(
        accepted=round(found.accepted, 2),
        refused=round(found.refused, 2),
        refusal=found.refusal,
        left_out_why=found.left_out_why,
    )


def told(why: str) -> str:
    """Return what a run says of a device that is left out."""
    return f"it is left out of learning: {why}"


def verdicts(send: Send) -> dict[str, str | None]:
    """Return, for each device whose update was judged, why it was refused, or None."""
    if not send.trains:
        return {}
    found: dict[str, str | None] = {}
    for posted in send.tasks:
        answer = send.answers.get(posted.task)
        if answer is not None and answer.outcome in ("done", "refused"):
            refusal = answer.why if answer.outcome == "refused" else None
            found[posted.device] = send.outliers.get(posted.task, refusal)
    return found


def forgive(desk: Desk, device: str) -> None:
    """Let a device that was left out of learning learn again, without its past.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: It is not left out.

    """
    with desk.registry.transaction():
        desk.registry.devices.require(device)
        desk.registry.standings.forgive(device, at_ms=desk.now_ms())


def _judged(standing: Standing, refusal: str | None) -> Standing:
    made = after(
        Reputation(accepted=standing.accepted, refused=standing.refused, why=standing.refusal),
        refusal,
    )
    told = replace(standing, accepted=made.accepted, refused=made.refused, refusal=made.why)
    if not made.is_lost or standing.left_out_why is not None:
        return told
    why = f"too many of its updates were refused, the last one because {made.why}"
    return replace(told, left_out_why=why[:_WHY_CHARACTERS])
