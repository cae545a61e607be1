"""What the surfaces show, as plain values; ``wishes`` is what they ask for.

Rule 1: one type serves the API, ``-o json`` and the console; its fields are the contract.
Rule 2: a view is made from the registry at one moment and never changes.
"""

from msgspec import Struct, field

from agent.contract.manifest import Digest
from agent.contract.messages import AppEnvironment, Count, Finding, Hosted, Quality
from agent.contract.telemetry import Health
from fleet.service.behaviour_views import BehaviourView
from fleet.service.judged_views import CohortView, HeldOutView, JudgedView, PromotionView
from fleet.service.round_views import RoundView
from fleet.service.standing_views import StandingView


class TokenView(Struct, frozen=True, kw_only=True):
    """One token; its secret seed is never stored, so it cannot be shown."""

    key: str
    group: str
    uses: int
    used_by: tuple[str, ...]
    expires_ms: int
    approval: str
    listed: int = 0


class SlotView(Struct, frozen=True, kw_only=True):
    """One slot of a device: what is wanted and what runs, as ``family version``."""

    slot: str
    wanted: str | None
    wanted_digest: str | None
    runs: str | None
    runs_digest: str | None
    phase: str
    denied: tuple[str, ...] = ()


class AlarmView(Struct, frozen=True, kw_only=True):
    """A refusal or fault that a device, or the manager, wants a person to know."""

    device: str
    code: str
    why: str
    at_ms: int


class UpdateView(Struct, frozen=True, kw_only=True):
    """The end of one try to update one device."""

    device: str
    release: str
    outcome: str
    why: str
    at_ms: int
    findings: tuple[Finding, ...] = ()


class FieldView(Struct, frozen=True, kw_only=True):
    """How right a release was on one device, where people labelled what it predicted."""

    release: str
    quality: Quality


class DeviceView(Struct, frozen=True, kw_only=True):
    """One device.

    Attributes:
        reports_accepted: Outbox reports that were counted, once each.
        reports_duplicates_ignored: Resends that changed nothing.
        reports_skipped: Reports that the device says it dropped for lack of room.
        reports_missing: Numbers below the highest that have not arrived (yet).
        system, arch, python: Of its newest inventory, like the next two.
        runtimes: Libraries that made a real inference there.
        cpu_flags: What of its processor decides how fast models run.
        apps, environments: Whether signed apps may train there, and under which Pythons.
        last_update: How its newest update ended; only where one device is asked for.
        alarms: Its newest alarms, oldest first; only where one device is asked for.
        in_the_field: Accuracy by people's labels, oldest release first; only where one
            device is asked for.
        health, behaviour: Its machine when it last said so, and what its slots did lately; only
            where one device is asked for.
        learning: What became of its updates in rounds; None without any, and in listings.

    """

    id: str
    state: str
    group: str
    hardware: str
    presence: str
    last_seen_ms: int
    agent: str = ""
    trains: bool = False
    evaluates: bool = False
    slots: tuple[SlotView, ...] = ()
    quarantined_why: str | None = None
    reports_accepted: int = 0
    reports_duplicates_ignored: int = 0
    reports_skipped: int = 0
    reports_missing: int = 0
    system: str = ""
    arch: str = ""
    python: str = ""
    runtimes: tuple[Hosted, ...] = ()
    cpu_flags: tuple[str, ...] = ()
    apps: bool = False
    environments: tuple[AppEnvironment, ...] = ()
    last_update: UpdateView | None = None
    alarms: tuple[AlarmView, ...] = ()
    in_the_field: tuple[FieldView, ...] = ()
    health: Health | None = None
    behaviour: tuple[BehaviourView, ...] = ()
    learning: StandingView | None = None


class EvaluationView(Struct, frozen=True, kw_only=True):
    """Quality of a release on one device's labelled windows."""

    device: str
    release: str
    decide: Quality | None
    withheld: Quality | None
    at_ms: int


class VariantView(Struct, frozen=True, kw_only=True):
    """One form of a release; ``size`` is of its model in bytes."""

    name: str
    runtime: str
    size: int
    providers: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()


class ReleaseView(Struct, frozen=True, kw_only=True):
    """One release.

    Attributes:
        in_the_field: Right answers among those that people labelled, by device.

    """

    name: str
    target: str
    digest: str
    family: str
    version: str
    slot: str
    counter: int
    created_ms: int
    size: int
    runs_on: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    run: str | None = None
    rounds: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    withdrawn: bool = False
    encrypted: bool = False
    variants: tuple[VariantView, ...] = ()
    in_the_field: dict[str, Quality] = field(default_factory=dict)


