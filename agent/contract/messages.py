"""What is said: one frozen type for each payload of the topic table.

What ``enrolment`` and ``rounds`` say stands there; what is signed offline is no message.
``ts`` is the device's wall clock in ms since 1970 (for people), ``up`` its monotonic
ms since boot (for arithmetic). Boot and sequence of a report are in its ``Stamp``.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

from agent.contract.codec import Versioned
from agent.contract.endpoints import EndpointReport
from agent.contract.limits import MAX_CHUNKS_PER_REQUEST, MAX_CONTENT_KEYS
from agent.contract.manifest import Digest, Name, Target, Text

Count = Annotated[int, Meta(ge=0, le=2**53)]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
BootId = Annotated[str, Meta(pattern=r"^[0-9]{1,12}-[0-9a-f]{16}$(?!\n)")]
Share = Annotated[float, Meta(ge=0, le=1)]


class Presence(Versioned, frozen=True, kw_only=True):
    """``s`` is online, offline or sleeping; an offline of another (boot, epoch) is old news."""

    s: Annotated[str, Meta(pattern=r"^(online|offline|sleeping)$(?!\n)")]
    why: Text = ""
    boot: BootId
    epoch: Count
    agent: Text = ""
    proto: tuple[Text, ...] = ()


class Hosted(Struct, frozen=True, kw_only=True):
    """A runtime that made a real inference on this device.

    Attributes:
        name: As in ``manifest.Variant.runtime``.
        version: Of the library.
        library: The package; empty from an agent that does not tell.
        ir, opset: Highest ONNX file format, and version of its default operators, that the
            library loaded when it was tried; None where there is no such thing.
        providers: Execution providers of the installed build.
        worker: Where it runs in a process of its own, the name that the device's
            configuration gives it; empty for the agent's own.

    """

    name: Name
    version: Text
    library: Text = ""
    ir: Count | None = None
    opset: Count | None = None
    providers: tuple[Text, ...] = ()
    worker: Annotated[str, Meta(max_length=64)] = ""


class AppEnvironment(Struct, frozen=True, kw_only=True):
    """A Python that signed apps may run under; ``why`` says why it cannot be used."""

    name: Name
    python: Text = ""
    flwr: Text = ""
    why: Text = ""


class Inventory(Versioned, frozen=True, kw_only=True):
    """What the device is and can do; ``rev`` grows with every change.

    Attributes:
        cpu_flags: Of the processor's features, those that decide how fast models run, as the
            kernel calls them.
        shares: Whether a task may leave records to the shared transfer, and ask for an
            upload of what does not fit into one message.
        apps: Whether its operator lets signed apps train here.
        environments: The Pythons that apps may run under.

    """

    rev: Count
    ts: Count
    hardware: Name
    arch: Text
    system: Text
    python: Text
    agent: Text
    memory_bytes: Count
    runtimes: tuple[Hosted, ...] = ()
    slots: tuple[Name, ...] = ()
    trains: bool = False
    evaluates: bool = False
    labelled_windows: Count = 0
    cpu_flags: tuple[Text, ...] = ()
    shares: bool = False
    apps: bool = False
    environments: tuple[AppEnvironment, ...] = ()


class SlotReport(Struct, frozen=True, kw_only=True):
    """What one slot really runs: manifest digests, and the phase of its update."""

    current: Digest | None = None
    candidate: Digest | None = None
    last_good: Digest | None = None
    phase: Text = "idle"
    denied: tuple[Digest, ...] = ()


class Reported(Versioned, frozen=True, kw_only=True):
    """The device's side of the desired state; ``rev`` grows with every change.

    Attributes:
        versions: The highest version of root, targets, snapshot and timestamp accepted.
        endpoint: The way to the fleet that it believes.
        acknowledged: By boot, up to where its reports were acknowledged when it last
            connected; it does not have them any more.

    """

    rev: Count
    ts: Count
    director_epoch: Count = 0
    sequence: Count = 0
    slots: dict[Name, SlotReport] = field(default_factory=dict)
    versions: dict[Name, Count] = field(default_factory=dict)
    endpoint: EndpointReport | None = None
    acknowledged: dict[BootId, Count] = field(default_factory=dict)


class Finding(Struct, frozen=True, kw_only=True):
    """One check of a probation: its name, whether it held, and the sentence with the figures."""

    check: Name
    held: bool
    why: Text


class Event(Versioned, frozen=True, kw_only=True):
    """Something happened, unique on ``id``; which members are set depends on ``type``.

    ``update``      the end of one try: ``outcome`` (``OUTCOMES``), ``release``, ``findings``
    ``evaluation``  quality of ``release`` on the device's own labelled windows
    ``alarm``       something is refused or wrong: ``code`` and ``why``
    ``gap``         reports ``first`` to ``last`` of ``boot`` were dropped for lack of room
    """

    id: Hex32
    type: Annotated[str, Meta(pattern=r"^(update|evaluation|alarm|gap)$(?!\n)")]
    ts: Count
    up: Count
    slot: Name | None = None
    release: Digest | None = None
    outcome: Text | None = None
    code: Text | None = None
    why: Text = ""
    retryable: bool = False
    findings: tuple[Finding, ...] = ()
    decide: "Quality | None" = None
    withheld: "Quality | None" = None
    boot: BootId | None = None
    first: Count | None = None
    last: Count | None = None


OUTCOMES = (
    "succeeded",
    "failed_no_change",
    "failed_rolled_back",
    "failed_not_rolled_back",
    "rejected",
)


class Quality(Struct, frozen=True, kw_only=True):
    """Right answers among labelled windows of one split."""

    right: Count
    windows: Count

    @property
    def accuracy(self) -> float:
        """Right answers over windows; 0 where there are none."""
        return self.right / self.windows if self.windows else 0.0


class Assigned(Struct, frozen=True, kw_only=True):
    """One slot's release, as the director wants it."""

    target: Target
    digest: Digest
    counter: Count


