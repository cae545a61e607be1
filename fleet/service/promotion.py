"""Who is asked to install the candidate of a run, and what its lineage says of that.

Rule 1: devices where it is better, in cohorts where it is not worse; a selector only narrows.
Rule 2: whoever overrides a cohort says so, and the release says it for ever.
"""

from collections.abc import Collection
from dataclasses import dataclass

from fleet.errors import ConflictError
from fleet.service.views import CandidateView

_MAX_NOTE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a candidate goes.

    Attributes:
        receivers: Device ids.
        told: Sentences about who does not receive it, and why.
        note: What the lineage of the release says; "" where there is nothing to say.

    """

    receivers: tuple[str, ...]
    told: tuple[str, ...] = ()
    note: str = ""


def reach_of(
    candidate: CandidateView, *, among: Collection[str] | None = None, despite_guard: bool = False
) -> Reach:
    """Return who receives a candidate.

    Args:
        candidate: With the verdicts of devices and cohorts.
        among: Only these; None is everybody.
        despite_guard: Also devices whose cohort gets worse, where it is better for them.

    """
    worse = [cohort for cohort in candidate.cohorts if not cohort.receives]
    held_back = {j.device for j in candidate.judged if j.held_back}
    chosen = {j.device for j in candidate.judged if j.receives}
    chosen |= held_back if despite_guard else set()
    told = [f"{cohort.name}: {cohort.why}" for cohort in worse]
    note = ""
    if worse and despite_guard:
        told.append(f"sent there all the same: {len(held_back)} devices, by --despite-guard")
        note = f"despite worse cohorts: {'; '.join(f'{c.name}: {c.why}' for c in worse)}"
    elif worse:
        told.append(f"{len(held_back)} devices for which it is better are held back with them")
        note = f"not for cohorts that get worse: {', '.join(c.name for c in worse)}"
    if among is not None:
        left_out = chosen - set(among)
        chosen -= left_out
        if left_out:
            told.append(f"{len(left_out)} devices for which it is better are not selected")
    return Reach(receivers=tuple(sorted(chosen)), told=tuple(told), note=note[:_MAX_NOTE])


def require_receivers(candidate: CandidateView, reach: Reach) -> None:
    """Return if anybody receives the candidate.

    Raises:
        ConflictError: Nobody does; says why.

    """
    if reach.receivers:
        return
    worse = [cohort.name for cohort in candidate.cohorts if not cohort.receives]
    held_back = sum(bool(j.held_back) for j in candidate.judged)
    if any(j.receives for j in candidate.judged):
        raise ConflictError(
            f"the candidate of {candidate.run} is better on none of the selected devices' decide "
            "windows, so nobody would receive it: select others, or leave --to away"
        )
    if held_back:
        raise ConflictError(
            f"the candidate of {candidate.run} makes {' and '.join(worse)} worse by more than "
            f"chance explains, which holds back the {held_back} devices for which it is better; "
            "'fieldfare run show' has the figures, --despite-guard sends it to them all the same"
        )
    raise ConflictError(
        f"the candidate of {candidate.run} is better on no device's decide windows, so nobody "
        "would receive it; --no-rollout publishes it all the same"
    )
