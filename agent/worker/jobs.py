"""What is asked of a child process, and what it answers: frozen values, JSON both ways.

Bytes travel as base64 inside the JSON; a task of a federated round with the head of a
model is a few kilobytes. Paths are absolute.
"""

from typing import Literal

import msgspec
from msgspec import Struct, field

from agent.config_runtime import EnvironmentConfig, RuntimeConfig
from agent.contract.app_bundle import WantedApp
from agent.contract.manifest import Artifact, Source
from agent.contract.messages import Finding, Hosted, Quality
from agent.learn.apps.environments import Environment
from agent.update.seals import Seal
from agent.update.trust import RefreshAnswer

Kind = Literal[
    "refresh", "check", "probe", "learn", "app", "app-check", "rebuild", "unbundle", "unpack"
]


class Limits(Struct, frozen=True, kw_only=True):
    """What one child may use.

    Attributes:
        seconds: Wall clock; then it is killed.
        memory_bytes: Address space (``RLIMIT_AS``).
        cpu_seconds: Processor time (``RLIMIT_CPU``).
        nice: Added to the niceness of the agent.
        idle_disk: Read and write only when nobody else wants the disk.

    """

    seconds: float
    memory_bytes: int | None = None
    cpu_seconds: int | None = None
    nice: int = 0
    idle_disk: bool = False


class Envelope(Struct, frozen=True, kw_only=True):
    """What stands on a child's standard input: whose child it is, its limits, its job."""

    parent: int
    limits: Limits
    job: msgspec.Raw


class Answered(Struct, frozen=True, kw_only=True, tag="answered"):
    """What stands on its standard output: the answer that belongs to the job."""

    answer: msgspec.Raw


class Named(Struct, frozen=True, kw_only=True, tag="error"):
    """Or the code and the sentence of an error."""

    code: str
    why: str


Outcome = Answered | Named


class CheckJob(Struct, frozen=True, kw_only=True):
    """Load a release that lies in the store, try its golden vectors, and measure it.

    Attributes:
        state_dir: Root of the agent's ``Disk``.
        digest: Manifest digest.
        hardware: What variants are matched with.
        installed: Runtimes that made a real inference here.
        runtimes: How those in a process of their own are started, by name.
        samples: The file of labelled windows, if this slot has one.
        kept: The slot whose windows people labelled, if any are kept for it.
        sealed: Files that the agent hashed lately, by digest.

    """

    state_dir: str
    digest: str
    hardware: str
    installed: tuple[Hosted, ...]
    samples: str | None = None
    kept: str | None = None
    runtimes: dict[str, RuntimeConfig] = field(default_factory=dict)
    sealed: tuple[tuple[str, Seal], ...] = ()


class Labels(Struct, frozen=True, kw_only=True):
    """One release on the device's own labelled windows.

    Attributes:
        decide: Whether each *decide* window was answered rightly, in the file's order.
        kept: The same for *decide* windows that people labelled, by a name that stays:
            meanwhile some came, and some went.
        withheld: Quality on the *withheld* windows; reported, and never decided by.

    """

    decide: tuple[bool, ...]
    withheld: Quality
    kept: dict[str, bool] = {}

    @property
    def decide_quality(self) -> Quality:
        """Quality on the *decide* windows."""
        answers = (*self.decide, *self.kept.values())
        return Quality(right=sum(answers), windows=len(answers))

    @property
    def windows(self) -> int:
        """How many windows it was measured on."""
        return len(self.decide) + len(self.kept) + self.withheld.windows


class CheckAnswer(Struct, frozen=True, kw_only=True):
    """What was found; one finding that does not hold refuses the release.

    Attributes:
        findings: Loading and golden vectors.
        rss_bytes: Resident memory of the child with this release loaded and used once.
        labels: On the labelled windows, where there are some that fit the model.
        code: Of the error for which it was not even tried; empty where it was.

    """

    findings: tuple[Finding, ...]
    rss_bytes: int
    labels: Labels | None = None
    code: str = ""

    @property
    def held(self) -> bool:
        """Whether every finding holds."""
        return all(finding.held for finding in self.findings)


class Tried(Struct, frozen=True, kw_only=True):
    """A runtime of the configuration, in a process of its own."""

    name: str
    wanted: RuntimeConfig


class ProbeJob(Struct, frozen=True, kw_only=True):
    """Try a library with a real inference, or count the labelled windows.

    Attributes:
        library: One of ``infer.probing.LIBRARIES``, or none.
        runtime: Or a runtime in a process of its own, or none.
        samples: The file of labelled windows, or none.

    """

    library: str | None = None
    runtime: Tried | None = None
    samples: str | None = None


