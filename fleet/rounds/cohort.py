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
    raise NotImplementedError
