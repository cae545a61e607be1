"""What a person is told of a device's machine, and of what its slots did lately."""

from collections.abc import Iterator

from agent.contract.health_lines import health_lines
from agent.contract.telemetry import Health
from fleet.cli.output import ago
from fleet.service.behaviour_views import BehaviourView, SpreadView

_MIB = 1024 * 1024


def machine_lines(health: Health) -> Iterator[tuple[str, str]]:
    """Return heading and text of each line about a machine, as of when it told them."""
    yield (
        "machine",
        f"as of {ago(health.ts)}"
        + (f", hot: one in {health.duty} windows is answered" if health.duty > 1 else ""),
    )
    yield from health_lines(health)


def behaviour_lines(view: BehaviourView) -> Iterator[tuple[str, str]]:
    """Return heading and text of each line about a slot."""
    counts = {
        "refused": view.refused,
        "failed": view.failed,
        "left out": view.skipped,
        "gaps": view.gaps,
    }
    more = "".join(f", {count} {word}" for word, count in counts.items() if count)
    yield (
        f"lately {view.slot}",
        f"{view.release}: {view.inferences} answers{more}"
        + (
            f", {view.middle_us:.0f} µs (95 %: {view.high_us:.0f} µs)"
            if view.middle_us is not None and view.high_us is not None
            else ""
        ),
    )
    if view.drift is not None:
        yield "", f"prediction drift {view.drift:.2f} (0.1 is small, 0.25 large)"
    if view.swap is not None:
        before, after = view.swap.before_bytes / _MIB, view.swap.after_bytes / _MIB
        yield "", f"memory {before:.1f} MiB before the change to this release, {after:.1f} after"
    for kind, spreads in (("input", view.inputs), ("output", view.outputs)):
        for spread in spreads:
            yield "", f"{kind} {spread.name}: {_spread(spread, view.looked)}"


def _spread(spread: SpreadView, looked: int) -> str:
    parts = []
    if spread.low is not None and spread.middle is not None and spread.high is not None:
        parts.append(f"{spread.low:.3g} … {spread.middle:.3g} … {spread.high:.3g}")
    if spread.constant:
        parts.append(f"stood still in {spread.constant} of {looked} windows")
    if spread.outside:
        parts.append(f"{spread.outside} values outside of its range")
    if spread.not_finite:
        parts.append(f"NaN or infinity in {spread.not_finite} windows")
    return ", ".join(parts) or "nothing seen"
