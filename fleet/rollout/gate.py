"""May it go on? A pure judgement over completed devices, with its sentence.

Rule 1: percentages are of *completed* devices, never of the group; silence after the
        deadline completes a device as failed, absence does not complete it.
Rule 2: below the minimum sample the verdict is WAIT, unless the failures are already
        too many whatever the rest will say.
Rule 3: late failures of earlier waves count: the waves so far are judged with the same
        threshold as the wave of the moment.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from fleet.monitor.health import Tally


class Verdict(StrEnum):
    """What a gate says."""

    ADVANCE = "advance"
    WAIT = "wait"
    HALT = "halt"


class Gate(Struct, frozen=True, kw_only=True):
    """What a wave must show before the next one begins.

    Attributes:
        min_completed: Sample that a verdict needs, or the whole wave if that is smaller.
        max_failed_percent: Failures allowed among the completed.
        silence_seconds: After this, an asked device that does not answer is silent or absent.
        patience_seconds: After this, a wave without a verdict pauses the rollout.
        soak_seconds: How long a good wave is watched before the next one.

    """

    min_completed: Annotated[int, Meta(ge=1)] = 1
    max_failed_percent: Annotated[float, Meta(ge=0, le=100)] = 5.0
    silence_seconds: Annotated[float, Meta(gt=0)] = 3600.0
    patience_seconds: Annotated[float, Meta(gt=0)] = 86_400.0
    soak_seconds: Annotated[float, Meta(ge=0)] = 600.0

    def judge(self, wave: Tally, so_far: Tally) -> tuple[Verdict, str]:
        """Judge the wave of the moment, and all waves up to it.

        Returns:
            The verdict and the sentence that people are shown.

        """
        needed = min(self.min_completed, wave.asked)
        if self._too_many(wave.failures, wave.asked) or (
            wave.completed >= needed and self._too_many(wave.failures, wave.completed)
        ):
            return Verdict.HALT, self._failed(wave, "of this wave")
        if so_far.completed >= needed and self._too_many(so_far.failures, so_far.completed):
            return Verdict.HALT, self._failed(so_far, "so far")
        if wave.pending or wave.completed < needed:
            absent = f"; {wave.absent} not seen since they were asked" if wave.absent else ""
            return Verdict.WAIT, (
                f"{wave.completed} of {wave.asked} devices of this wave finished, "
                f"{needed} are needed and {wave.pending} are still working{absent}"
            )
        return Verdict.ADVANCE, (
            f"{wave.succeeded} of {wave.completed} finished devices of this wave succeeded"
        )

    def _too_many(self, failures: int, among: int) -> bool:
        return failures * 100 > self.max_failed_percent * among

    def _failed(self, seen: Tally, which: str) -> str:
        share = 100 * seen.failures / seen.completed
        return (
            f"{share:.0f}% of {seen.completed} finished devices {which} failed "
            f"({seen.reasons}); at most {self.max_failed_percent:g}% may"
        )
