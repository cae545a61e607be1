"""Where a request becomes a reply.

Rule 1: everything runs on the loop but the inference of slots that are not known to be quick,
        of models in processes of their own, which may hang, and of bodies that are large or
        compressed: those have the lane of their slot.
Rule 2: who waits in a lane longer than the deadline gets 504. The model is not interrupted;
        what it then answers is dropped, and what was still waiting is not asked at all.
Rule 3: whatever a model or an action raises leaves here as a reply.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, assert_never

import msgspec

from agent.errors import AgentError, MalformedError, NotServingError, UnknownModelError
from agent.infer.oip import exchange as oip
from agent.infer.oip.documents import ServerMetadata, describe_model, write_document
from agent.infer.requests import Offered, Request, Response
from agent.infer.server import describing, routes
from agent.infer.server.door import Head
from agent.infer.server.inflating import inflate
from agent.infer.server.lanes import Lane
from agent.infer.server.replies import (
    Reply,
    answer,
    document,
    of_bug,
    of_error,
    refuse,
    refuse_method,
)
from agent.infer.server.tally import Tally

log = logging.getLogger(__name__)

LIGHT_BYTES: Final = 128 * 1024
"""A larger body is read in the slot's lane."""

Deliver = Callable[[Reply], None]
Action = Callable[[str, bytes], tuple[int, bytes]]
"""Takes a slot's name and a body; returns the status and the JSON of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What is served; every callable may be called from any thread.

    Attributes:
        request: Asks one slot.
        offered: What there is to be asked.
        actions: What else may be posted to ``/v2/models/{slot}/{name}``, by that name.
        version: Of this program.

    """

    request: Callable[[str, Request], Response]
    offered: Callable[[], tuple[Offered, ...]]
    actions: Mapping[str, Action] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may cost.

    Attributes:
        body_bytes: Of a body, inflated.
        json_bytes: Of the JSON in it.
        waiting: Requests that may wait for one slow slot.
        deadline_seconds: For an answer.

    """

    body_bytes: int
    json_bytes: int
    waiting: int
    deadline_seconds: float


@dataclass(slots=True, eq=False)
class Pending:
    """A reply that is waited for; given once, by whoever is first."""

    deliver: Deliver
    work: Callable[[], Reply] | None
    timer: asyncio.TimerHandle | None = None
    done: bool = False

    def settle(self, reply: Reply) -> None:
        """Give the reply; on the loop only."""
        if not self.done:
            self.drop()
            self.deliver(reply)

    def drop(self) -> None:
        """Want it no longer; the body that it was asked with is let go."""
        self.done, self.work = True, None
        if self.timer is not None:
            self.timer.cancel()


class Desk:
    """Answers requests that the door let in."""

    def __init__(self, models: Models, limits: Limits, tally: Tally) -> None:
        self._models = models
        self._limits = limits
        self._tally = tally
        self._actions = frozenset(models.actions)
        self._lanes: dict[str, Lane] = {}

    def answer(self, head: Head, body: bytes, deliver: Deliver) -> Pending | None:
        """Answer one request: at once, or later through what is returned."""
        try:
            route = routes.find(head.method, head.target, self._actions)
            match route:
                case routes.Infer(model=model, version=version):
                    return self._infer(self._offered(model, version), head, body, deliver)
                case routes.Act(model=model, action=action):
                    return self._act(self._offered(model, "").slot, action, head, body, deliver)
                case _:
                    reply = self._describe(route)
        except AgentError as why:
            reply = of_error(why)
        except Exception as why:
            log.exception("request=failed method=%r", head.method)
            reply = of_bug(why)
        deliver(reply)
        return None

    def close(self) -> None:
        """Let every lane end."""
        for lane in self._lanes.values():
            lane.close()

    def _describe(self, route: routes.Route) -> Reply:
        models, tally = self._models, self._tally
        match route:
            case routes.ServerLive():
                return document(b'{"live":true}')
            case routes.ServerReady():
                return self._ready()
            case routes.ServerMetadata():
                written = ServerMetadata(name="fieldfare", version=models.version)
                return document(write_document(written))
            case routes.RepositoryIndex():
                return document(describing.index(models.offered()))
            case routes.AllStatistics():
                return document(describing.statistics(models.offered(), tally.models))
            case routes.Nowhere(path=path):
                return refuse(HTTPStatus.NOT_FOUND, "no-path", f"there is no {path!r} here")
            case routes.WrongMethod(allowed=allowed):
                return refuse_method(allowed)
            case routes.Infer() | routes.Act():
                raise AssertionError("was answered before")
            case _:
                return self._describe_model(route)

    def _describe_model(self, route: routes.OfModel) -> Reply:
        offered = self._offered(route.model, route.version)
        match route:
            case routes.ModelReady():
                _require_ready(offered)
                return document(msgspec.json.encode({"name": offered.slot, "ready": True}))
            case routes.ModelMetadata():
                return document(write_document(describe_model(offered)))
            case routes.ModelConfig():
                return document(describing.configuration(offered))
            case routes.ModelStatistics():
                return document(describing.statistics((offered,), self._tally.models))
            case _:
                assert_never(route)

    def _ready(self) -> Reply:
        idle = [one.slot for one in self._models.offered() if not one.ready]
        if idle:
            raise NotServingError(f"no model runs yet for {', '.join(idle)}")
        return document(b'{"ready":true}')

    def _offered(self, model: str, version: str) -> Offered:
        every = self._models.offered()
        for one in every:
            if one.slot == model:
                break
        else:
            known = ", ".join(one.slot for one in every) or "none"
            raise UnknownModelError(f"there is no model {model[:80]!r} here; there is {known}")
        if version and (one.release is None or one.release.version != version):
            runs = one.release.version if one.release else "none yet"
            raise UnknownModelError(
                f"model {model!r} runs in version {runs}; {version[:80]!r} was asked for"
            )
        return one

    def _infer(self, offered: Offered, head: Head, body: bytes, deliver: Deliver) -> Pending | None:
        _require_ready(offered)
        lane = self._lane(offered.slot)
        began = time.perf_counter_ns()

        def told(reply: Reply) -> None:
            took_ns = time.perf_counter_ns() - began
            self._tally.inferred(offered.slot, reply, took_ns, int(time.time() * 1000))
            deliver(reply)

        def work() -> Reply:
            started = time.perf_counter_ns()
            reply = self._ask(offered, head, body, began)
            lane.took((time.perf_counter_ns() - started) / 1e9)
            return reply

        light = len(body) <= LIGHT_BYTES and not head.encoding
        if lane.quick and light and not offered.apart:
            told(work())
            return None
        return self._later(lane, work, told)

    def _act(
        self, slot: str, action: str, head: Head, body: bytes, deliver: Deliver
    ) -> Pending | None:
        def work() -> Reply:
            try:
                text = inflate(body, head.encoding, self._limits.body_bytes)
                status, said = self._models.actions[action](slot, text)
            except AgentError as why:
                return of_error(why)
            except Exception as why:
                log.exception("action=failed name=%s slot=%s", action, slot)
                return of_bug(why)
            return Reply(status, said, reason="" if status == HTTPStatus.OK else action)

        return self._later(self._lane(slot), work, deliver)

    def _ask(self, offered: Offered, head: Head, body: bytes, began_ns: int) -> Reply:
        try:
            if head.encoding:
                body = inflate(body, head.encoding, self._limits.body_bytes)
            asked = oip.read_request(
                body,
                _json_length(head.json_length),
                offered.inputs,
                json_limit=self._limits.json_bytes,
            )
            waited = (time.perf_counter_ns() - began_ns) / 1e9
            if asked.timeout_seconds is not None and waited > asked.timeout_seconds:
                return _too_late(offered.slot, asked.timeout_seconds)
            response = self._models.request(offered.slot, asked.request)
            same = offered.release is not None and response.release == offered.digest
            classes = offered.release.classes if same and offered.release else ()
            return answer(oip.write_response(response, asked, model=offered.slot, classes=classes))
        except AgentError as why:
            return of_error(why)
        except Exception as why:
            log.exception("request=failed slot=%s", offered.slot)
            return of_bug(why)

    def _later(self, lane: Lane, work: Callable[[], Reply], deliver: Deliver) -> Pending | None:
        loop = asyncio.get_running_loop()
        pending = Pending(deliver, work)

        def job() -> None:
            wanted = pending.work
            if wanted is not None:
                reply = wanted()
                with suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(pending.settle, reply)

        if not lane.submit(job):
            sentence = f"{self._limits.waiting} requests wait for {lane.slot} already: ask again"
            deliver(refuse(HTTPStatus.SERVICE_UNAVAILABLE, "busy", sentence))
            return None
        seconds = self._limits.deadline_seconds
        pending.timer = loop.call_later(seconds, pending.settle, _too_late(lane.slot, seconds))
        return pending

    def _lane(self, slot: str) -> Lane:
        lane = self._lanes.get(slot)
        if lane is None:
            lane = self._lanes[slot] = Lane(slot, self._limits.waiting)
        return lane


def _require_ready(offered: Offered) -> None:
    if not offered.ready:
        raise NotServingError(f"slot {offered.slot} has no model yet: ask again when it has")


def _too_late(slot: str, seconds: float) -> Reply:
    sentence = f"model {slot!r} did not answer within {seconds:g} seconds"
    return refuse(HTTPStatus.GATEWAY_TIMEOUT, "deadline", sentence)


def _json_length(header: str) -> int | None:
    if not header:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 12):  # noqa: PLR2004 -- 100 GB
        raise MalformedError("Inference-Header-Content-Length is no number of bytes")
    return int(header)
