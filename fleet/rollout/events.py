"""The words of a rollout: the phases it can be in, what it hears, and what it wants done.

Rule 1: values only; what follows from them is written in ``engine.step``.
Rule 2: phases and events lie in registries as JSON: a field is added with a default, and
        never changes its meaning.
"""

from collections.abc import Iterable
from typing import Final, assert_never

from msgspec import Struct

from agent.contract.manifest import Name
from agent.contract.messages import Assigned
from fleet.monitor.health import Standing


class Planned(Struct, frozen=True, kw_only=True, tag=True):
    """Decided, not begun."""


class Asking(Struct, frozen=True, kw_only=True, tag=True):
    """The wave of the moment is asked since ``since_ms``."""

    since_ms: int


class Soaking(Struct, frozen=True, kw_only=True, tag=True):
    """The wave of the moment is good and watched until ``until_ms``."""

    until_ms: int


class Paused(Struct, frozen=True, kw_only=True, tag=True):
    """Nobody more is asked until somebody resumes."""

    then: Asking | Soaking
    why: str


class Returning(Struct, frozen=True, kw_only=True, tag=True):
    """Everybody asked is wanted back; ``aborted`` if a person, not a gate, wanted so."""

    aborted: bool
    why: str


class Done(Struct, frozen=True, kw_only=True, tag=True):
    """Every wave passed its gate."""

    why: str


class Halted(Struct, frozen=True, kw_only=True, tag=True):
    """A gate stopped it, and everybody asked is wanted back."""

    why: str


class Aborted(Struct, frozen=True, kw_only=True, tag=True):
    """A person stopped it."""

    why: str


Phase = Planned | Asking | Soaking | Paused | Returning | Done | Halted | Aborted
TERMINAL: Final = (Done, Halted, Aborted)


class Started(Struct, frozen=True, kw_only=True, tag=True):
    """Begin."""

    at_ms: int


class Tick(Struct, frozen=True, kw_only=True, tag=True):
    """Time has passed."""

    at_ms: int


class Given(Struct, frozen=True, kw_only=True, tag=True):
    """Devices are now wanted to run the release; ``previous`` is what each was wanted to before."""

    previous: dict[Name, Assigned | None]
    at_ms: int


class Completed(Struct, frozen=True, kw_only=True, tag=True):
    """A device ended its update. A ``retryable`` failure is not the end yet."""

    device: Name
    outcome: Standing
    why: str
    at_ms: int
    retryable: bool = False


class Silent(Struct, frozen=True, kw_only=True, tag=True):
    """A device did not answer in time; ``absent`` if it was not even seen since."""

    device: Name
    absent: bool
    at_ms: int


class Seen(Struct, frozen=True, kw_only=True, tag=True):
    """Devices that were asked are there: from now on their silence counts."""

    devices: tuple[Name, ...]
    at_ms: int


class Left(Struct, frozen=True, kw_only=True, tag=True):
    """A device is of the fleet no more; what it said before still counts."""

    device: Name
    why: str
    at_ms: int


class Returned(Struct, frozen=True, kw_only=True, tag=True):
    """Devices are wanted back."""

    devices: tuple[Name, ...]
    at_ms: int


class PauseAsked(Struct, frozen=True, kw_only=True, tag=True):
    """An operator pauses."""

    why: str
    at_ms: int


class ResumeAsked(Struct, frozen=True, kw_only=True, tag=True):
    """An operator resumes; the patience of the wave begins anew."""

    at_ms: int


class AbortAsked(Struct, frozen=True, kw_only=True, tag=True):
    """An operator stops it for good, and may want everybody back."""

    why: str
    revert: bool
    at_ms: int


Event = (
    Started
    | Tick
    | Given
    | Completed
    | Silent
    | Seen
    | Left
    | Returned
    | PauseAsked
    | ResumeAsked
    | AbortAsked
)


class Assign(Struct, frozen=True, kw_only=True):
    """Want the release on a device."""

    device: str


class Revert(Struct, frozen=True, kw_only=True):
    """Want a device back, if it is still wanted to run the release."""

    device: str
    previous: Assigned | None


class Conclude(Struct, frozen=True, kw_only=True):
    """Tell people that it is over."""

    status: str
    why: str


Effect = Assign | Revert | Conclude


def concerns(event: Event) -> Iterable[str]:
    """Return the devices that an event is about; none for the words of operator and clock."""
    match event:
        case Given(previous=previous):
            return previous
        case Returned(devices=devices) | Seen(devices=devices):
            return devices
        case Completed(device=device) | Silent(device=device) | Left(device=device):
            return (device,)
        case Started() | Tick() | PauseAsked() | ResumeAsked() | AbortAsked():
            return ()
        case _:
            assert_never(event)
