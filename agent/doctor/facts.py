"""What the doctor saw: values only, each with the error in its place where it cannot be read.

Rule 1: one thing that cannot be read hides no other.
Rule 2: no key and no password is among what is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.config import Config
from agent.daemon.accepted import AcceptedAssignment
from agent.errors import AgentError
from agent.identity.certificate import CertificateFile
from agent.identity.enrol import Credentials
from agent.link.ledger import Totals
from agent.update.slot import State
from agent.update.trust import TrustState
from agent.worker.jobs import CheckAnswer, ProbeAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file or folder of the state directory, by its name in it; ``.`` is the directory."""

    name: str
    mode: int
    uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A state directory.

    Attributes:
        entries: It and what lies in it, two levels deep.
        uid: Who looks.
        writable: Whether this user could write there.
        running: Whether an agent holds it now.
        device: Id that follows from the key; None before the first start.
        boots: Lives begun.
        floor_ms: Signed time that has certainly passed, ms since 1970; 0 without any.
        slots: Journal by slot.
        certificate: Shown to a broker that asks for one.

    """

    entries: tuple[Entry, ...]
    uid: int
    writable: bool
    running: bool
    free_bytes: int
    device: str | AgentError | None
    credentials: Credentials | AgentError | None
    trusted: TrustState | AgentError | None
    boots: int | AgentError
    accepted: AcceptedAssignment | AgentError | None
    floor_ms: int | AgentError
    outbox: Totals | AgentError
    slots: Mapping[str, State | AgentError]
    certificate: CertificateFile | AgentError | None = None


# How far the way to a broker was open.


@dataclass(frozen=True, slots=True)
class NotTried:
    """Nobody knocked, for a reason that is no fault of the broker."""

    why: str


@dataclass(frozen=True, slots=True)
class NoName:
    """The host's name leads nowhere."""

    host: str
    why: str


@dataclass(frozen=True, slots=True)
class NoProxy:
    """The HTTP proxy on the way does not let us through; the sentence names it."""

    why: str


@dataclass(frozen=True, slots=True)
class NoPort:
    """Nothing accepts connections at the address."""

    address: str
    why: str


@dataclass(frozen=True, slots=True)
class NoTls:
    """The certificate was not believed, or there is no TLS.

    Attributes:
        code: X.509 verification code as OpenSSL numbers them; 0 for anything else.

    """

    address: str
    code: int
    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker answered and did not take us; the code is MQTT's, if it said one."""

    why: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Deaf:
    """We may log in and not listen."""

    why: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Mute:
    """We may log in and listen, and not speak."""

    why: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Open:
    """All the way that was tried is open; ``far`` says how far that was."""

    address: str
    far: str


Way = NotTried | NoProxy | NoName | NoPort | NoTls | Refused | Deaf | Mute | Open


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One device.

    Attributes:
        now_ms: The system clock, ms since 1970.
        unsupported: Why this machine cannot run the agent; empty if it can.
        hardware: What variants are matched with.
        config: The configuration; defaults where there is no file and none was named.
        state_dir: Where the state is, or should be.
        held: What is there; None where there is no such directory.
        probe: What the runtimes can do.
        checked: For each slot's running release, what loading it in a child showed.
        sources: By slot, why its samples will not come; empty where they may.
        serve: What there is to say of asking models over HTTP; None where nobody may.
        broker: The way to the fleet's broker.
        local_broker: The way to the owner's; None where none is configured.

    """

    now_ms: int
    unsupported: str
    environment: Mapping[str, str]
    config: Config | AgentError
    state_dir: Path
    held: Held | AgentError | None
    probe: ProbeAnswer
    checked: Mapping[str, CheckAnswer | AgentError] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    serve: str | AgentError | None = None
    broker: Way = NotTried("this device is not enrolled")
    local_broker: Way | None = None