SealedKey = Annotated[bytes, Meta(max_length=128)]


class Assignment(Versioned, frozen=True, kw_only=True):
    """The desired state of one device; ordered by (director_epoch, sequence).

    Attributes:
        keys: Of encrypted releases, the content key of each artifact in a box that only this
            device opens, by the digest of its full sealed stream (``contract.sealing``).

    """

    device: Name
    fleet: Name
    director_epoch: Count
    sequence: Annotated[int, Meta(ge=1, le=2**53)]
    slots: dict[Name, Assigned]
    issued_ms: Count
    expires_ms: Count
    keys: Annotated[dict[Digest, SealedKey], Meta(max_length=MAX_CONTENT_KEYS)] = field(
        default_factory=dict
    )


class FreshRequest(Versioned, frozen=True, kw_only=True):
    """Asks for signed time; the nonce is valid once, for 60 s of monotonic time.

    Attributes:
        tls_key: Also asks for a client certificate for this Ed25519 key.
        certificate: SHA-256 of the client certificate that the device has, if it has one.
        holds: SHA-256 of the newest assignment that the device accepted, if any; where it is
            not the newest, that is sent again.

    """

    nonce: Hex32
    tls_key: Hex64 | None = None
    certificate: Digest | None = None
    holds: Digest | None = None


class ClientCertificate(Versioned, frozen=True, kw_only=True):
    """A certificate (PEM) for the connection to the broker, and how long it holds."""

    pem: Annotated[str, Meta(max_length=8192)]
    issued_ms: Count
    expires_ms: Count


class Fresh(Versioned, frozen=True, kw_only=True):
    """Signed time and the newest assignment's order and digest (SHA-256 of its payload).

    ``root`` and ``targets`` are the versions of the metadata in force, 0 where the manager
    does not say: a device that holds older ones fetches them. ``certificates`` says that
    devices may ask for a client certificate; ``certificate`` is the one that was asked for.
    """

    device: Name
    nonce: Hex32
    director_epoch: Count
    sequence: Count
    digest: Digest | None
    now_ms: Count
    root: Count = 0
    targets: Count = 0
    certificates: bool = False
    certificate: ClientCertificate | None = None


class Ack(Versioned, frozen=True, kw_only=True):
    """Every report of ``boot`` up to and including ``sequence`` is durably recorded."""

    device: Name
    boot: BootId
    sequence: Count


class MetaRequest(Versioned, frozen=True, kw_only=True):
    """Asks for all metadata above the versions held, and for the targets named."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
    root: Count
    targets: Annotated[tuple[Target, ...], Meta(max_length=32)] = ()


class MetaBundle(Versioned, frozen=True, kw_only=True):
    """The answer, cut into pieces: files by name (``2.root.json``, a target name)."""

    files: dict[str, bytes]


class ChunkRequest(Versioned, frozen=True, kw_only=True):
    """Ranges ``(first, count)`` of the chunks of artifact ``a``.

    Attributes:
        g: Whether the device also listens to the group topic of this artifact.
        heard: Which chunk it took from there last, so that nobody sends faster than it takes.

    """

    a: Digest
    g: bool = False
    heard: Count | None = None
    r: Annotated[
        tuple[tuple[Count, Annotated[int, Meta(ge=1, le=MAX_CHUNKS_PER_REQUEST)]], ...],
        Meta(min_length=1, max_length=MAX_CHUNKS_PER_REQUEST),
    ]


class ChunkRefusal(Versioned, frozen=True, kw_only=True):
    """Chunks of artifact ``a`` cannot be had here now; unsigned, so it ends one try only."""

    a: Digest
    why: Text = ""


class GrantRequest(Versioned, frozen=True, kw_only=True):
    """Asks for leave to fetch artifact ``a`` over HTTP."""

    a: Digest


class Grant(Versioned, frozen=True, kw_only=True):
    """Leave for one device to fetch artifact ``a`` over HTTP, until it expires.

    Attributes:
        url: Where the artifact is served; empty where there is no leave.
        why: Why there is none.

    """

    device: Name
    a: Digest
    url: Text = ""
    why: Text = ""
    issued_ms: Count
    expires_ms: Count


class ManagerPresence(Versioned, frozen=True, kw_only=True):
    """The manager's epoch grows with each start; agents then re-send state after jitter.

    Attributes:
        downloads: Whether it may be asked for grants, to fetch artifacts over HTTP.

    """

    s: Annotated[str, Meta(pattern=r"^(online|offline)$(?!\n)")]
    epoch: Count
    downloads: bool = False
