"""What is wrong with the sources of this device, said once and taken back when it is over.

Rule 1: silence, and what is no sample, become an alarm; so does the return of samples.
Rule 2: a source that ended or broke stays a problem until the agent starts again.
"""

from collections.abc import Callable, Mapping, Sequence

from agent.config_inference import PipelineConfig, Subscribed
from agent.contract.home_states import trouble_of
from agent.contract.telemetry import Window
from agent.infer.pushed import Flow


class SourceWatch:
    """Looks at the sources now and then.

    Args:
        pipelines: What the configuration says of them.
        alarm: Takes code, sentence and slot.

    """

    def __init__(
        self,
        pipelines: Mapping[str, PipelineConfig],
        alarm: Callable[[str, str, str], None],
    ) -> None:
        self._sources = {
            slot: pipeline.source
            for slot, pipeline in pipelines.items()
            if isinstance(pipeline.source, Subscribed)
        }
        self._alarm = alarm
        self._ended: dict[str, str] = {}
        self._stale: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._malformed: dict[str, int] = {}

    def problem(self, slot: str) -> str:
        """Return what is wrong with a slot now; "" for nothing."""
        return self._ended.get(slot) or self._stale.get(slot) or self._refused.get(slot) or ""

    def ended(self, slot: str, why: str) -> None:
        """Note that a slot gets no more samples."""
        self._ended[slot] = why

    def look(self, flows: Mapping[str, Flow], windows: Sequence[Window]) -> None:
        """Judge how the sources do, and what became of their windows."""
        for slot, flow in flows.items():
            source = self._sources.get(slot)
            if source is not None:
                self._judge(slot, source, flow)
        self._refused.update({window.slot: trouble_of(window) for window in windows})

    def _judge(self, slot: str, source: Subscribed, flow: Flow) -> None:
        if flow.malformed > self._malformed.get(slot, 0):
            self._malformed[slot] = flow.malformed
            why = f"messages on {source.topic} are no samples of {slot}: {flow.why}"
            self._alarm("samples-malformed", why, slot)
        silent = bool(source.stale_seconds) and flow.silent_seconds > source.stale_seconds
        if silent and slot not in self._stale:
            why = f"no samples of {slot} on {source.topic} for {source.stale_seconds:g} s"
            self._stale[slot] = why
            self._alarm("source-stale", why, slot)
        elif not silent and slot in self._stale:
            del self._stale[slot]
            self._alarm("source-flows", f"samples of {slot} on {source.topic} flow again", slot)
