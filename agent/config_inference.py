"""What the operator may choose about inference: what feeds it, and who may ask it.

The sections stand in the one configuration file, and its rules are those of ``config``.
"""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.limits import NAME_PATTERN

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

    """

    url: Annotated[str, Meta(min_length=1, max_length=500)]
    username: str | None = None
    password: str | None = None
    ca: Path | None = None
    prefix: Annotated[str, Meta(max_length=120, pattern=r"^[^+#$]*$")] = "fieldfare"


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

    A message is a JSON array of samples, or raw little-endian float32.

    Attributes:
        topic: The whole MQTT topic.

    """

    topic: Annotated[str, Meta(min_length=1, max_length=256)]


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

    """

    source: Source | None = None
    publish_predictions: bool = False
    callback: Annotated[str, Meta(pattern=CALLABLE)] | None = None


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
