"""Deadlines by a clock that may be put back: one is never farther away than it was set."""


class Patience:
    """Remembers when the deadline of the moment is due."""

    def __init__(self) -> None:
        self._known = self._due_ms = 0

    def due_ms(self, deadline_ms: int, now_ms: int, lasts_ms: int) -> int:
        """Return when a deadline is due.

        Args:
            deadline_ms: As it was set, by the clock of then.
            now_ms: By the clock of now.
            lasts_ms: How far away it was set.

        """
        due_ms = self._due_ms if self._known == deadline_ms else deadline_ms
        self._known, self._due_ms = deadline_ms, min(due_ms, now_ms + lasts_ms)
        return self._due_ms
