"""Inference of every slot: the models that are loaded, what feeds them, what they show.

Rule 1: a model is loaded here only after a child process has loaded it once.
Rule 2: a slot's source begins to flow with its first model, so that a recording is not
        played to nobody. A slot without one answers requests, which then take the place of
        windows: a candidate is tried on them, and sinks hear the answers to them.
Rule 3: windows of behaviour belong to the release that answered; a release that is
        replaced hands in its last window with the next report.
Rule 4: what a change of models did to the memory of this process is told with the first
        window after it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import assert_never, cast

from msgspec.structs import replace

from agent.config import ObserveConfig
from agent.config_inference import Called, PipelineConfig, Replay, Source, Subscribed
from agent.contract.messages import Assigned, Hosted
from agent.contract.owner_topics import matches
from agent.contract.telemetry import Window
from agent.daemon.feedback import Feedback
from agent.daemon.host import event, log
from agent.daemon.inference_news import ModelDied, Predicted, SourceEnded
from agent.daemon.placing import Placer
from agent.daemon.swap_memory import SwapMemory
from agent.daemon.watching import rate_of, recorder_of
from agent.errors import AgentError, ConfigError, ModelError, UnknownModelError
from agent.infer import sources
from agent.infer.comparison import Comparison
from agent.infer.heap import trim
from agent.infer.pipeline import Broken, Ended, Pipeline
from agent.infer.pushed import Flow, Pushed
from agent.infer.requests import Offered, Request, Response
from agent.infer.serving import Answer, Loaded, Serving, Sink
from agent.infer.variants import choose, load
from agent.infer.windowing import Unfed
from agent.observe.inputs import Held
from agent.observe.windows import WindowRecorder
from agent.update.store import Store


@dataclass(slots=True, kw_only=True)
class _Slot:
    serving: Serving
    memory: SwapMemory
    numbers: "count[int]" = field(default_factory=count)
    loaded: dict[str, Loaded] = field(default_factory=dict)
    answered: list[WindowRecorder] = field(default_factory=list)
    pipeline: Pipeline | None = None
    pushed: Pushed | None = None


class Inference:
    """All slots that the configuration names.

    Attributes:
        duty: One in so many windows of every stream is answered.
        waiting: Called about once a second while ``serve`` waits for another process.

    """

    def __init__(
        self,
        pipelines: Mapping[str, PipelineConfig],
        store: Store,
        *,
        hardware: str,
        published: Collection[str],
        put: Callable[[Predicted | SourceEnded | ModelDied], object],
        wall_ms: Callable[[], int],
        observe: ObserveConfig,
        feedback: Feedback | None = None,
        place: Placer | None = None,
    ) -> None:
        """``put`` takes what the inference threads have to say, and must not wait.

        The answers of the slots in ``published`` are put as well; ``feedback`` remembers
        those of the slots that it has, and ``place`` says which process a model runs in.

        Raises:
            ConfigError: A callback cannot be imported.

        """
        self._pipelines = pipelines
        self._store = store
        self._hardware = hardware
        self._put = put
        self._wall_ms = wall_ms
        self._observe = observe
        self.duty = 1
        self._feedback = feedback
        self._place = place
        self.waiting: Callable[[], object] | None = None
        self._slots = {
            slot: self._open(slot, wanted, told=slot in published)
            for slot, wanted in pipelines.items()
        }

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots there are."""
        return tuple(sorted(self._slots))

    def serve(
        self,
        slot: str,
        model: Assigned | None,
        beside: Assigned | None,
        *,
        measure: bool,
        installed: tuple[Hosted, ...],
    ) -> None:
        """Let ``model`` answer, and ``beside`` run on the same windows.

        Raises:
            ConfigError: No such slot.
            ModelError: The model cannot be loaded.
            RuntimeMissingError, StoreError, CorruptError: Nor can it be found or run.

        """
        place = self._slots.get(slot)
        if place is None:
            raise ConfigError(f"there is no [pipeline.{slot}] in the configuration")
        before = place.loaded
        if model is not None and model.digest not in before:
            place.memory.begin()
        wanted = {a.digest: self._load(slot, place, a, installed) for a in (model,) if a}
        if beside is not None:
            try:
                wanted[beside.digest] = self._load(slot, place, beside, installed)
            except AgentError as why:
                log.warning(event("beside-failed", slot=slot, code=why.code, why=why))
        place.loaded = wanted
        answering = wanted[model.digest] if model else None
        shadow = wanted.get(beside.digest) if beside else None
        if answering is not None and answering.observer not in place.answered:
            place.answered.append(self._recorder(answering))
        channels = answering.cutter().channels if answering else 0
        if place.pushed is not None and channels:
            place.pushed.expect(channels)
        place.serving.serve(answering, shadow, measure=measure)
        if not before:
            place.memory.end()  # nothing had to go
        new = [digest[:16] for digest in wanted if digest not in before]
        log.info(
            event(
                "serving",
                slot=slot,
                release=model.digest[:16] if model else None,
                beside=beside.digest[:16] if beside and shadow else None,
                loaded=",".join(new) or "nothing",
            )
        )
        if answering is not None:
            self._feed(slot, place, answering)
        trim()  # of what was read, checked and compared on the way here

    def request(self, slot: str, request: Request) -> Response:
        """Answer one request from any thread.

        Raises:
            UnknownModelError: No such slot.
            NotServingError: It has no model yet.
            InputRefusedError: The inputs do not fit the model, or an output is unknown.
            ModelError: The model failed.

        """
        place = self._slots.get(slot)
        if place is None:
            known = ", ".join(self.slots) or "none"
            raise UnknownModelError(f"there is no model {slot[:80]!r} here; there is {known}")
        return place.serving.request(request)

    def offered(self) -> tuple[Offered, ...]:
        """Return every slot as it may be asked now."""
        return tuple(self._slots[slot].serving.offered() for slot in self.slots)

    def comparison(self, slot: str) -> Comparison | None:
        """Return what a probation of a slot has shown so far."""
        place = self._slots.get(slot)
        return place.serving.comparison() if place else None

    def number(self, slot: str) -> int:
        """Return the number of a window that says something of a slot beside its recorders."""
        return next(self._slots[slot].numbers)

    def close_windows(self) -> tuple[Window, ...]:
        """Return what every release did since the last call."""
        closed: list[Window] = []
        now_ms = self._wall_ms()
        for place in self._slots.values():
            serving = place.serving.digests[0]
            for recorder in place.answered:
                window = recorder.close(now_ms, last=recorder.release != serving)
                swap = place.memory.take() if recorder.release == serving else None
                closed.append(replace(window, swap=swap) if swap else window)
            place.answered = [r for r in place.answered if r.release == serving]
        return tuple(closed)

    def held(self, slot: str) -> tuple[tuple[Held, ...], float | None]:
        """Return how long each channel has held one value, and the rate that should come."""
        place = self._slots[slot]
        digest = place.serving.digests[0]
        answering = place.loaded.get(digest) if digest else None
        if answering is None:
            return (), None
        flow = place.pipeline.flow if place.pipeline else None
        rate_hz = rate_of(answering.release, self._pipelines[slot], flow)
        return self._recorder(answering).held(), rate_hz

    def work_less(self, duty: int) -> None:
        """Answer one in ``duty`` windows of every stream; requests as ever."""
        self.duty = duty
        for place in self._slots.values():
            place.serving.duty = duty

    def push(self, topic: str, payload: bytes) -> None:
        """Give samples that came on a topic to the slots that listen to it."""
        for slot, place in self._slots.items():
            source = self._pipelines[slot].source
            if isinstance(source, Subscribed) and place.pushed and matches(source.topic, topic):
                place.pushed.push(payload)

    def flows(self) -> dict[str, Flow]:
        """Return how the sources do whose samples are sent to us, by slot."""
        return {slot: place.pushed.flow for slot, place in self._slots.items() if place.pushed}

    def stop(self) -> None:
        """End every thread and close every model."""
        for slot, place in self._slots.items():
            if place.pipeline is not None and not place.pipeline.stop():
                log.warning(event("source-does-not-stop", slot=slot))
                continue
            place.serving.close()

    def _load(
        self, slot: str, place: _Slot, assigned: Assigned, installed: tuple[Hosted, ...]
    ) -> Loaded:
        known = place.loaded.get(assigned.digest)
        if known is not None:
            return known
        release = self._store.read_manifest(assigned.digest)
        variant = choose(release, self._hardware, installed)
        self._store.require(variant.model.digest)
        outside = self._place(slot, variant, installed) if self._place else None
        runtime = load(
            variant,
            self._store.path(variant.model.digest),
            installed,
            outside=outside,
            died=lambda why: self._put(ModelDied(slot=slot, why=why)),
            waiting=self.waiting,
        )
        recorder = recorder_of(
            slot,
            assigned.digest,
            release,
            runtime,
            pipeline=self._pipelines[slot],
            observe=self._observe,
            now_ms=self._wall_ms(),
            numbers=place.numbers,
        )
        if self._feedback is not None:
            self._feedback.introduce(slot, assigned.digest, release)
        return Loaded(
            digest=assigned.digest,
            release=release,
            runtime=runtime,
            observer=recorder,
            apart=outside is not None,
        )

    def _recorder(self, loaded: Loaded) -> WindowRecorder:
        if not isinstance(loaded.observer, WindowRecorder):
            raise ModelError(f"release {loaded.digest[:16]} is not observed by a recorder of ours")
        return loaded.observer

    def _feed(self, slot: str, place: _Slot, model: Loaded) -> None:
        """Let samples flow to a slot, where it has a source and its model takes a stream."""
        wanted, cutter = self._pipelines[slot].source, model.cutter()
        if wanted is None:
            return
        if isinstance(cutter, Unfed):
            told = f"the source of {slot} feeds nothing, it answers requests only: {cutter.why}"
            self._put(SourceEnded(slot=slot, end=Broken(told)))
        elif place.pipeline is None:
            try:
                self._flow(slot, place, wanted, cutter.channels)
            except AgentError as why:  # the operator's source is at fault, not the release
                self._put(SourceEnded(slot=slot, end=Broken(str(why))))

    def _flow(self, slot: str, place: _Slot, wanted: Source, channels: int) -> None:
        def ended(end: Ended | Broken) -> None:
            self._put(SourceEnded(slot=slot, end=end))

        source: sources.Source
        match wanted:
            case Replay():
                recording = sources.load_recording(wanted.path)
                source = sources.Replay(recording, speed=wanted.speed, loop=wanted.loop)
            case Subscribed():
                source = place.pushed = Pushed(channels, wanted.fields)
            case Called():
                source = sources.Called(sources.named_callable(wanted.target))
            case _:
                assert_never(wanted)
        place.pipeline = Pipeline(
            slot,
            source,
            place.serving,
            on_end=ended,
        )
        place.pipeline.start()

    def _open(self, slot: str, wanted: PipelineConfig, *, told: bool) -> _Slot:
        sinks, memory = self._sinks(slot, wanted, told=told), SwapMemory(slot)
        serving = Serving(
            sinks,
            slot=slot,
            asked=() if wanted.source else sinks,
            remember=self._feedback.remembering(slot) if self._feedback else None,
            closed=memory.end,
        )
        return _Slot(serving=serving, memory=memory)

    def _sinks(self, slot: str, wanted: PipelineConfig, *, told: bool) -> list[Sink]:
        sinks: list[Sink] = []
        if wanted.callback is not None:
            sinks.append(cast("Sink", sources.named_callable(wanted.callback)))
        if told:

            def put(answer: Answer) -> None:
                self._put(Predicted(slot=slot, answer=answer))

            sinks.append(put)
        return sinks
