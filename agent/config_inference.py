"""What the operator may choose about inference: what feeds it, and who may ask it.

The sections stand in the one configuration file, and its rules are those of ``config``.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.limits import NAME_PATTERN
from agent.contract.owner_topics import is_filter

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]

CALLABLE = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class LocalBrokerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[local_broker]``: the owner's own broker, for samples in and predictions out.

    Local integrations never travel on the fleet's link, whose rights end at its own topics.

    Attributes:
        url: ``mqtt://host:port`` or ``mqtts://host:port``.
        username, password: Of an account on that broker, if it wants one.
        ca: PEM file of the only authority believed; unset, the system's.
        prefix: Predictions go to ``{prefix}/{device}/{slot}/prediction``; empty, none do.
        probabilities: Whether each prediction also names the probabilities of all classes.
        requests: Whether ``{prefix}/{device}/{slot}/infer`` is answered.
        requests_per_second: More are refused, all slots together.

    """

    url: Annotated[str, Meta(min_length=1, max_length=500)]
    username: str | None = None
    password: str | None = None
    ca: Path | None = None
    prefix: Annotated[str, Meta(max_length=120, pattern=r"^[^+#$]*$")] = "fieldfare"
    probabilities: bool = False
    requests: bool = True
    requests_per_second: Annotated[float, Meta(gt=0, le=100_000)] = 20.0


class HomeAssistantConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[home_assistant]``: this device shows itself in Home Assistant, by ``[local_broker]``.

    Without this section Home Assistant is told nothing.

    Attributes:
        announce: False takes the device away from Home Assistant again; then the section may go.
        discovery: The discovery prefix that Home Assistant is set to.
        name: The device's name there; unset, this machine's host name.
        every_seconds: How often a prediction that stays the same is told again. Another one
            is told at once, at most once a second.

    """

    announce: bool = True
    discovery: Annotated[str, Meta(pattern=r"^[^+#$/\s]+(/[^+#$/\s]+)*$", max_length=120)] = (
        "homeassistant"
    )
    name: Annotated[str, Meta(min_length=1, max_length=80)] | None = None
    every_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 10.0


class Replay(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="replay"
):
    """``source = {kind = "replay"}``: a recording, as if it happened now.

    Attributes:
        path: An ``.npz`` with ``samples`` (n, channels) float32 and ``rate_hz``.
        speed: How much faster than it was recorded.
        loop: Whether it starts again at its end.

    """

    path: Path
    speed: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    loop: bool = False


class Subscribed(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="mqtt"
):
    """``source = {kind = "mqtt"}``: samples that others publish on ``[local_broker]``.

    A message is a JSON array of samples, or raw little-endian float32; with ``fields`` it is
    a JSON object, or an array of them.

    Attributes:
        topic: The MQTT topic, or a filter such as ``zigbee2mqtt/#``.
        fields: Members that are the channels, in their order; ``acceleration.x`` is a member
            of a member. Objects with none of them are passed over.
        stale_seconds: Without a sample for so long, an alarm is told; 0 never.

    """

    topic: Annotated[str, Meta(min_length=1, max_length=256)]
    fields: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=1024)
    ] = ()
    stale_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 300.0

    def __post_init__(self) -> None:
        if self.topic.startswith("$share/"):
            raise ValueError("a shared subscription gives a device only some of the samples")
        if not is_filter(self.topic):
            raise ValueError(
                f"topic {self.topic!r} has a wildcard inside of a word, or # before its end"
            )


class Called(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="callable"
):
    """``source = {kind = "callable"}``: an iterable of samples from the operator's code.

    Attributes:
        target: ``module:function``, importable in the agent's environment.

    """

    target: Annotated[str, Meta(pattern=CALLABLE)]


Source = Replay | Subscribed | Called


class PipelineConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[pipeline.<slot>]``: where one slot's model gets its windows.

    Attributes:
        source: Replay of a recording, an MQTT topic, or a Python callable. Without one the
            slot's model answers requests only, and they are what a new release is tried on.
        publish_predictions: Whether every answer is published to the fleet's broker
            (QoS 0), for integrations there.
        callback: ``module:function`` that is called with every answer, in the inference
            thread; what it raises is counted and logged.
        ranges: What channels can be, by name: ``{ acc_x = [-40, 40] }``. Values outside are
            counted and, where they are more than a hundredth, told.
        own_process: Whether its models run in a process of their own, so that one that
            crashes or hangs costs its own answers and not the agent. An inference takes some
            0.2 ms longer, and each model holds a Python of its own in memory.
        deadline_seconds: Of one inference, with ``own_process`` only: then its process is
            killed and started again; unset, 10. What runs in the agent cannot be stopped.
        memory_bytes: Address space of that process; unset, only the unit's limit holds.

    """

    source: Source | None = None
    publish_predictions: bool = False
    callback: Annotated[str, Meta(pattern=CALLABLE)] | None = None
    ranges: dict[str, tuple[float, float]] = {}
    own_process: bool = False
    deadline_seconds: Annotated[float, Meta(gt=0, le=3600)] | None = None
    memory_bytes: Annotated[int, Meta(ge=67_108_864, le=2**50)] | None = None

    def __post_init__(self) -> None:
        if not self.own_process and (self.deadline_seconds or self.memory_bytes):
            raise ValueError(
                "deadline_seconds and memory_bytes need own_process = true: what runs in the "
                "agent can be neither stopped nor limited"
            )
        for channel, (lowest, highest) in self.ranges.items():
            if not lowest < highest:
                raise ValueError(f"ranges: {channel} is from {lowest:g} to {highest:g}")


class FeedbackConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[feedback]``: predictions are remembered for a while, so that people can label them.

    Without this section nothing is. A label counts for or against the release that
    predicted; inputs and labels never leave the device.

    Attributes:
        recent: Newest predictions of each slot to which a label may still be attached.
        recent_bytes: Memory for the inputs of those of one slot; the oldest go first.
        keep_windows: Whether labelled windows are kept on the disk, for training and to
            judge releases by, beside those of ``learn.samples``. Without, no input is
            remembered.
        quota_bytes: Of the kept windows of all slots; the oldest go first.
        retention_days: Windows that are older are removed.

    """

    recent: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    recent_bytes: Annotated[int, Meta(ge=1024, le=2**40)] = 16 * 1024 * 1024
    keep_windows: bool = False
    quota_bytes: Annotated[int, Meta(ge=1_048_576, le=2**50)] = 64 * 1024 * 1024
    retention_days: Annotated[int, Meta(ge=1, le=3650)] = 90
