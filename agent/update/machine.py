"""The life of one slot: from a wish to a release that proved itself, and nothing else.

    idle ──Wanted──▶ fetching ──Fetched──▶ checking ──Checked──▶ probing ──Proved──▶ idle (new)
     ▲                  │                     │                     │
     └────FetchFailed───┴─────CheckFailed─────┴───────Failed────────┘ (old)

Rule 1: every transition is decided here, by ``step`` and ``resume``, and neither does I/O.
Rule 2: the caller saves the new state before it performs an effect, so an effect may be
        repeated after a power cut: every effect is safe to repeat.
Rule 3: ``current`` changes in one step, after the candidate proved itself. Until then the
        old release stays whole, runs beside the candidate, and is what a cut returns to.
Rule 4: a release that failed here is denied for good; only what may pass by itself (no
        network, a full disk, too few windows) is retryable and leaves it undenied.
Rule 5: a release that stops the agent is tried ``MAX_ATTEMPTS`` times: the counter is in
        the state, and ``resume`` raises it. A clean stop (``Stopping``) does not count.
Rule 6: a wish for ``last_good`` is checked but not put on probation again: it already
        proved itself here, and the release it would be compared with is being withdrawn.
Rule 7: an empty wish ends a try and leaves what runs running; a slot is never emptied.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, assert_never

from msgspec import Meta, Struct
from msgspec.structs import replace

from agent.contract.messages import Assigned, Count, Event, Finding, Hex32
from agent.contract.manifest import Digest, Name, Text

MAX_ATTEMPTS = 3
MAX_DENIED = 32
MAX_UNREPORTED = 16
_MAX_TEXT = 500


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

    def event(self, slot: Name, ts: int, up: int) -> Event:
        """Return the report of this outcome; ``ts`` and ``up`` in ms as in ``messages``."""
        return Event(
            id=self.event_id,
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
        told: Codes of failures that were reported while this wish stood.
        undecided: Probations of it that ended without enough evidence.

    """

    digest: Digest
    told: tuple[Text, ...] = ()
    undecided: Count = 0


class State(Struct, frozen=True, kw_only=True):
    """Everything durable about one slot.

    Attributes:
        current: The release that proved itself and answers outside of probation.
        last_good: The release that proved itself before ``current``; still in the store.
        phase: What is being tried.
        wish: Memory of the standing wish.
        denied: Digests that are never tried again, oldest first.
        unreported: Outcomes that are not yet in the outbox, oldest first.
        revision: Grows by one with every change.

    """

    current: Assigned | None = None
    last_good: Assigned | None = None
    phase: Phase = Idle()
    wish: Wish | None = None
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
        """Manifest digests of the releases that must stay in the store."""
        pointers = (self.current, self.last_good, self.candidate)
        return tuple(dict.fromkeys(p.digest for p in pointers if p is not None))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The director wants this release; raised again on a timer as long as it stands."""

    assigned: Assigned | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """Manifest and every artifact that this device needs are in the store."""

    digest: str


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """The release cannot be had, or may not be believed (then it is not retryable)."""

    digest: str
    code: str
    why: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Checked:
    """The golden vectors were reproduced in a child process."""

    digest: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class CheckFailed:
    """They were not; retryable only when the cause lies outside of the release."""

    digest: str
    findings: tuple[Finding, ...]
    code: str = "check"
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Proved:
    """Probation passed."""

    digest: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Probation failed; retryable when it ended without enough evidence."""

    digest: str
    findings: tuple[Finding, ...]
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """``current`` cannot be served any more: its bytes rotted, or its runtime is gone."""

    digest: str
    code: str
    why: str


@dataclass(frozen=True, slots=True)
class Reported:
    """An outcome is durably in the outbox."""

    event_id: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The agent stops because it was asked to, not because a model stopped it."""


SlotEvent = (
    Wanted
    | Fetched
    | FetchFailed
    | Checked
    | CheckFailed
    | Proved
    | Failed
    | Broken
    | Reported
    | Stopping
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring the release into the store; answer ``Fetched`` at once when it is there."""

    wanted: Assigned


@dataclass(frozen=True, slots=True)
class Check:
    """Load the release and replay its golden vectors in a child process."""

    wanted: Assigned


@dataclass(frozen=True, slots=True)
class Serve:
    """Let ``release`` answer, and ``beside`` run on the same windows without answering."""

    release: Assigned | None
    beside: Assigned | None = None


@dataclass(frozen=True, slots=True)
class Prove:
    """Gather evidence, ask ``probation.judge``, and raise ``Proved`` or ``Failed``."""

    candidate: Assigned
    against: Assigned | None
    checked: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Put an outcome into the outbox, then raise ``Reported``."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Forget:
    """Evict from the store what none of these releases needs."""

    keep: tuple[str, ...]


Effect = Fetch | Check | Serve | Prove | Report | Forget
Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: SlotEvent) -> Step:
    """Return the state after an event, and what is to be done once that state is saved.

    Late or repeated news returns the same state and no effect.
    """
    raise NotImplementedError


def resume(state: State) -> Step:
    """Return the state after a start of the agent, and the effects to repeat.

    The returned state must be saved before its effects are performed, because it counts
    the attempt that begins now.
    """
    raise NotImplementedError
