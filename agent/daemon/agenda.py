"""What happens later: named appointments on the monotonic clock.

Rule 1: a name has one appointment; making another one replaces it.
Rule 2: the loop sleeps until the next one, so an idle agent uses no processor time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

Action = Callable[[], None]


@dataclass(slots=True)
class Agenda:
    """Appointments by name.

    >>> agenda = Agenda()
    >>> agenda.at("look", 5.0, lambda: print("looked"))
    >>> agenda.wait_seconds(now=3.0, longest=60.0)
    2.0
    >>> for action in agenda.due(now=5.0): action()
    looked
    >>> agenda.wait_seconds(now=5.0, longest=60.0)
    60.0
    """

    _appointments: dict[str, tuple[float, Action]] = field(default_factory=dict)

    def at(self, name: str, when: float, action: Action) -> None:
        """Do ``action`` at ``when`` (monotonic seconds), instead of what had this name."""
        self._appointments[name] = (when, action)

    def cancel(self, name: str) -> None:
        """Forget an appointment; an absent one is already forgotten."""
        self._appointments.pop(name, None)

    def holds(self, name: str) -> bool:
        """Return whether there is such an appointment."""
        return name in self._appointments

    def due(self, now: float) -> list[Action]:
        """Take out what is due, the earliest first."""
        ready = sorted((when, name) for name, (when, _) in self._appointments.items())
        return [self._appointments.pop(name)[1] for when, name in ready if when <= now]

    def wait_seconds(self, now: float, longest: float) -> float:
        """Return how long nothing is due."""
        earliest = min((when for when, _ in self._appointments.values()), default=now + longest)
        return min(max(earliest - now, 0.0), longest)
