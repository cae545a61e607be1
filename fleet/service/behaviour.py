"""What the slots of a device did lately, from its windows merged.

Rule 1: histograms and sketches of windows are added, never averaged.
Rule 2: a sketch that cannot be is left out: the device that sent it is at fault, and the
        others still have to be seen.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from agent.contract.histogram import LogHistogram
from agent.contract.histogram import merged as merged_histograms
from agent.contract.sketch import SignedSketch
from agent.contract.telemetry import Channel, Feature, Window
from agent.errors import MalformedError
from fleet.service.behaviour_views import BehaviourView, SpreadView
from fleet.service.desk import Desk
from fleet.service.overview import name_of

NEWEST: Final = 60
"""Windows of one device that are merged: an hour of a device that has one slot."""


def behaviour(desk: Desk, device: str) -> tuple[BehaviourView, ...]:
    """Return what each slot did in its newest windows, with the release that answered last."""
    windows = [known.window for known in desk.registry.reports.windows(device, limit=NEWEST)]
    views = []
    for slot in sorted({window.slot for window in windows}):
        mine = [window for window in windows if window.slot == slot]
        release = mine[-1].release
        shown = [window for window in mine if window.release == release]
        views.append(merge(shown, name_of(desk, release)))
    return tuple(views)


def merge(windows: Sequence[Window], release: str) -> BehaviourView:
    """Return some windows of one slot and release, at least one, as one."""
    latency = merged_histograms(_latencies(windows))
    inputs: dict[str, _Spread] = {}
    outputs: dict[str, _Spread] = {}
    for window in windows:
        for channel in window.inputs:
            inputs.setdefault(channel.name, _Spread()).add(channel)
        for feature in window.outputs:
            outputs.setdefault(feature.name, _Spread()).add(feature)
    return BehaviourView(
        slot=windows[-1].slot,
        release=release,
        since_ms=windows[0].opened_ms,
        until_ms=windows[-1].closed_ms,
        inferences=sum(window.inferences for window in windows),
        refused=sum(window.refused for window in windows),
        failed=sum(window.failed for window in windows),
        skipped=sum(window.skipped for window in windows),
        gaps=sum(window.gaps for window in windows),
        looked=sum(window.looked for window in windows),
        middle_us=latency.quantile(0.5),
        high_us=latency.quantile(0.95),
        drift=windows[-1].drift,
        swap=next((window.swap for window in reversed(windows) if window.swap), None),
        inputs=tuple(spread.view(name) for name, spread in inputs.items()),
        outputs=tuple(spread.view(name) for name, spread in outputs.items()),
    )


class _Spread:
    """The values of one channel or output, added up."""

    def __init__(self) -> None:
        self._sketch = SignedSketch()
        self._constant = self._outside = self._not_finite = 0

    def add(self, told: Channel | Feature) -> None:
        with suppress(MalformedError):
            self._sketch.merge(SignedSketch.read(told.values))
        if isinstance(told, Channel):
            self._constant += told.constant
            self._outside += told.outside
            self._not_finite += told.not_finite

    def view(self, name: str) -> SpreadView:
        return SpreadView(
            name=name,
            low=self._sketch.quantile(0.05),
            middle=self._sketch.quantile(0.5),
            high=self._sketch.quantile(0.95),
            constant=self._constant,
            outside=self._outside,
            not_finite=self._not_finite,
        )


def _latencies(windows: Iterable[Window]) -> Iterable[LogHistogram]:
    for window in windows:
        with suppress(MalformedError):
            yield LogHistogram.read(window.latency_us)