class Unusable(Struct, frozen=True, kw_only=True):
    """A library that is installed and made no inference.

    Attributes:
        library: Package.
        code: Of the error.
        why: One sentence for the operator.

    """

    library: str
    code: str
    why: str


class ProbeAnswer(Struct, frozen=True, kw_only=True):
    """What this device can do.

    Attributes:
        runtimes: Those that made an inference.
        train, decide, withheld: Labelled windows per split.
        why: Why the labelled windows cannot be used, or empty.
        unusable: Libraries that made none, though they are installed.

    """

    runtimes: tuple[Hosted, ...]
    train: int = 0
    decide: int = 0
    withheld: int = 0
    why: str = ""
    unusable: tuple[Unusable, ...] = ()


class RebuildJob(Struct, frozen=True, kw_only=True):
    """Make an artifact from a source that lies in the store.

    Attributes:
        key: Opens a sealed source. Secret.

    """

    state_dir: str
    artifact: Artifact
    source: Source
    key: bytes | None = None


class RebuildAnswer(Struct, frozen=True, kw_only=True):
    """It is in the store under its digest; the seal of the file that was hashed."""

    seal: Seal


class UnbundleJob(Struct, frozen=True, kw_only=True):
    """Read an update bundle to its end.

    Attributes:
        path: Of the bundle.
        device: Whose assignment is wanted.

    """

    path: str
    device: str


class UnbundleAnswer(Struct, frozen=True, kw_only=True):
    """What is in it for this device; as in ``contract.bundle.Bundle``, and as little believed.

    Attributes:
        files: Offset and length of each file by its digest.

    """

    metadata: dict[str, bytes]
    assignment: bytes | None
    devices: int
    files: dict[str, tuple[int, int]]


class Packed(Struct, frozen=True, kw_only=True):
    """A file in a bundle: its SHA-256, offset and length."""

    digest: str
    at: int
    size: int


class UnpackJob(Struct, frozen=True, kw_only=True):
    """Copy files of an update bundle into the store."""

    state_dir: str
    path: str
    packed: tuple[Packed, ...]


class UnpackAnswer(Struct, frozen=True, kw_only=True):
    """They are in the store; the seals of the files that were hashed, by digest."""

    sealed: tuple[tuple[str, Seal], ...]


class LearnJob(Struct, frozen=True, kw_only=True):
    """One task of a federated round.

    Attributes:
        backbone: Manifest digest of the release whose embedding is used.
        samples: The file of labelled windows, if there is one.
        kept: The slot whose windows people labelled, if any are kept for it.
        kind: ``train`` or ``evaluate``.
        message: The Flower message that is the task's attachment.

    """

    state_dir: str
    backbone: str
    hardware: str
    installed: tuple[Hosted, ...]
    samples: str | None = None
    kept: str | None = None
    kind: str
    message: bytes


class LearnAnswer(Struct, frozen=True, kw_only=True):
    """The Flower reply and the figures that go into the ``TaskAnswer``; an app tells none."""

    reply: bytes
    decide: Quality | None = None
    withheld: Quality | None = None
    decide_running: Quality | None = None
    withheld_running: Quality | None = None


class AppCheckJob(Struct, frozen=True, kw_only=True):
    """Find a Python for an app, or tell what Pythons there are.

    Attributes:
        configured: The operator's, by name.
        app: Digest of an app that is kept, or none.

    """

    state_dir: str
    configured: dict[str, EnvironmentConfig]
    app: str | None = None


class AppCheckAnswer(Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        found: Every Python, or the one that has all the app declares.
        why: Why there is none for the app, or empty.

    """

    found: tuple[Environment, ...]
    why: str = ""


class AppJob(Struct, frozen=True, kw_only=True):
    """One task of a federated round, for an app.

    Attributes:
        app: What the task asks for; its bytes are kept.
        environment: Where it runs.
        learn: Run, task, kind, message and windows.
        limits: Of the app.
        run: Whose state it goes on with.
        task: For which task.

    """

    app: WantedApp
    environment: Environment
    learn: LearnJob
    limits: Limits
    run: str
    task: str


def answer_type(kind: Kind) -> type[Struct]:
    """Return the type of the answer to a job."""
    answers: dict[str, type[Struct]] = {
        "refresh": RefreshAnswer,
        "check": CheckAnswer,
        "probe": ProbeAnswer,
        "learn": LearnAnswer,
        "app": LearnAnswer,
        "app-check": AppCheckAnswer,
        "rebuild": RebuildAnswer,
        "unbundle": UnbundleAnswer,
        "unpack": UnpackAnswer,
    }
    return answers[kind]
