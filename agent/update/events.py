"""What can happen to a slot, and what is then to be done.

Rule 1: an event names the digest that it is about; late news of another is ignored.
Rule 2: every effect is safe to repeat, because a power cut will repeat it.
"""

from dataclasses import dataclass

from agent.contract.messages import Assigned, Finding
from agent.update.slot import Outcome


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
    """They were not; retryable only when the cause lies outside of the release.

    ``undecided`` when the child was killed, ran out of time or of memory: that may be the
    release or the device, so it is tried as often as a probation without evidence.
    """

    digest: str
    findings: tuple[Finding, ...]
    code: str = "check"
    retryable: bool = False
    undecided: bool = False


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
    """``current`` cannot be served any more: its bytes rotted, or its runtime is gone.

    Rotten files are discarded from the store before this is raised. Ignored during a
    probation, where ``current`` does not answer; it is raised again when it has to.
    """

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
