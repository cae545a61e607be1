"""The payloads that say what a device is, runs and did, from plain values.

Rule 1: pure: time, revisions and figures are arguments.
Rule 2: nothing here holds an input, an embedding or a label of the device's owner.
"""

from collections.abc import Iterable, Mapping, Sequence

from agent.contract.messages import Assignment, Hosted, Inventory, Reported, SlotReport
from agent.contract.telemetry import Prediction, Telemetry, Window
from agent.observe.resources import Machine


def inventory(
    machine: Machine,
    *,
    revision: int,
    now_ms: int,
    agent: str,
    runtimes: Sequence[Hosted],
    slots: Iterable[str],
    trains: bool,
    evaluates: bool,
    labelled_windows: int,
) -> Inventory:
    """Return what the device is and can do."""
    return Inventory(
        rev=revision,
        ts=now_ms,
        hardware=machine.hardware,
        arch=machine.arch,
        system=machine.system,
        python=machine.python,
        agent=agent,
        memory_bytes=machine.memory_bytes,
        runtimes=tuple(runtimes),
        slots=tuple(sorted(slots)),
        trains=trains,
        evaluates=evaluates,
        labelled_windows=labelled_windows,
    )


def reported(
    slots: Mapping[str, SlotReport],
    *,
    revision: int,
    now_ms: int,
    accepted: Assignment | None,
) -> Reported:
    """Return the device's side of the desired state; ``accepted`` is the newest assignment."""
    return Reported(
        rev=revision,
        ts=now_ms,
        director_epoch=accepted.director_epoch if accepted else 0,
        sequence=accepted.sequence if accepted else 0,
        slots=dict(sorted(slots.items())),
    )


def telemetry(
    windows: Sequence[Window],
    *,
    now_ms: int,
    up_ms: int,
    rss_bytes: int,
    outbox_bytes: int,
    dropped_reports: int,
) -> Telemetry:
    """Return the windows that were just closed, with the agent's own figures."""
    return Telemetry(
        ts=now_ms,
        up=up_ms,
        windows=tuple(windows),
        rss_bytes=rss_bytes,
        outbox_bytes=outbox_bytes,
        dropped_reports=dropped_reports,
    )


def prediction(
    *, slot: str, release: str, label: str, confidence: float, latency_us: float, now_ms: int
) -> Prediction:
    """Return one answer for integrations."""
    return Prediction(
        ts=now_ms,
        slot=slot,
        release=release,
        label=label,
        confidence=min(max(confidence, 0.0), 1.0),
        latency_us=round(latency_us),
    )
