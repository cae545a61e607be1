"""The one loop of the agent: what arrives, what is due, and the order of starting and ending.

Rule 1: one thread reads the inbox; network, inference and worker threads only put there.
Rule 2: a named error costs what it was about, becomes an alarm, and inference goes on.
Rule 3: the start needs no network: what ran before runs again, then the broker is tried.
Rule 4: the end is orderly: inference stops, what is known is flushed, presence says so.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import SystemRandom

from agent.config import Config
from agent.contract.codec import decode
from agent.contract.frames import Piece
from agent.contract.messages import ChunkRefusal, ManagerPresence
from agent.contract.rounds import UploadRequest
from agent.contract.topics import (
    ACK,
    ARTIFACT,
    ARTIFACT_CAST,
    ARTIFACT_REFUSAL,
    ASSIGNMENT,
    FRESH,
    GRANT,
    HINT,
    MANAGER_PRESENCE,
    META,
    ROUND_OFFER,
    UPLOAD_REQUEST,
)
from agent.daemon.agenda import Agenda
from agent.daemon.host import ServiceNotifier, event, log
from agent.daemon.inference_news import ModelDied, Predicted, SourceEnded
from agent.daemon.owner.side import HomeAssistantStarted, OwnerConnected
from agent.daemon.rooms import Rooms
from agent.errors import AgentError
from agent.link.inbox import Arrived, Connected, Disconnected, Inbox, Lane, Refused
from agent.link.ranges import Chunk, Ended
from agent.worker.start import Finished

LONGEST_SLEEP_SECONDS = 3600.0
LAST_WORDS_SECONDS = 2.0
"""How long a stopping agent waits for the acknowledgement of its last reports."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent is asked to end."""

    why: str


