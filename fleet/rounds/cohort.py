"""Which devices get a candidate: only those in whose *decide* windows it is better.

Rule 1: decides on decide figures alone; withheld figures are not even an argument.
Rule 2: a better mean hides neither a worse device nor a worse stranger: each device is
        judged by itself, and each verdict has its sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.contract.messages import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One device's verdict on the candidate."""

    device: str
    receives: bool
    why: str


def better(
    figures: Mapping[str, tuple[Quality, Quality]], *, minimum_windows: int = 10
) -> tuple[Judged, ...]:
    """Return a verdict for each device, sorted by device.

    Args:
        figures: For each device the quality of the running release and of the candidate
            on the device's own decide windows.
        minimum_windows: With fewer decide windows a device does not receive.

    """
    return tuple(
        _judge(device, running, candidate, minimum_windows)
        for device, (running, candidate) in sorted(figures.items())
    )


def _judge(device: str, running: Quality, candidate: Quality, minimum_windows: int) -> Judged:
    of = candidate.windows
    if running.windows != of:
        why = f"running and candidate were judged on {running.windows} and {of} windows"
        return Judged(device=device, receives=False, why=why)
    if of < minimum_windows:
        why = f"it has {of} decide windows; at least {minimum_windows} are needed"
        return Judged(device=device, receives=False, why=why)
    told = f"{candidate.right} of {of} decide windows right, {running.right} with the running one"
    return Judged(device=device, receives=candidate.right > running.right, why=told)
