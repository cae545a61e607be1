"""What the operator of one device may choose, with every default in one place.

Rule 1: ``config_file`` reads it once, at start, into frozen values; nothing else does.
Rule 2: an unknown key, a value out of bounds or a contradiction is an error.
Rule 3: who the fleet is and how its broker is reached come from enrolment, never
        from here: a configuration file cannot move a device to another fleet.
Rule 4: an absent file section means its defaults; durations are in seconds.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from agent.config_health import HealthConfig
from agent.config_inference import (
    FeedbackConfig,
    HomeAssistantConfig,
    LocalBrokerConfig,
    Name,
    PipelineConfig,
    Seconds,
    Subscribed,
)
from agent.config_runtime import EnvironmentConfig, RuntimeConfig
from agent.config_serving import ServeConfig
from agent.contract.limits import NAME
from agent.contract.proxy import NEVER, Proxy
from agent.errors import MalformedError

Bytes = Annotated[int, Meta(gt=0, le=2**50)]
Share = Annotated[float, Meta(ge=0, le=1)]

OWN_ENVIRONMENT = "agent"
DEFAULT_STATE_DIR = Path("/var/lib/fieldfare")
DEFAULT_CONFIG_FILE = Path("/etc/fieldfare/agent.toml")


class AgentConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[agent]``: this program on this machine.

    Attributes:
        state_dir: Identity, credentials, models, journals and unsent reports.
        hardware: Name that release variants are matched with; unset, it is detected.
        startup_delay_seconds: Longest random wait before the first connection, so that
            a power cut of a whole site does not become one burst on the broker.

    """

    state_dir: Path = DEFAULT_STATE_DIR
    hardware: Name | None = None
    startup_delay_seconds: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class BrokerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[broker]``: the MQTT session; address and credentials come from enrolment.

    Attributes:
        keepalive_seconds: Longest silence before the broker calls the device offline.
        session_expiry_seconds: How long the broker keeps messages for an absent device.

    """

    keepalive_seconds: Annotated[int, Meta(ge=2, le=65_535)] = 60
    session_expiry_seconds: Annotated[int, Meta(ge=0, le=604_800)] = 3600


class LinkConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[link]``: how patient the device is with the network.

    Attributes:
        reconnect_first_seconds: Upper bound of the first random wait; it doubles.
        reconnect_longest_seconds: Upper bound of every wait.
        resend_seconds: A report without acknowledgement is sent again after this.
        answer_seconds: A request to the manager is asked again after this.
        stall_seconds: A transfer without progress is given up after this.
        fresh_seconds: How often signed time is asked for.
        resettle_seconds: A release that could not be fetched is tried again after this.
        state_jitter_seconds: Longest random wait before state is sent to a new manager.
        proxy: HTTP proxy to the fleet, ``http://user:password@host:port``; ``none`` goes
            straight. Unset, HTTPS_PROXY and NO_PROXY of the environment hold.
        downloads: Whether artifacts may come over HTTP(S) where the fleet serves them so.

    """

    reconnect_first_seconds: Seconds = 1.0
    reconnect_longest_seconds: Seconds = 300.0
    resend_seconds: Seconds = 30.0
    answer_seconds: Seconds = 15.0
    stall_seconds: Seconds = 60.0
    fresh_seconds: Seconds = 21_600.0
    resettle_seconds: Seconds = 60.0
    state_jitter_seconds: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    endpoint_seconds: Seconds = 120.0
    endpoint_retry_seconds: Seconds = 3600.0
    proxy: Annotated[str, Meta(max_length=500)] | None = None
    downloads: bool = True

    def __post_init__(self) -> None:
        if self.proxy is not None and self.proxy not in NEVER:
            try:
                Proxy.parse(self.proxy)
            except MalformedError as why:
                raise ValueError(f"proxy: {why}; or none") from why


class BudgetConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[budget.<class>]``: what artifacts may cost on one class of links.

    The class is the first in the file of which a pattern fits the interface of the default
    route. Bytes are those of chunks, by MQTT and HTTP alike; a day is one in UTC.

    Attributes:
        interfaces: Shell patterns such as ``wwan*``.
        bytes_per_day: What is then still missing waits for the next day, or another link.
        bytes_per_second: Chunks are asked for no faster.

    """

    interfaces: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
    bytes_per_day: Annotated[int, Meta(ge=1_048_576, le=2**50)] | None = None
    bytes_per_second: Annotated[int, Meta(ge=1024, le=2**40)] | None = None

    def __post_init__(self) -> None:
        if self.bytes_per_day is None and self.bytes_per_second is None:
            raise ValueError("a budget needs bytes_per_day, bytes_per_second or both")


class OutboxConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[outbox]``: reports that wait for the manager.

    Attributes:
        quota_bytes: When it is used up, the oldest telemetry is dropped and counted.

    """

    quota_bytes: Bytes = 64 * 1024 * 1024


class StoreConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[store]``: manifests, models and golden vectors on this device.

    Attributes:
        quota_bytes: A release that would take the store above it is not fetched until
            there is room; what runs, the last good and a candidate are never evicted for
            it. Unset, only the disk is the limit.

    """

    quota_bytes: Bytes | None = None


class ObserveConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[observe]``: what is reported about inference.

    Attributes:
        window_seconds: Length of one window of behaviour.
        input_budget: Share of the time of inference that looking at inputs may take, for the
            sketches of their channels; one window a second may always be looked at. 0 never
            looks, and then no channel is known to stand still.
        sketch_seconds: How often the sketches of inputs and outputs are told, with the next
            window; until then they add up.
        stuck_seconds: A channel that holds one value for so long is told as stuck; 0 never.
        rate_tolerance: A stream whose samples come by so much slower or faster than its model
            wants is told, as a share; 0 never.
        drift_first: So many first answers of a release are what its later ones are held
            against, as *prediction drift*.
        drift_newest: How many of the newest answers, at least, are held against them.

    """

    window_seconds: Seconds = 60.0
    input_budget: Share = 0.005
    sketch_seconds: Seconds = 600.0
    stuck_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 60.0
    rate_tolerance: Annotated[float, Meta(ge=0, le=100)] = 0.2
    drift_first: Annotated[int, Meta(ge=10, le=10**9)] = 2000
    drift_newest: Annotated[int, Meta(ge=10, le=10**9)] = 500


class UpdateConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[update]``: how a new release has to prove itself beside the last good one.

    Attributes:
        probation_seconds: Judged at the latest after this, with what was seen by then.
        look_seconds: How often the evidence is looked at meanwhile.
        min_windows: Live windows that both releases must have answered.
        max_latency_ratio: Median latency, candidate over last good.
        latency_slack_us: Added to the allowed latency, so that tiny models are not noise.
        max_rss_growth_bytes: Resident memory of a process with the candidate over one
            with the last good release.
        min_agreement: Share of live windows in which both give the same class.
        min_agreement_windows: Low agreement is not believed on fewer, while time is left:
            neighbouring windows are alike.
        max_confidence_drop: Mean confidence, last good minus candidate.
        max_decide_drop: Accuracy on the *decide* windows, last good minus candidate, that
            is refused where an exact sign test finds it significant.
        certain_decide_drop: A drop that is refused whatever the test says.
        min_labelled: Fewer *decide* windows decide nothing.
        significance: Of the sign test, one-sided.
        reserve_bytes: Disk space that a fetch must leave free.
        check_seconds: Wall clock of the child process that loads a model first.
        check_memory_bytes: Its address space.

    """

    probation_seconds: Seconds = 300.0
    look_seconds: Seconds = 1.0
    min_windows: Annotated[int, Meta(ge=0, le=10**6)] = 20
    max_latency_ratio: Annotated[float, Meta(gt=0, le=1000)] = 2.0
    latency_slack_us: Annotated[float, Meta(ge=0, le=1e8)] = 500.0
    max_rss_growth_bytes: Bytes = 64 * 1024 * 1024
    min_agreement: Share = 0.5
    min_agreement_windows: Annotated[int, Meta(ge=0, le=10**6)] = 100
    max_confidence_drop: Share = 0.25
    max_decide_drop: Share = 0.05
    certain_decide_drop: Share = 0.2
    min_labelled: Annotated[int, Meta(ge=1, le=10**6)] = 20
    significance: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    reserve_bytes: Annotated[int, Meta(ge=0, le=2**50)] = 64 * 1024 * 1024
    check_seconds: Seconds = 120.0
    check_memory_bytes: Bytes = 4 * 1024**3


class LearnConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[learn]``: what this device gives to federated rounds; its samples never leave it.

    Attributes:
        samples: An ``.npz`` of labelled windows (``x``, ``y``, ``split``); unset, and
            without ``feedback.keep_windows``, the device neither trains nor evaluates.
        slot: The slot whose model the windows belong to; unset, the only pipeline.
        train: Whether it may train.
        evaluate: Whether it measures releases on its own windows.
        seconds: Wall clock of one task.
        cpu_seconds: Processor time of one task.
        memory_bytes: Address space of one task.
        nice: Added to its niceness, so that inference goes first.
        cache_bytes: What models of rounds may take on the disk, so that none comes twice.
        apps: Whether signed apps of the fleet's operator may train here.
        environment: Pythons that they may run under, beside the agent's own.

    """

    samples: Path | None = None
    slot: Name | None = None
    train: bool = False
    evaluate: bool = True
    seconds: Seconds = 600.0
    cpu_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 600
    memory_bytes: Bytes = 4 * 1024**3
    nice: Annotated[int, Meta(ge=0, le=19)] = 10
    cache_bytes: Bytes = 256 * 1024**2
    apps: bool = False
    environment: dict[str, EnvironmentConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.environment:
            if not NAME.fullmatch(name) or name == OWN_ENVIRONMENT:
                raise ValueError(
                    f"environment {name!r} is not lower-case letters, digits and hyphens,"
                    f" or is called {OWN_ENVIRONMENT!r} like the agent's own Python"
                )


_NOTHING_TO_TRAIN_ON = (
    "learn.train needs learn.samples, or feedback.keep_windows and one slot: name it in learn.slot"
)


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device's settings."""

    agent: AgentConfig = AgentConfig()
    broker: BrokerConfig = BrokerConfig()
    local_broker: LocalBrokerConfig | None = None
    home_assistant: HomeAssistantConfig | None = None
    link: LinkConfig = LinkConfig()
    budget: dict[str, BudgetConfig] = field(default_factory=dict)
    outbox: OutboxConfig = OutboxConfig()
    store: StoreConfig = StoreConfig()
    observe: ObserveConfig = ObserveConfig()
    health: HealthConfig = HealthConfig()
    update: UpdateConfig = UpdateConfig()
    learn: LearnConfig = LearnConfig()
    feedback: FeedbackConfig | None = None
    serve: ServeConfig | None = None
    pipeline: dict[str, PipelineConfig] = field(default_factory=dict)
    runtime: dict[str, RuntimeConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for slot in self.pipeline:
            if not NAME.fullmatch(slot):
                raise ValueError(f"slot {slot!r} is not lower-case letters, digits and hyphens")
        for name in self.runtime:
            if not NAME.fullmatch(name):
                raise ValueError(f"runtime {name!r} is not lower-case letters, digits and hyphens")
        for name in self.budget:
            if not NAME.fullmatch(name):
                raise ValueError(f"budget {name!r} is not lower-case letters, digits and hyphens")
        if self.learn.slot is not None and self.learn.slot not in self.pipeline:
            raise ValueError(f"learn.slot {self.learn.slot!r} has no [pipeline.{self.learn.slot}]")
        if self.learn.samples and self.learn.slot is None and len(self.pipeline) > 1:
            raise ValueError("learn.samples with several pipelines needs learn.slot")
        for slot, pipeline in self.pipeline.items():
            if isinstance(pipeline.source, Subscribed) and self.local_broker is None:
                raise ValueError(f"pipeline.{slot} listens to MQTT: it needs [local_broker]")
        if self.learn.train and self.labelled_slot is None:
            raise ValueError(_NOTHING_TO_TRAIN_ON)
        if self.home_assistant and not (self.local_broker and self.local_broker.prefix):
            raise ValueError("[home_assistant] needs [local_broker] with a prefix")
        if self.link.reconnect_longest_seconds < self.link.reconnect_first_seconds:
            raise ValueError("link.reconnect_longest_seconds is below reconnect_first_seconds")

    @property
    def labelled_slot(self) -> str | None:
        """The slot whose releases are measured on the labelled windows, if any."""
        if self.learn.samples is None and not self.keeps_windows:
            return None
        if self.learn.slot is None and len(self.pipeline) > 1:
            return None
        return self.learn.slot or next(iter(self.pipeline), None)

    @property
    def keeps_windows(self) -> bool:
        """Whether windows that people label are kept."""
        return self.feedback is not None and self.feedback.keep_windows
