"""Tries that failed for what speaks of the device: left alone for a while that doubles.

Rule 1: patience belongs to a slot and a release; another release begins anew.
Rule 2: what a network that came back, or a new wish, may have ended is tried at once.
"""

from agent.update import machine

MAX_DOUBLINGS = 6


class Retrying:
    """How often the release that each slot wants has failed, and when it did last."""

    def __init__(self, retry_seconds: float) -> None:
        """``retry_seconds`` is left between the first failure and the second try."""
        self._retry_seconds = retry_seconds
        self._failures: dict[str, tuple[str, int, float]] = {}

    def is_resting(self, slot: str, digest: str, now: float) -> bool:
        """Return whether a release failed so lately that it is not tried again yet."""
        failed, times, at = self._failures.get(slot, ("", 0, 0.0))
        wait = self._retry_seconds * 2.0 ** min(times - 1, MAX_DOUBLINGS)
        return failed == digest and times > 0 and now < at + wait

    def hurry(self) -> None:
        """Forget every failure."""
        self._failures.clear()

    def count(self, slot: str, news: machine.SlotEvent, now: float) -> None:
        """Take note of an event, if it tells of a failure or ends a row of them."""
        match news:
            case (
                machine.FetchFailed(digest=digest, retryable=True)
                | machine.CheckFailed(digest=digest, retryable=True)
                | machine.CheckFailed(digest=digest, undecided=True)
            ):
                failed, times, _ = self._failures.get(slot, (digest, 0, 0.0))
                times = times + 1 if failed == digest else 1
                self._failures[slot] = (digest, times, now)
            case machine.Fetched() | machine.Checked():
                self._failures.pop(slot, None)
            case _:
                pass
