"""One slot's running model, and on probation a second one on the same windows.

Rule 1: one thread feeds, any may ask; they take turns. ``serve`` may be called from any
        other. It never waits, and the models change between two answers: no window and no
        request is dropped, none is answered by a mixture.
Rule 2: the model beside sees the same window, and its answers go nowhere but into the
        ``Comparison``. The two take turns in going first: who goes second finds the window
        in the caches, and is faster for it.
Rule 3: a model that fails costs its own answer; nothing a model or a sink does ends the
        feeding thread.
Rule 4: runtimes handed over belong to ``Serving``, which closes those no longer used.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from agent.errors import InputRefusedError, ModelError, NotServingError
from agent.infer.asking import Said, name_classes, seen_rows, try_to_ask
from agent.infer.comparison import Comparison, Missed, Seen
from agent.infer.complaining import Complaints
from agent.infer.loaded import Answer, Loaded, Observer, Sink, decide, is_probability
from agent.infer.pair import Pair, answer_unheard
from agent.infer.requests import Offered, Request, Response, platform_of, prediction_id
from agent.infer.runtime import Array, Runtime
from agent.infer.windowing import Cutter, Unfed

log = logging.getLogger(__name__)


class Serving:
    """Answers windows with the current model; see the rules above.

    Attributes:
        slot: Its name.
        windows: How many windows were fed, and requests made, so far.
        duty: One in so many windows of a stream is answered; requests always are.
        sink_failures: How often a sink raised.

    """

    def __init__(
        self,
        sinks: Sequence[Sink] = (),
        *,
        slot: str = "",
        asked: Sequence[Sink] = (),
        remember: Callable[[Answer], None] | None = None,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Hand answers to windows to ``sinks``, those to requests to ``asked``.

        ``remember`` hears both. ``slot`` is the name that responses bear. ``closed`` is called,
        by whichever thread it was, when models that are no longer used were closed.
        """
        self.slot = slot
        heard = () if remember is None else (remember,)
        self._sinks = (*sinks, *heard)
        self._asked = (*asked, *heard)
        self._closed = closed
        self._pair = Pair()
        self._wanted = self._pair
        self._offer = _offer(slot, None)
        self._feeding = threading.Lock()
        self._swapping = threading.Lock()
        self._owned: list[Runtime] = []
        self._cutter: Cutter = Unfed("there is no model")
        self._refused = 0
        self._complaints = Complaints()
        self._cut_off = -1
        self.windows = 0
        self.duty = 1
        self.sink_failures = 0

    def serve(
        self, model: Loaded | None, beside: Loaded | None = None, *, measure: bool = False
    ) -> None:
        """Serve ``model`` from the next window on, and run ``beside`` on the same windows.

        A comparison starts anew with each call that has a ``beside``, or that asks to
        ``measure`` a model which has nothing to be compared with.
        """
        wanted = Pair.begin(model, beside, measure=measure)
        with self._swapping:
            self._owned += [r for r in wanted.runtimes if not _within(r, self._owned)]
            self._wanted = wanted
            self._offer = _offer(self.slot, wanted.model)
        self._adopt_if_idle()

    def close(self) -> None:
        """Serve nothing and close every runtime."""
        self.serve(None)

    @property
    def digests(self) -> tuple[str | None, str | None]:
        """The releases served, and beside, from the next window on."""
        wanted = self._wanted
        return (
            wanted.model.digest if wanted.model else None,
            wanted.beside.digest if wanted.beside else None,
        )

    def comparison(self) -> Comparison | None:
        """Return what was measured since ``serve``; None when nothing is measured."""
        comparing = self._wanted.comparing
        return comparing.snapshot() if comparing else None

    def take(self, samples: NDArray[np.float32]) -> None:
        """Take samples (n, channels) and answer the windows that they complete."""
        with self._feeding:
            self._adopt()
            if self._pair.model is not None:
                self._pair.model.observer.take(len(samples))
                self._cut(self._pair.model, samples)
        self._adopt_if_idle()

    def gap(self) -> None:
        """Note that the next samples do not follow the last ones."""
        with self._feeding:
            self._cutter.reset()
            if self._pair.model is not None:
                self._pair.model.observer.gap()
            for loaded in self._pair.loaded:
                if loaded.memory is not None:
                    loaded.memory.break_off()
        self._adopt_if_idle()

    def answer(self, window: NDArray[np.float32]) -> None:
        """Answer one window: infer, record, hand to the sinks, and compare."""
        self._feeding.acquire()  # a ``with`` costs twice as much, and this is the hot path
        try:
            if self._wanted is not self._pair:
                self._adopt()
            self._answer(window)
        finally:
            self._feeding.release()
        if self._wanted is not self._pair:
            self._adopt_if_idle()

    def request(self, request: Request) -> Response:
        """Answer one request from any thread; may wait for the answers before it.

        Raises:
            NotServingError: The slot has no model.
            InputRefusedError: The inputs do not fit the model, or an output is unknown.
            ModelError: The model failed.

        """
        try:
            with self._feeding:
                if self._wanted is not self._pair:
                    self._adopt()
                return self._reply(request)
        finally:
            if self._wanted is not self._pair:
                self._adopt_if_idle()

    def offered(self) -> Offered:
        """Return what may be asked from the next request on."""
        return self._offer

    def _reply(self, request: Request) -> Response:
        pair = self._pair
        if pair.model is None:
            raise NotServingError(f"slot {self.slot} has no model yet: ask again when it has")
        shadow = pair.shadow
        first = try_to_ask(shadow, request) if shadow and self.windows % 2 else None
        said = self._ask(pair.model, request)
        if pair.comparing is not None:
            beside = try_to_ask(shadow, request) if shadow and first is None else first
            pair.comparing.add_rows(seen_rows(said), None if beside is None else seen_rows(beside))
        number, self.windows = self.windows, self.windows + 1
        if not isinstance(said, Said):
            raise said
        response = name_classes(self.slot, pair.model, request, said)
        if self._asked:
            self._tell(self._asked, said.answer(response, pair.model, request, number))
        return response

    def _ask(self, model: Loaded, request: Request) -> Said | ModelError:
        said = try_to_ask(model, request)
        match said:
            case Said():
                for confidence, place in said.rows:
                    model.observer.record(said.latency_us, confidence, place)
                model.observer.look(request.inputs)
            case InputRefusedError():
                model.observer.refuse(request.inputs)
            case ModelError():
                self._complaints.add(model.digest, said)
                model.observer.fail()
        return said

    def _cut(self, model: Loaded, samples: NDArray[np.float32]) -> None:
        cutter = self._cutter
        try:
            windows = cutter.push(samples)
        except InputRefusedError as why:
            self._refused += 1
            if self._refused.bit_count() == 1:  # 1, 2, 4, …: a wrong sensor fills no disk
                log.warning("samples=refused times=%d why=%r", self._refused, str(why))
            model.observer.refuse()
            return
        for window in windows:
            self._adopt()
            if self._cutter is not cutter:
                return  # the new model cuts its windows in another way
            self._cut_off = (self._cut_off + 1) % self.duty
            if self._cut_off and self._pair.model is not None:
                self._pair.model.observer.skip()
            else:
                self._answer(window)

    def _answer(self, window: NDArray[np.float32]) -> None:
        quiet = self._pair.quiet
        if quiet is None or self._sinks:
            self._answer_aloud(self._pair, window)
        else:  # nobody but the observer hears it: nothing is copied that it does not read
            infer_one, told, note, model = quiet
            started = perf_counter_ns()
            try:
                row = infer_one(window, told)
                note(perf_counter_ns() - started, row, window)
            except ModelError as why:
                self._miss(model, window, why)
        self.windows += 1

    def _answer_aloud(self, pair: Pair, window: NDArray[np.float32]) -> None:
        model, shadow = pair.model, pair.shadow
        if model is None:
            return
        first = answer_unheard(shadow, window) if shadow and self.windows % 2 else None
        ran = self._run(model, window)
        seen = ran if isinstance(ran, Missed) else self._read(model, window, *ran)
        if pair.comparing is not None:
            beside = answer_unheard(shadow, window) if shadow and first is None else first
            pair.comparing.add(seen, beside)

    def _run(
        self, model: Loaded, window: NDArray[np.float32]
    ) -> tuple[tuple[Array, ...], int] | Missed:
        started = perf_counter_ns()
        try:
            if model.memory is None:
                outputs = model.runtime.infer(window)
            else:
                outputs = model.memory.flow(window)
        except ModelError as why:
            return self._miss(model, window, why)
        latency_ns = perf_counter_ns() - started
        model.observer.note(latency_ns, outputs[model.told], window)
        return outputs, latency_ns

    def _miss(self, model: Loaded, window: Array, why: ModelError) -> Missed:
        if isinstance(why, InputRefusedError):
            model.observer.refuse(window)
            return Missed.REFUSED
        self._complaints.add(model.digest, why)
        model.observer.fail()
        return Missed.FAILED

    def _read(
        self, model: Loaded, window: Array, outputs: tuple[Array, ...], latency_ns: int
    ) -> Seen | Missed:
        confidence, place = decide(outputs, model.place)
        if not is_probability(confidence):
            return Missed.FAILED  # as the observer counts it
        seen = latency_ns / 1000, confidence, place
        if self._sinks:
            self._hand_out(model, window, outputs, seen)
        return seen

    def _hand_out(
        self, model: Loaded, window: Array, outputs: tuple[Array, ...], seen: Seen
    ) -> None:
        latency_us, confidence, place = seen
        classes = model.release.classes
        answer = Answer(
            id=prediction_id(),
            window=self.windows,
            release=model.digest,
            label=classes[place] if 0 <= place < len(classes) else "",
            confidence=min(confidence, 1.0),
            probabilities=outputs[model.place].reshape(-1) if place >= 0 else _NO_PROBABILITIES,
            outputs=outputs,
            latency_us=latency_us,
            given=window,
        )
        self._tell(self._sinks, answer)

    def _tell(self, sinks: Sequence[Sink], answer: Answer) -> None:
        for sink in sinks:
            try:
                sink(answer)
            except Exception:  # a top loop: sinks are the operator's code
                self.sink_failures += 1
                log.exception("sink=failed release=%s", answer.release[:16])

    def _adopt_if_idle(self) -> None:
        """Change the models now if no window is being answered; else its thread will."""
        while self._wanted is not self._pair and self._feeding.acquire(blocking=False):
            try:
                self._adopt()
            finally:
                self._feeding.release()

    def _adopt(self) -> None:
        """Make the wanted models the served ones; only with ``_feeding`` held."""
        if self._wanted is self._pair:
            return
        with self._swapping:
            wanted = self._wanted
            gone = [r for r in self._owned if not _within(r, wanted.runtimes)]
            self._owned = list(wanted.runtimes)
        cutter = wanted.model.cutter() if wanted.model else Unfed("there is no model")
        if cutter.windowing is None or cutter.windowing != self._cutter.windowing:
            self._cutter = cutter  # else the samples that wait in it are not lost
        self._pair = wanted
        for runtime in gone:
            runtime.close()
        if gone:
            self._closed()


def _within(runtime: Runtime, others: Sequence[Runtime]) -> bool:
    return any(runtime is other for other in others)


_NO_PROBABILITIES: NDArray[np.float32] = np.zeros(0, np.float32)


__all__ = ["Answer", "Loaded", "Observer", "Serving", "Sink"]


def _offer(slot: str, model: Loaded | None) -> Offered:
    if model is None:
        return Offered(slot=slot)
    return Offered(
        slot=slot,
        release=model.release,
        digest=model.digest,
        inputs=model.runtime.inputs,
        outputs=model.runtime.outputs,
        ready=True,
        platform=platform_of(model.runtime.name),
        stateful=model.memory is not None,
        apart=model.apart,
    )