class TargetsView(Struct, frozen=True, kw_only=True):
    """What a release engineer needs before signing: current targets and counters.

    Attributes:
        root, targets: Metadata in force.
        delegated: That of delegated roles in force, by role name.
        versions: The last version of each delegated role, in force or not.

    """

    fleet: str
    root: bytes
    targets: bytes
    delegated: dict[str, bytes] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    next_counters: dict[str, int]
    in_use: dict[str, tuple[str, ...]]
    """Manifest digests by slot that some device is wanted to run: what a release that
    replaces them lists in ``rollback_to``."""
    encrypted: tuple[str, ...] = ()
    """Slots whose newest release is encrypted: the next one is too, unless said otherwise."""


class ContentKeyView(Struct, frozen=True, kw_only=True):
    """What opens the sealed streams of one artifact. Secret.

    Attributes:
        stream: Digest of the one without a base.

    """

    stream: Digest
    key: bytes


class BundledFile(Struct, frozen=True, kw_only=True):
    """A file behind a release that a bundle holds."""

    digest: Digest
    size: Count


class BundleView(Struct, frozen=True, kw_only=True):
    """What an update bundle holds; its files are fetched by digest.

    Attributes:
        metadata: Trust metadata and targets by name.
        assignments: Signed documents by device.
        until_ms: When the first signature in it expires.
        passed_over: Why a device is not among them.

    """

    release: str
    metadata: dict[str, bytes]
    assignments: dict[str, bytes]
    files: tuple[BundledFile, ...]
    until_ms: int
    passed_over: dict[str, str]


class RolloutDeviceView(Struct, frozen=True, kw_only=True):
    """One device in a rollout.

    Attributes:
        in_the_field: Right answers of the release among those that people labelled there.

    """

    device: str
    wave: int
    state: str
    why: str = ""
    in_the_field: Quality | None = None


class RolloutView(Struct, frozen=True, kw_only=True):
    """One rollout; ``why`` is the sentence of its last decision."""

    id: str
    release: str
    release_digest: str
    slot: str
    status: str
    wave: int
    waves: int
    why: str
    started_ms: int
    ended_ms: int | None = None
    devices: tuple[RolloutDeviceView, ...] = ()


class RunView(Struct, frozen=True, kw_only=True):
    """One federated run; ``elsewhere`` counts devices that another run has taken."""

    id: str
    slot: str
    backbone: str
    backbone_digest: str
    status: str
    why: str
    rounds: int
    rounds_completed: int
    participants: tuple[str, ...]
    replies: Count = 0
    refused: Count = 0
    judged: tuple[JudgedView, ...] = ()
    cohorts: tuple[CohortView, ...] = ()
    promotion: PromotionView | None = None
    held_out: HeldOutView | None = None
    latest: tuple[RoundView, ...] = ()
    elsewhere: Count = 0
    started_ms: int = 0
    ended_ms: int | None = None


class CandidateView(Struct, frozen=True, kw_only=True):
    """The model that a finished run offers for signing."""

    run: str
    slot: str
    family: str
    parent: str
    parent_manifest: bytes
    parent_golden: bytes
    model: bytes
    rounds: int
    cohort: tuple[str, ...]
    receivers: tuple[str, ...]
    judged: tuple[JudgedView, ...]
    cohorts: tuple[CohortView, ...] = ()
    strategy: str = ""
    seed: int | None = None


class StatusView(Struct, frozen=True, kw_only=True):
    """The fleet at one glance."""

    fleet: str
    dev_mode: bool
    broker: str
    broker_connected: bool
    devices: dict[str, int]
    online: int
    releases: int
    rollouts_active: int
    runs_active: int
    reports_accepted: int
    reports_duplicates_ignored: int
    reports_skipped: int
    windows: int
    alarms: int
    metadata_expires_ms: int
    home_assistant: str = ""
    """How the bridge does: ``connected``, or why not; empty without one."""


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request was refused: a stable code and one sentence."""

    code: str
    why: str
    exit_status: int


class PruneView(Struct, frozen=True, kw_only=True):
    """What was, or with a dry run would be, removed or archived.

    Attributes:
        artifacts: Names of files that no release in force, device, rollout or run needs.
        events: Entries of the event log that move to a file; ``archive`` is its name.
        runs: Ended runs of which something spooled goes; ``candidates`` lose their weights.
        more: There is more of it: ask again.

    """

    dry_run: bool
    artifacts: tuple[str, ...] = ()
    artifact_bytes: int = 0
    events: int = 0
    archive: str = ""
    runs: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    run_bytes: int = 0
    free_bytes: int = 0
    more: bool = False
