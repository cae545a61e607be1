"""What a device tells of its behaviour: windows, figures and single answers.

``ts`` and ``up`` are as in ``messages``; nothing here holds an input or a label.
"""

from msgspec import Struct

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Count, Share


class Histogram(Struct, frozen=True, kw_only=True):
    """A mergeable log-histogram, see ``contract.histogram``: bucket numbers and counts."""

    buckets: tuple[int, ...] = ()
    counts: tuple[Count, ...] = ()


class Window(Struct, frozen=True, kw_only=True):
    """One slot's behaviour between two moments; unique on (boot, slot, number)."""

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


class Telemetry(Versioned, frozen=True, kw_only=True):
    """Windows in one message."""

    ts: Count
    up: Count
    windows: tuple[Window, ...]
    rss_bytes: Count = 0
    outbox_bytes: Count = 0
    dropped_reports: Count = 0


class Prediction(Versioned, frozen=True, kw_only=True):
    """One model answer, for integrations."""

    ts: Count
    slot: Name
    release: Digest
    label: Text
    confidence: Share
    latency_us: Count
