"""What a device tells of its behaviour: windows, figures and single answers.

``ts`` and ``up`` are as in ``messages``; nothing here holds an input or a label.
"""

from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Label, Name, Text
from agent.contract.messages import Count, Share


class Histogram(Struct, frozen=True, kw_only=True):
    """A mergeable log-histogram, see ``contract.histogram``: bucket numbers and counts."""

    buckets: tuple[int, ...] = ()
    counts: tuple[Count, ...] = ()


class Sketch(Struct, frozen=True, kw_only=True):
    """A mergeable sketch of values of either sign, see ``contract.sketch``.

    Attributes:
        level: The ratio of a bucket's bounds is ``(1.05/0.95) ** 2**level``.
        buckets: Numbers that rise, at most 64: 0 is nearer to zero than 1e-6, ``k`` above 0 the
            ``k``-th from there on, ``-k`` the same below zero.
        counts: Values in each.

    """

    level: Annotated[int, Meta(ge=0, le=64)] = 0
    buckets: tuple[int, ...] = ()
    counts: tuple[Count, ...] = ()


class Feature(Struct, frozen=True, kw_only=True):
    """One value among a model's outputs: the probability of a class, or a number of its own."""

    name: Label
    values: Sketch = Sketch()


class Channel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One channel of a model's input, in the windows that were looked at.

    Attributes:
        values: What it held; empty until there are enough not to tell the values themselves.
        constant: Windows in which it had one value only.
        outside: Of ``values``, those outside the range that the device's operator declared.
        not_finite: Windows that were refused because it held a NaN or an infinity.

    """

    name: Label
    values: Sketch = Sketch()
    constant: Count = 0
    outside: Count = 0
    not_finite: Count = 0


class Swap(Struct, frozen=True, kw_only=True):
    """Resident memory around a change of models: before the new was loaded, after the old went."""

    before_bytes: Count
    after_bytes: Count


class Window(Struct, frozen=True, kw_only=True):
    """One slot's behaviour between two moments; unique on (boot, slot, number).

    Attributes:
        labelled: Predictions of this release that people labelled meanwhile, whenever it
            made them.
        right: Those of them that the label bore out.
        samples: Samples that its source gave; 0 where it takes whole windows.
        gaps: Breaks in the stream.
        skipped: Windows that a hot device left out.
        looked: Windows whose input was looked at, for ``inputs``.
        inputs: By channel, at most ``limits.MAX_CHANNELS_TOLD``.
        outputs: The first values of the output, at most ``limits.MAX_OUTPUTS_TOLD``.
        swap: Of the release that serves, where a change of models ended meanwhile.
        drift: Prediction drift, see ``contract.drift``; absent until enough was answered.

    """

    slot: Name
    release: Digest
    number: Count
    opened_ms: Count
    closed_ms: Count
    inferences: Count = 0
    refused: Count = 0
    failed: Count = 0
    latency_us: Histogram = Histogram()
    confidence: Histogram = Histogram()
    classes: tuple[Count, ...] = ()
    labelled: Count = 0
    right: Count = 0
    samples: Count = 0
    gaps: Count = 0
    skipped: Count = 0
    looked: Count = 0
    inputs: tuple[Channel, ...] = ()
    outputs: tuple[Feature, ...] = ()
    swap: Swap | None = None
    drift: Annotated[float, Meta(ge=0)] | None = None


class Rail(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One supply that the machine measures, in volts and watts."""

    volts: float | None = None
    watts: float | None = None


