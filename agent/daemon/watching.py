"""What watches the inference of each slot: recorders, sensors, and the alarms they lead to.

Rule 1: every model has a recorder that looks at inputs within the budget that is configured.
Rule 2: a stream whose source ended is not late: whoever ended it says so.
"""

import time
from collections.abc import Callable, Sequence
from itertools import count

from msgspec.structs import replace

from agent.config import ObserveConfig
from agent.config_inference import PipelineConfig, Replay
from agent.contract.manifest import Release, Tensor
from agent.contract.telemetry import Window
from agent.daemon.host import event, log
from agent.infer.pipeline import Flow, Flowing
from agent.infer.runtime import Runtime
from agent.observe.inputs import Held, Looking, channels_of
from agent.observe.sensors import Felt, SensorLimits, Sensors
from agent.observe.windows import WindowRecorder


def recorder_of(
    slot: str,
    digest: str,
    release: Release,
    runtime: Runtime,
    *,
    pipeline: PipelineConfig,
    observe: ObserveConfig,
    now_ms: int,
    numbers: "count[int]",
) -> WindowRecorder:
    """Return what counts the figures of a release in a slot, as the operator wishes."""
    parts = channels_of(runtime.inputs, release.windowing)
    known = {name for part in parts for name in part.channels}
    for name in pipeline.ranges.keys() - known:
        told = ",".join(sorted(known)) or "none"
        log.warning(event("range-of-no-channel", slot=slot, channel=name, channels=told))
    return WindowRecorder(
        slot,
        digest,
        len(release.classes),
        now_ms=now_ms,
        numbers=numbers,
        outputs=release.classes or _values_of(runtime.outputs),
        looking=Looking(parts, ranges=pipeline.ranges, share=observe.input_budget),
        sketch_seconds=observe.sketch_seconds,
    )


def rate_of(release: Release, pipeline: PipelineConfig, flow: Flow | None) -> float | None:
    """Return how many samples a second should come; None where none has to."""
    if release.windowing is None or not isinstance(flow, Flowing):
        return None
    speed = pipeline.source.speed if isinstance(pipeline.source, Replay) else 1.0
    return release.windowing.rate_hz * speed


class Watching:
    """The sensors of all slots.

    Args:
        observe: As the operator wishes.
        held: How long each channel of a slot has held one value, and how many samples a
            second should come.
        alarm: Code, sentence, slot.

    """

    def __init__(
        self,
        observe: ObserveConfig,
        *,
        held: Callable[[str], tuple[tuple[Held, ...], float | None]],
        alarm: Callable[[str, str, str], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = SensorLimits(
            stuck_seconds=observe.stuck_seconds, rate_tolerance=observe.rate_tolerance
        )
        self._held = held
        self._alarm = alarm
        self._monotonic = monotonic
        self._sensors: dict[str, Sensors] = {}
        self._last = monotonic()

    def look(self, windows: Sequence[Window]) -> None:
        """Judge what closed; of a slot in which two releases answered, what the newer one saw."""
        now = self._monotonic()
        seconds, self._last = now - self._last, now
        for slot, newest in {window.slot: window for window in windows}.items():
            samples = sum(window.samples for window in windows if window.slot == slot)
            window = replace(newest, samples=samples)
            held, rate_hz = self._held(slot)
            felt = Felt(window=window, held=held, rate_hz=rate_hz, seconds=seconds)
            sensors = self._sensors.setdefault(slot, Sensors(slot, self._limits))
            for code, why in sensors.look(felt):
                self._alarm(code, why, slot)


def _values_of(outputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Return names for the first values of the first output."""
    if not outputs:
        return ()
    first, known = outputs[0], 1
    for size in first.shape[1:]:
        known *= max(size, 1)
    if known == 1:
        return (first.name,)
    return tuple(f"{first.name[:70]}[{n}]" for n in range(min(known, 8)))
