"""Which endpoint next: the pure decisions of a device that finds its fleet, and keeps it.

    Listed ──▶ Due: try the better one ──Proved──▶ it is home, durably
                        │
                        └──Refused or Silent──▶ back home, tell why, try again later

Rule 1: *home* is where a director last answered this device; it is a way back until a
        listed endpoint has proved itself, listed or not, and as long as it is listed.
Rule 2: an endpoint proves itself by a signed answer to a question asked through it. That it
        can be reached, or lets us log in, proves nothing.
Rule 3: one try at a time, bounded, and only from a home that answers. What fails is tried
        again, at growing intervals, for as long as it is listed above home.
Rule 4: where home itself fails, all known endpoints are gone through in turn, for ever. There
        is no state in which nothing is tried any more.

``step`` does no I/O. Its effects are performed by the daemon and are safe to repeat.
"""

from dataclasses import dataclass, replace
from typing import assert_never

from agent.contract.endpoints import Endpoint

MAX_DOUBLINGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Roaming:
    """Where a device stands.

    Attributes:
        home: Where the fleet answered last.
        at: Where the link is told to go.
        listed: The signed list in order; empty where there is none.
        trying: ``at`` is tried from a home that answers: one failure ends it.
        answered: A director answered through ``at`` since the link last connected there.
        tries: How many tries failed since the list or home changed.
        rounds: How many endpoints were gone through since the fleet answered last.

    """

    home: Endpoint
    at: Endpoint
    listed: tuple[Endpoint, ...] = ()
    trying: bool = False
    answered: bool = False
    tries: int = 0
    rounds: int = 0

    @property
    def known(self) -> tuple[Endpoint, ...]:
        """All endpoints that may lead to the fleet, the best first."""
        return tuple(dict.fromkeys((*self.listed, self.home)))

    @property
    def better(self) -> tuple[Endpoint, ...]:
        """Endpoints that are listed above where we are."""
        if self.at in self.listed:
            return self.listed[: self.listed.index(self.at)]
        return self.listed

    def dwell_seconds(self, shortest: float) -> float:
        """Return how long a silent endpoint is kept; longer with each fruitless round."""
        rounds = self.rounds // max(len(self.known), 1)
        return shortest * 2.0 ** min(rounds, MAX_DOUBLINGS)

    def pause_seconds(self, shortest: float) -> float:
        """Return how long to wait between two tries; longer the more of them failed."""
        rounds = self.tries // max(len(self.better), 1)
        return shortest * 2.0 ** min(max(rounds - 1, 0), MAX_DOUBLINGS)


@dataclass(frozen=True, slots=True)
class Listed:
    """The signed list is this now."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Due:
    """It is time to try a better endpoint."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The link could not connect to ``at``."""

    why: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The link connected to ``at``."""


@dataclass(frozen=True, slots=True)
class Silent:
    """No director answered through ``at`` in time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Proved:
    """A director answered a question that was asked through ``at``."""


Event = Listed | Due | Refused | Opened | Silent | Proved


@dataclass(frozen=True, slots=True)
class Go:
    """Connect to an endpoint: now, or when the link next tries."""

    to: Endpoint
    at_once: bool


@dataclass(frozen=True, slots=True)
class Keep:
    """Remember home on the medium."""

    home: Endpoint


@dataclass(frozen=True, slots=True)
class AwaitProof:
    """Say ``Silent`` unless ``at`` proves itself in time."""


@dataclass(frozen=True, slots=True)
class ProofCame:
    """Nothing is awaited any more."""


@dataclass(frozen=True, slots=True)
class TrySoon:
    """Say ``Due`` after a little jitter."""


@dataclass(frozen=True, slots=True)
class TryLater:
    """Say ``Due`` after the time between two tries, unless it will be said before."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The fleet answers through another endpoint than before; ``planned`` if by a try."""

    before: Endpoint
    after: Endpoint
    planned: bool


@dataclass(frozen=True, slots=True)
class Reverted:
    """A tried endpoint did not lead to the fleet."""

    tried: Endpoint
    back: Endpoint
    why: str


Effect = Go | Keep | AwaitProof | ProofCame | TrySoon | TryLater | Moved | Reverted


def step(state: Roaming, event: Event) -> tuple[Roaming, tuple[Effect, ...]]:
    """Return the next state and what is to be done."""
    match event:
        case Listed(endpoints):
            return _listed(state, endpoints)
        case Due() if state.answered and state.better:
            to = state.better[state.tries % len(state.better)]
            after = replace(state, at=to, trying=True, answered=False)
            return after, (Go(to, at_once=True), AwaitProof())
        case Due():
            return state, ()  # asked again when a director answers
        case Opened():
            after = replace(state, answered=False)
            return after, () if state.trying else (AwaitProof(),)
        case Refused(why) if state.trying:
            return _back(state, why)
        case Silent(seconds) if state.trying:
            return _back(state, f"no director answered through it in {seconds:.0f} s")
        case Refused():
            return _onwards(state, at_once=False)
        case Silent():
            return _onwards(state, at_once=True)
        case Proved():
            return _proved(state)
        case _:
            assert_never(event)


def _listed(state: Roaming, endpoints: tuple[Endpoint, ...]) -> tuple[Roaming, tuple[Effect, ...]]:
    if endpoints == state.listed:
        return state, ()
    after = replace(state, listed=endpoints, tries=0)
    soon: tuple[Effect, ...] = (TrySoon(),) if after.better else ()
    if after.at in after.known:
        return after, soon
    after = replace(after, at=after.home, trying=False, answered=False)
    return after, (ProofCame(), Go(after.home, at_once=True), *soon)


def _back(state: Roaming, why: str) -> tuple[Roaming, tuple[Effect, ...]]:
    after = replace(state, at=state.home, trying=False, answered=False, tries=state.tries + 1)
    untried = bool(after.better) and after.tries % len(after.better) != 0
    return after, (
        ProofCame(),
        Go(state.home, at_once=True),
        Reverted(state.at, state.home, why),
        TrySoon() if untried else TryLater(),
    )


def _onwards(state: Roaming, *, at_once: bool) -> tuple[Roaming, tuple[Effect, ...]]:
    known = state.known
    after = replace(state, answered=False, rounds=state.rounds + 1)
    index = known.index(state.at) + 1 if state.at in known else 0
    to = known[index % len(known)]
    if to == state.at:
        return after, ()
    return replace(after, at=to), (ProofCame(), Go(to, at_once=at_once))


def _proved(state: Roaming) -> tuple[Roaming, tuple[Effect, ...]]:
    moved = state.at != state.home  # and then it is listed: nothing else is known beside home
    after = replace(
        state,
        home=state.at if moved else state.home,
        trying=False,
        answered=True,
        rounds=0,
    )
    effects: list[Effect] = [ProofCame()]
    if moved:
        effects += [Keep(after.home), Moved(state.home, after.home, planned=state.trying)]
    if after.better and not state.answered:
        effects.append(TrySoon() if state.tries == 0 and not moved else TryLater())
    return after, tuple(effects)