class Wear(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How worn an eMMC says it is (JEDEC JESD84-B51, EXT_CSD).

    Attributes:
        used: Share of its life that is used up, in steps of 0.1; 1 and more is over.
        reserve: ``normal``, ``warning`` (80 % of the reserve blocks used) or ``urgent``.

    """

    used: Annotated[float, Meta(ge=0, le=2)] | None = None
    reserve: Text | None = None


class Served(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came over HTTP (``[serve]``) since the agent started.

    Attributes:
        answered: Requests of every kind that were answered.
        refused: The others, by reason: the code of an error, or a word such as ``rate``,
            ``token`` or ``origin``.

    """

    answered: Count = 0
    refused: dict[Text, Count] = {}


class Health(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the machine itself is; a figure that it does not give is absent.

    Attributes:
        ts: Wall clock of the reading, ms since 1970.
        cpu: Share of all processors that was busy since the last reading.
        cpu_agent: Processors that the agent and its children took meanwhile; 1 is one of them.
        cpus: Processors.
        mhz: Mean clock of the processors now.
        memory_bytes, swap_bytes: Available memory, and swap in use.
        pressure: Share of the last minute in which some work stood still for want of
            ``cpu``, ``memory`` or ``io`` (the kernel's pressure stall information).
        celsius: Temperatures by the kernel's name of the zone.
        throttled: What holds the processor back now: ``under-voltage``, ``frequency-capped``,
            ``throttled``, ``soft-temperature-limit``, ``over-current``.
        was_throttled: The same since the machine started.
        power: Rails by label.
        power_mode: Of a Jetson, by its number.
        on_battery: Whether it runs on a battery; absent on a machine without.
        battery: Charge, 0 to 1.
        disk_free_bytes: On the file system of the state directory.
        disk_written_bytes: By this process, since it started.
        wear: By block device.
        duty: One in so many windows is answered; 1 where the device is cool.
        served: What was asked over HTTP; absent where nothing is listened on.

    """

    ts: Count
    cpu: Share | None = None
    cpu_agent: Annotated[float, Meta(ge=0)] | None = None
    cpus: Count | None = None
    mhz: Count | None = None
    memory_bytes: Count | None = None
    swap_bytes: Count | None = None
    pressure: Annotated[dict[Text, Share], Meta(max_length=8)] = {}
    celsius: Annotated[dict[Text, float], Meta(max_length=32)] = {}
    throttled: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    was_throttled: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    power: Annotated[dict[Text, Rail], Meta(max_length=32)] = {}
    power_mode: Text | None = None
    on_battery: bool | None = None
    battery: Share | None = None
    disk_free_bytes: Count | None = None
    disk_written_bytes: Count | None = None
    wear: Annotated[dict[Text, Wear], Meta(max_length=8)] = {}
    duty: Annotated[int, Meta(ge=1, le=1024)] = 1
    served: Served | None = None

    @property
    def hottest(self) -> tuple[str, float] | None:
        """The hottest zone and its temperature, where there is one."""
        return max(self.celsius.items(), key=lambda zone: zone[1], default=None)


class Owner(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came by the owner's own broker since the start of the agent.

    Attributes:
        malformed: Messages of sources that were no samples.
        dropped: Messages of sources that found too many waiting.
        answered: Requests that were answered with a prediction.
        refused: Requests that were none, or none for the model.
        busy: Requests above the rate that is taken.
        failed: Requests on which the model failed, or that found none.

    """

    malformed: Count = 0
    dropped: Count = 0
    answered: Count = 0
    refused: Count = 0
    busy: Count = 0
    failed: Count = 0


class Telemetry(Versioned, frozen=True, kw_only=True):
    """Windows in one message, how the machine is, and what came by the owner's broker."""

    ts: Count
    up: Count
    windows: tuple[Window, ...]
    rss_bytes: Count = 0
    outbox_bytes: Count = 0
    dropped_reports: Count = 0
    refused_labels: Count = 0
    health: Health | None = None
    owner: Owner | None = None


class Prediction(Versioned, frozen=True, kw_only=True):
    """One model answer, for integrations; a label names it by ``id``.

    Attributes:
        version: Of the release.
        probabilities: Of all classes, where the owner's broker is to hear them.

    """

    id: Text = ""
    ts: Count
    slot: Name
    release: Digest
    label: Text
    confidence: Share
    latency_us: Count
    version: Text = ""
    probabilities: dict[Label, Share] | None = None