class Loop:
    """The running agent."""

    def __init__(self, config: Config, rooms: Rooms, notifier: ServiceNotifier) -> None:
        self._config = config
        self._rooms = rooms
        self._inbox: Inbox = rooms.inbox
        self._agenda: Agenda = rooms.agenda
        self._notifier = notifier
        self._manager_epoch: int | None = None
        self._stopping: Stop | None = None

    def stop(self, why: str = "shutdown") -> None:
        """Ask the loop to end; any thread may."""
        self._inbox.put(Lane.CONTROL, Stop(why))

    def run(self) -> None:
        """Run until stopped."""
        self._guarded("start", self._start)
        while self._stopping is None:
            for action in self._agenda.due(time.monotonic()):
                self._guarded("appointment", action)
            wait = self._agenda.wait_seconds(time.monotonic(), LONGEST_SLEEP_SECONDS)
            item = self._inbox.get(wait)
            if item is not None:
                self._guarded(type(item).__name__, partial(self._take, item))
        self._end(self._stopping)

    def _start(self) -> None:
        self._notifier.say("READY=1")
        if self._notifier.watchdog_seconds:
            self._beat(self._notifier.watchdog_seconds / 2)
            self._rooms.inference.waiting = lambda: self._notifier.say("WATCHDOG=1")
        self._every("telemetry", self._config.observe.window_seconds, self._rooms.report_windows)
        self._every("resettle", self._config.link.resettle_seconds, self._rooms.settle_again)
        self._rooms.start()

    def _take(self, item: object) -> None:
        match item:
            case Arrived():
                self._arrived(item)
            case Finished():
                self._rooms.worker_finished(item)
            case Predicted():
                self._rooms.answering.predicted(item)
            case Connected(epoch=epoch):
                log.info(event("connected", epoch=epoch))
                self._rooms.finding.connected(item)
                self._rooms.connected(epoch)
            case Disconnected(why=why, retry_seconds=wait):
                log.info(event("disconnected", why=why, retry_seconds=round(wait, 1)))
            case Refused(reason=why, retry_seconds=wait):
                log.warning(event("refused-by-broker", why=why, retry_seconds=round(wait, 1)))
                self._rooms.finding.refused(item)
            case SourceEnded():
                self._rooms.answering.source_ended(item)
            case ModelDied():
                self._rooms.answering.model_died(item)
            case OwnerConnected() | HomeAssistantStarted():
                self._rooms.answering.owner.take(item)
            case Chunk():
                self._rooms.ways.downloaded(item)
            case Ended():
                self._rooms.ways.downloading.ended(item)
            case Stop():
                self._stopping = item
            case _:
                log.error(event("unknown-item", kind=type(item).__name__))

    def _arrived(self, message: Arrived) -> None:
        """Act on a message, then tell the broker that it is dealt with, whatever came of it."""
        rooms = self._rooms

        def settle() -> None:
            rooms.broker.settle(message)

        if message.address.channel is ROUND_OFFER and message.address.name is not None:
            believed = rooms.desired.take_task(message.payload, message.address.name)
            if believed is None:
                settle()
            else:
                rooms.apps.offered(*believed, settle)
            return
        try:
            self._act_on(message)
        finally:
            settle()

    def _act_on(self, message: Arrived) -> None:
        rooms = self._rooms
        match message.address.channel:
            case channel if channel is ASSIGNMENT:
                rooms.desired.take_assignment(message.payload, retained=message.retained)
            case channel if channel is ACK:
                ack = rooms.desired.take_ack(message.payload)
                if ack is not None:
                    rooms.reporting.acknowledged(ack.boot, ack.sequence)
            case channel if channel is FRESH:
                rooms.desired.take_fresh(message.payload)
            case channel if channel is META:
                rooms.desired.take_piece(Piece.decode(message.payload))
            case channel if channel is ARTIFACT:
                piece = Piece.decode(message.payload)
                if not rooms.round_models.take(piece):
                    rooms.ways.transfers.take(piece)
            case channel if channel is ARTIFACT_CAST:
                piece = Piece.decode(message.payload)
                if not rooms.round_models.heard(message.address, piece):
                    rooms.ways.heard(message.address, piece)
            case channel if channel is ARTIFACT_REFUSAL:
                refusal = decode(ChunkRefusal, message.payload)
                if not rooms.round_models.refused(refusal):
                    rooms.ways.transfers.refused(refusal)
            case channel if channel is UPLOAD_REQUEST and message.address.name is not None:
                wanted = decode(UploadRequest, message.payload)
                rooms.learning.upload_asked(message.address.name, wanted)
            case channel if channel is GRANT:
                rooms.ways.downloading.granted(message.payload)
            case channel if channel is MANAGER_PRESENCE:
                self._manager(decode(ManagerPresence, message.payload))
            case channel if channel is HINT:
                rooms.desired.hinted()
            case _:
                log.warning(event("unexpected", topic=message.address.logical))

    def _manager(self, presence: ManagerPresence) -> None:
        """Send everything anew to a manager that started; nobody signs this, so only that."""
        if presence.s == "online":
            self._rooms.ways.downloading.offered(presence.downloads)
        before, self._manager_epoch = self._manager_epoch, presence.epoch
        if presence.s != "online" or before in (None, presence.epoch):
            return
        log.info(event("manager-restarted", epoch=presence.epoch))
        jitter = SystemRandom().uniform(0.0, self._config.link.state_jitter_seconds)
        self._agenda.at("state", time.monotonic() + jitter, self._rooms.tell_everything)

    def _every(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            self._agenda.at(name, time.monotonic() + seconds, again)
            action()

        self._agenda.at(name, time.monotonic() + seconds, again)

    def _beat(self, seconds: float) -> None:
        self._notifier.say("WATCHDOG=1")
        self._agenda.at("watchdog", time.monotonic() + seconds, lambda: self._beat(seconds))

    def _guarded(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except AgentError as why:
            log.warning(event("failed", what=what, code=why.code, why=why))
            self._rooms.reporting.alarm(why.code, str(why))
        except Exception as bug:  # noqa: BLE001 - the top loop: a bug must not end inference
            log.exception(event("bug", what=what))
            self._rooms.reporting.alarm("bug", f"{what}: {type(bug).__name__}: {bug}")

    def _end(self, stop: Stop) -> None:
        log.info(event("stopping", why=stop.why))
        self._notifier.say("STOPPING=1")
        self._guarded("end", self._rooms.wind_down)
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while self._rooms.has_unsent and time.monotonic() < deadline:
            item = self._inbox.get(0.1)
            if isinstance(item, Arrived) and item.address.channel is ACK:
                self._guarded("end", partial(self._arrived, item))
        self._guarded("end", partial(self._rooms.close, stop.why))
