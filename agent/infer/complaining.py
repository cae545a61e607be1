"""A model that fails fifty times a second fills no disk with it."""

import logging
from time import monotonic
from typing import Final

log = logging.getLogger(__name__)

_EVERY_SECONDS: Final = 60.0


class Complaints:
    """The failures of one slot's models: the 1st, 2nd, 4th, 8th … and one a minute are logged."""

    def __init__(self) -> None:
        self._times = 0
        self._told = 0.0

    def add(self, release: str, why: Exception) -> None:
        """Count a failure of the release with this digest, and log it if it is its turn."""
        self._times += 1
        now = monotonic()
        if self._times.bit_count() == 1 or now - self._told > _EVERY_SECONDS:
            self._told = now
            shown = release[:16], self._times, str(why)
            log.warning("inference=failed release=%s times=%d why=%r", *shown)
