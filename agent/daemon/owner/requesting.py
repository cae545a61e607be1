"""Requests for inference, and labels, by the owner's broker: asked there, answered there.

Rule 1: the network thread only queues. Everything is bounded: the size of a request, how
        many wait, how many a second are taken, the size of an answer.
Rule 2: whoever asks hears an answer or why there is none, on the topic of its wish, or on
        ``…/infer/response`` where it has none that may be used; only what the broker had
        retained is passed over, because nobody waits for it.
Rule 3: every request that is not answered is counted, by whose fault it was.
Rule 4: labels come by the same queue; they are counted where they are read, and answered
        on ``…/feedback/response`` where no other topic is named beside them.

MQTT 5 (OASIS, 2019), 4.10 request and response. The body is the Open Inference Protocol's,
in JSON; a client of MQTT 3 says ``response_topic`` and ``id`` in it.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from threading import Condition, Thread
from time import monotonic
from typing import Final

import msgspec
from msgspec import Struct

from agent.config_inference import LocalBrokerConfig
from agent.contract.limits import MAX_PAYLOAD_BYTES
from agent.contract.owner_topics import OwnerTopics
from agent.daemon.owner.link import OwnerLink
from agent.daemon.serving import Inference
from agent.errors import AgentError, InputRefusedError, MalformedError
from agent.infer.oip.exchange import Form, read_request, write_response
from agent.infer.requests import Offered
from agent.link.connection import Foreign
from agent.refusals import OversizedError, TooManyRequestsError

MAX_WAITING: Final = 32
MAX_ANSWER_BYTES: Final = 1_000_000
"""What every broker takes that is set up as ours is."""

log = logging.getLogger("agent.requests")


class _Hints(Struct, frozen=True, kw_only=True):
    """What a client says in the body that MQTT 5 says beside it."""

    id: str = ""
    response_topic: str = ""


class _Failure(Struct, frozen=True, kw_only=True):
    """An answer that is none."""

    error: str
    code: str
    id: str = ""


class _Errand(Enum):
    INFER = "infer"
    FEEDBACK = "feedback"


Label = Callable[[str, bytes], tuple[int, bytes]]
"""Takes a slot's name and what was said; returns a status of HTTP and the answer's JSON."""


@dataclass(slots=True)
class RequestCounts:
    """What became of requests since the start.

    Attributes:
        answered: With a prediction.
        refused: Not such a request, or not one for this model.
        busy: More than are taken.
        failed: The model could not.

    """

    answered: int = 0
    refused: int = 0
    busy: int = 0
    failed: int = 0


class Requests:
    """Answers what comes on ``{prefix}/{device}/{slot}/infer`` and ``…/feedback``.

    Args:
        config: ``[local_broker]``.
        topics: Of this device there.
        owner: The connection; not started yet.
        inference: What answers.
        label: Takes labels; None where none are taken.
        forbidden: Filters of topics on which no answer may go.

    """

    def __init__(
        self,
        config: LocalBrokerConfig,
        topics: OwnerTopics,
        owner: OwnerLink,
        inference: Inference,
        *,
        label: Label | None = None,
        forbidden: tuple[str, ...] = (),
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.counts = RequestCounts()
        self._topics = topics
        self._owner = owner
        self._inference = inference
        self._label = label
        self._forbidden = forbidden
        self._clock = clock
        self._rate = config.requests_per_second
        self._burst = max(1.0, config.requests_per_second)
        self._level, self._at = self._burst, clock()
        self._waiting: deque[tuple[_Errand, str, Foreign]] = deque()
        self._news = Condition()
        self._stopping = False
        self._thread = Thread(target=self._run, name="owner-requests", daemon=True)
        for slot in inference.slots:
            if config.requests:
                owner.listen(topics.infer(slot), self._listener(_Errand.INFER, slot))
            if label is not None:
                owner.listen(topics.feedback(slot), self._listener(_Errand.FEEDBACK, slot))

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request of the moment; those that wait are not answered."""
        with self._news:
            self._stopping = True
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _listener(self, errand: _Errand, slot: str) -> Callable[[Foreign], None]:
        return lambda message: self._take(errand, slot, message)

    def _take(self, errand: _Errand, slot: str, message: Foreign) -> None:
        if message.retained:
            return
        with self._news:
            why = self._turned_away()
            if why is None:
                self._waiting.append((errand, slot, message))
                self._news.notify()
        if why is not None:
            self.counts.busy += 1
            self._fail(errand, slot, message, _Hints(), why)

    def _turned_away(self) -> TooManyRequestsError | None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if len(self._waiting) >= MAX_WAITING:
            return TooManyRequestsError(f"{MAX_WAITING} requests wait already; ask again later")
        if self._level < 1:
            return TooManyRequestsError(
                f"more than {self._rate:g} requests a second; ask again later, or raise "
                "local_broker.requests_per_second"
            )
        self._level -= 1
        return None

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._waiting and not self._stopping:
                    self._news.wait()
                if self._stopping:
                    return
                errand, slot, message = self._waiting.popleft()
            try:
                match errand:
                    case _Errand.INFER:
                        self._answer(slot, message)
                    case _Errand.FEEDBACK:
                        self._take_labels(slot, message)
            except Exception:  # the top of the thread: the next request is answered
                self.counts.failed += 1
                log.exception("request=failed slot=%s", slot)

    def _answer(self, slot: str, message: Foreign) -> None:
        hints = _Hints()
        try:
            hints = _read_hints(message.payload)
            topic = self._answer_topic(_Errand.INFER, slot, message, hints)
            said = self._infer(slot, message.payload)
        except (MalformedError, InputRefusedError) as why:
            self.counts.refused += 1
            self._fail(_Errand.INFER, slot, message, hints, why)
        except AgentError as why:
            self.counts.failed += 1
            self._fail(_Errand.INFER, slot, message, hints, why)
        else:
            self.counts.answered += 1
            self._say(topic, said, message)

    def _take_labels(self, slot: str, message: Foreign) -> None:
        try:
            topic = self._answer_topic(_Errand.FEEDBACK, slot, message, _Hints())
        except MalformedError as why:
            self.counts.refused += 1
            self._fail(_Errand.FEEDBACK, slot, message, _Hints(), why)
            return
        if self._label is not None:
            _, said = self._label(slot, message.payload)
            self._say(topic, said, message)

    def _infer(self, slot: str, payload: bytes) -> bytes:
        offered = _of_slot(self._inference.offered(), slot)
        asked = read_request(payload, None, offered.inputs if offered.ready else None)
        response = self._inference.request(slot, asked.request)
        as_json = {name: Form(binary=False, classes=f.classes) for name, f in asked.forms.items()}
        framed = write_response(
            response,
            msgspec.structs.replace(asked, binary=False, forms=as_json),
            model=slot,
            classes=offered.release.classes if offered.release else (),
        )
        if len(framed.content) > MAX_ANSWER_BYTES:
            raise OversizedError(
                f"the answer has {len(framed.content)} bytes, over {MAX_ANSWER_BYTES}: ask for "
                "fewer outputs, or over HTTP"
            )
        return framed.content

    def _fail(
        self, errand: _Errand, slot: str, message: Foreign, hints: _Hints, why: AgentError
    ) -> None:
        count = self.counts.refused + self.counts.busy + self.counts.failed
        if count.bit_count() == 1:  # 1, 2, 4, …: somebody's loop fills no disk
            log.warning("request=refused slot=%s times=%d why=%r", slot, count, str(why))
        failure = _Failure(error=str(why), code=why.code, id=hints.id)
        try:
            topic = self._answer_topic(errand, slot, message, hints)
        except MalformedError:
            topic = self._default_topic(errand, slot)
        self._say(topic, msgspec.json.encode(failure), message)

    def _default_topic(self, errand: _Errand, slot: str) -> str:
        match errand:
            case _Errand.INFER:
                return self._topics.response(slot)
            case _Errand.FEEDBACK:
                return self._topics.feedback_response(slot)

    def _answer_topic(self, errand: _Errand, slot: str, message: Foreign, hints: _Hints) -> str:
        wanted = message.response_topic or hints.response_topic
        if not wanted:
            return self._default_topic(errand, slot)
        return self._topics.require_response(wanted, self._inference.slots, self._forbidden)

    def _say(self, topic: str, payload: bytes, asked: Foreign) -> None:
        answer = Foreign(topic=topic, payload=payload, qos=1, correlation=asked.correlation)
        if not self._owner.publish(answer):
            log.info("answer=lost topic=%s", topic)


def _read_hints(payload: bytes) -> _Hints:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise OversizedError(f"a request of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}")
    try:
        return msgspec.json.decode(payload, type=_Hints)
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise MalformedError(f"the request does not parse: {why}") from why


def _of_slot(offered: tuple[Offered, ...], slot: str) -> Offered:
    return next(one for one in offered if one.slot == slot)
