"""Everything durable about one slot: three pointers, the phase, and what is remembered.

Rule 1: these values are what the journal keeps; changing a member changes its version.
Rule 2: ``candidate`` is a part of the phase, so that the two can never disagree.
Rule 3: only ``machine`` makes new states.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Assigned, Count, Event, Finding, Hex32

MAX_DENIED = 32
MAX_UNREPORTED = 16
DENIED = "denied"
REFUSED = "refused"


class Outcome(Struct, frozen=True, kw_only=True):
    """How one try ended; ``event_id`` is the same each time that this end is told.

    Attributes:
        event_id: BLAKE2b-128 of release digest and state revision, hex. Unique on a device.
        release: Manifest digest of the release that was tried.
        outcome: One of ``contract.messages.OUTCOMES``.
        code: Stable word for the cause, empty for a success.
        why: One sentence for a person.
        retryable: Whether this device will try the same release again when asked.
        findings: What checks and probation found.

    """

    event_id: Hex32
    release: Digest
    outcome: Text
    code: Text = ""
    why: Text = ""
    retryable: bool = False
    findings: tuple[Finding, ...] = ()

    def event(self, device: Name, slot: Name, ts: int, up: int) -> Event:
        """Return the report, its id unique in the fleet; ``ts`` and ``up`` as in ``messages``."""
        return Event(
            id=derived_id(device, slot, self.event_id),
            type="update",
            ts=ts,
            up=up,
            slot=slot,
            release=self.release,
            outcome=self.outcome,
            code=self.code or None,
            why=self.why,
            retryable=self.retryable,
            findings=self.findings,
        )


class Idle(Struct, frozen=True, kw_only=True, tag="idle"):
    """Nothing is being tried."""


class Fetching(Struct, frozen=True, kw_only=True, tag="fetching"):
    """Manifest and artifacts are on their way into the store."""

    wanted: Assigned


class Checking(Struct, frozen=True, kw_only=True, tag="checking"):
    """A child process loads the release and replays its golden vectors."""

    wanted: Assigned
    attempts: Count = 1


class Probing(Struct, frozen=True, kw_only=True, tag="probing"):
    """The candidate answers, ``current`` runs beside it; ``checked`` are the golden findings."""

    wanted: Assigned
    attempts: Count = 1
    checked: tuple[Finding, ...] = ()


Phase = Idle | Fetching | Checking | Probing


class Wish(Struct, frozen=True, kw_only=True):
    """What is remembered about the standing wish, so that repeating it repeats no report.

    Attributes:
        digest: The release that is wanted.
        told: Codes of what was reported while this wish stood; after ``DENIED`` or
            ``REFUSED`` there is nothing more to try or to say until another wish.
        undecided: Checks and probations of it that ended without enough evidence.

    """

    digest: Digest
    told: tuple[Text, ...] = ()
    undecided: Count = 0

    @property
    def answered(self) -> bool:
        """Whether this device will not try for it any more."""
        return DENIED in self.told or REFUSED in self.told


class State(Versioned, frozen=True, kw_only=True):
    """Everything durable about one slot.

    Attributes:
        current: The release that proved itself and answers outside of probation.
        last_good: The release that proved itself before ``current``; still in the store.
        phase: What is being tried.
        wish: Memory of the standing wish.
        floor: The highest counter that ever proved itself here; only grows.
        denied: Digests that failed here and are never tried again, oldest first.
        unreported: Outcomes that are not yet in the outbox, oldest first.
        revision: Grows by one with every change.

    """

    current: Assigned | None = None
    last_good: Assigned | None = None
    phase: Phase = Idle()
    wish: Wish | None = None
    floor: Count = 0
    denied: Annotated[tuple[Digest, ...], Meta(max_length=MAX_DENIED)] = ()
    unreported: tuple[Outcome, ...] = ()
    revision: Count = 0

    @property
    def candidate(self) -> Assigned | None:
        """The release being tried: the third durable pointer, kept in ``phase``."""
        return None if isinstance(self.phase, Idle) else self.phase.wanted

    @property
    def serving(self) -> Assigned | None:
        """The release whose answers are used."""
        return self.phase.wanted if isinstance(self.phase, Probing) else self.current

    @property
    def beside(self) -> Assigned | None:
        """The release that runs on the same windows without being used."""
        return self.current if isinstance(self.phase, Probing) else None

    @property
    def phase_name(self) -> str:
        """The phase in one word, for people and the ``reported`` message."""
        match self.phase:
            case Idle():
                return "idle"
            case Fetching():
                return "fetching"
            case Checking():
                return "checking"
            case Probing():
                return "probing"

    @property
    def kept(self) -> tuple[Digest, ...]:
        """Manifest digests of the releases that must stay in the store.

        A standing wish is among them, so that what was fetched for it is not fetched twice.
        """
        pointers = (self.current, self.last_good, self.candidate)
        wished = (self.wish.digest,) if self.wish and not self.wish.answered else ()
        return tuple(dict.fromkeys((*(p.digest for p in pointers if p), *wished)))


def derived_id(*parts: str) -> str:
    """Return BLAKE2b-128 of the parts, hex: equal parts always give the same id."""
    return blake2b("/".join(parts).encode(), digest_size=16).hexdigest()


def reasons(findings: Iterable[Finding]) -> str:
    """Return in one sentence what did not hold."""
    return "; ".join(f.why for f in findings if not f.held) or "no finding says why"
