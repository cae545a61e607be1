"""The running manager: one thread, one connection, one loop.

Rule 1: remember first, then act: a batch is recorded, then answered, then settled with
        the broker. ``kill -9`` between any two costs a repetition, never a loss.
Rule 2: what must be true is derived again at every turn from the registry (assignments
        that differ from the desired state, rollouts that may advance), never kept in
        a queue that a crash would empty.
Rule 3: other threads ask; they touch nothing.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Event
from typing import TypeVar, assert_never

from agent.contract.topics import ASSIGNMENT
from agent.errors import AgentError
from fleet.config import FleetConfig
from fleet.errors import FleetError, RegistryError, SigningError, UnreachableError
from fleet.ingest import dispatch
from fleet.ingest.litter import take_away
from fleet.ingest.mail import Arrived, Connected, Disconnected, News
from fleet.ingest.serve import ChunkServer
from fleet.registry.devices import DeviceState
from fleet.service import (
    contents,
    home_views,
    inbox,
    membership,
    overview,
    reaching,
    retention,
    rollouts,
    round_answers,
    rounds_roles,
    runs,
    withdrawal,
)
from fleet.service.desk import Desk, Withdrawal, open_desk
from fleet.service.downloads import open_downloads
from fleet.service.errands import ErrandRunner
from fleet.service.occupancy import occupy
from fleet.service.promoting import Promoter

LOG = logging.getLogger(__name__)
R = TypeVar("R")
_IDLE_SECONDS = 0.5
_CHUNK_SECONDS = 0.02
_ANSWER_SECONDS = 60.0
_METADATA_SECONDS = 3600.0
_PRUNE_SECONDS = 3600.0
_SHOW_SHARE = 50
"""What is shown elsewhere takes at most one part in so many of the manager's time."""
_MAX_UNSENT_BYTES = 8 * 1024 * 1024
_MAX_UNSENT_CHUNK_BYTES = 1024 * 1024
"""Chunks that lie before an assignment in the connection's own queue."""
_SIGNED_AT_ONCE = 200
_UNSIGNABLE_SECONDS = 60.0
"""After a refusal to sign for one device, the others are served before it is tried again."""


class RunningManager:
    """Everything that ``fieldfare serve`` runs, but for the API server.

    Raises:
        ConflictError: Another manager works in this home.
        ConfigError, SigningError, RegistryError: The home is not in order.

    """

    def __init__(self, config: FleetConfig, *, passphrase: str = "") -> None:
        self._lock = occupy(config.home)
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = Event()
        self._desk = open_desk(config, passphrase, self._heard)
        self._chunks = ChunkServer(self._desk.artifacts, self._desk.records.shelf)
        self._downloads = open_downloads(config)
        self._bridge = home_views.open_bridge(config)
        self._link = reaching.open_link(self._desk)
        self._errands = ErrandRunner(lambda: reaching.open_accounts(self._desk), self.post)
        self._promoter = Promoter(config, passphrase)
        self._unsignable: dict[str, float] = {}
        self._ticked = self._checked_metadata = self._prune_next = self._show_next = 0.0
        self._failed = ""

    def ask(self, use_case: Callable[[Desk], R], /) -> R:
        """Run a use case on the manager's thread; called from any other.

        Raises:
            UnreachableError: The manager is stopping or too busy.

        """
        answer: Future[R] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return  # the asker was told that it did not happen
            try:
                answer.set_result(use_case(self._desk))
            except Exception as why:  # noqa: BLE001 - it belongs to the asker, who raises it
                answer.set_exception(why)

        self._put(run)
        try:
            return answer.result(timeout=_ANSWER_SECONDS)
        except TimeoutError as why:
            answer.cancel()
            raise UnreachableError("the manager did not answer in a minute; see its log") from why

    def post(self, use_case: Callable[[Desk], None]) -> None:
        """Hand a use case to the manager's thread without waiting."""
        self._put(lambda: use_case(self._desk))

    def stop(self) -> None:
        """Let ``run`` return; callable from a signal handler."""
        self._stopping.set()
        self._link.wake()

    def fail(self, why: str) -> None:
        """Let ``run`` end with an error; callable from any thread, which may be ending itself."""
        LOG.critical("stopping why=%s", why)
        self._failed = self._failed or why
        self.stop()

    def run(self) -> None:
        """Serve until ``stop``.

        Raises:
            UnreachableError: A part of the manager ended that it cannot do without.
            RegistryError: The registry cannot record.

        """
        self._take_up()
        if self._downloads is not None:
            self._downloads.renew(self._desk.repository.authority())
            self._downloads.start()
            LOG.info("downloads url=%s", self._desk.config.downloads.url)
        if self._bridge is not None:
            bridge = self._bridge
            self._desk.predicted, self._desk.bridge = bridge.predicted, lambda: bridge.state
            bridge.start()
        LOG.info("manager fleet=%s epoch=%d", self._desk.config.fleet, self._desk.epoch)
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            self._close()
        if self._failed:
            raise UnreachableError(f"{self._failed}: the manager has stopped, start it again")

    def _take_up(self) -> None:
        for device in self._desk.registry.devices.listing(DeviceState.REVOKED):
            self._desk.errands.append(Withdrawal(device.id))
        withdrawal.stop_asking(self._desk)
        runs.take_up(self._desk)

    def _turn(self) -> None:
        arrived: list[Arrived] = []
        for news in self._poll():
            match news:
                case Arrived():
                    arrived.append(news)
                case Connected():
                    self._connected()
                case Disconnected(why=why):
                    LOG.warning("broker away why=%s", why)
                    self._desk.connected = False
                case _:
                    assert_never(news)
        if arrived:
            inbox.take(self._desk, arrived, self._chunks)
            self._tidy(arrived)
        self._hear()
        self._tick()
        self._sign_assignments()
        self._publish()
        self._link.settle([message for message in arrived if message.receipt])

    def _tidy(self, arrived: list[Arrived]) -> None:
        for message in arrived:
            forgotten = take_away(self._desk.topics, message)
            if forgotten is not None:
                self._link.publish(forgotten)

    def _poll(self) -> list[News]:
        if not self._chunks.waiting:
            return self._link.poll(_IDLE_SECONDS)
        return self._link.poll(_CHUNK_SECONDS, until_unsent_bytes=_MAX_UNSENT_CHUNK_BYTES // 2)

    def _hear(self) -> None:
        while True:
            try:
                run = self._asked.get_nowait()
            except Empty:
                return
            try:
                run()
            except RegistryError:
                raise
            except (AgentError, FleetError) as why:
                LOG.warning("refused code=%s why=%s", why.code, why)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked >= self._desk.config.tick_seconds:
            self._ticked = now
            if self._downloads is not None:
                self._downloads.renew(self._desk.repository.authority())
            rollouts.tick(self._desk)
            runs.tick(self._desk)
            self._promoter.tick(self._desk)
            self._fetch_answers()
            overview.forget_old(self._desk)
            if not self._errands.alive:
                self.fail("the thread that gives and takes broker accounts has ended")
        if self._bridge is not None and now >= self._show_next:
            self._bridge.show(home_views.shown(self._desk))
            pause = _SHOW_SHARE * (time.monotonic() - now)
            self._show_next = now + max(self._desk.config.home_assistant.every_seconds, pause)
        if now >= self._prune_next:
            self._prune_next = now if self._prune() else now + _PRUNE_SECONDS
        if now - self._checked_metadata >= _METADATA_SECONDS or not self._checked_metadata:
            self._checked_metadata = now
            self._refresh_metadata()

    def _fetch_answers(self) -> None:
        try:
            round_answers.fetch(self._desk)
        except FleetError as why:  # one answer waits no longer; its device offers it again
            LOG.warning("upload refused code=%s why=%s", why.code, why)

    def _prune(self) -> bool:
        """Return whether there is more that may go."""
        try:
            fewest = retention.FEWEST_EVENTS
            self._desk.records.tidy(self._desk.now_ms())
            self._desk.uploads.tidy(self._desk.now_ms())
            return retention.prune(self._desk, dry_run=False, fewest_events=fewest).more
        except (AgentError, FleetError) as why:  # what could not go stays; the fleet is served on
            LOG.warning("not pruned code=%s why=%s", why.code, why)
            return False

    def _refresh_metadata(self) -> None:
        try:
            now = datetime.fromtimestamp(self._desk.now_ms() / 1000, UTC)
            if self._desk.repository.refresh(now):
                LOG.info("metadata signed again")
            rounds_roles.keep_alive(self._desk)
        except SigningError as why:  # what is in force holds for days; the fleet is served on
            LOG.warning("metadata not signed again why=%s", why)

    def _sign_assignments(self) -> None:
        desk, authority = self._desk, self._desk.repository.authority()
        now_ms, lifetime_ms = desk.now_ms(), desk.config.assignment_seconds * 1000
        epoch = authority.director_epoch
        due = dispatch.due(desk.registry, epoch=epoch, now_ms=now_ms, lifetime_ms=lifetime_ms)
        since = time.monotonic() - _UNSIGNABLE_SECONDS
        due = [device for device in due if self._unsignable.get(device, since) <= since]
        if not due:
            return
        with desk.registry.transaction():
            for device in due[:_SIGNED_AT_ONCE]:
                try:
                    signed = dispatch.sign_next(
                        desk.registry,
                        desk.registry.devices.require(device),
                        fleet=desk.config.fleet,
                        epoch=epoch,
                        now_ms=now_ms,
                        lifetime_ms=lifetime_ms,
                        sign=contents.signer(desk, authority, now_ms),
                    )
                except SigningError as why:
                    LOG.warning("unsigned device=%s why=%s", device, why)
                    self._unsignable[device] = time.monotonic()
                    continue
                self._unsignable.pop(device, None)
                desk.send(ASSIGNMENT.at(device), signed.payload)
                LOG.info("assignment device=%s sequence=%d", device, signed.sequence)
        if len(due) > _SIGNED_AT_ONCE:
            self._link.wake()

    def _connected(self) -> None:
        desk = self._desk
        desk.connected = True
        LOG.info("broker url=%s", desk.config.broker.url)
        desk.outgoing.clear()
        self._link.publish(reaching.presence(desk, "online"))
        for device in desk.registry.devices.listing(DeviceState.ENROLLED):
            kept = desk.registry.devices.assignment(device.id)
            if kept is not None:
                desk.send(ASSIGNMENT.at(device.id), kept.payload)
            if device.presence == "online":
                runs.returned(desk, device.id)
        for device in desk.registry.devices.listing(DeviceState.REVOKED):
            membership.clear_retained(desk, device.id)

    def _publish(self) -> None:
        desk = self._desk
        while desk.errands:
            errand = desk.errands.popleft()
            if isinstance(errand, Withdrawal) and self._downloads is not None:
                self._downloads.bar(errand.device)
            self._errands.put(errand)
        if not desk.connected:
            desk.outgoing.clear()  # all of it is sent again, or asked for again
            return
        while desk.outgoing and self._link.unsent_bytes < _MAX_UNSENT_BYTES:
            waiting = desk.outgoing.popleft()
            self._link.publish(reaching.message(desk, waiting.address, waiting.payload))
        room = _MAX_UNSENT_CHUNK_BYTES - self._link.unsent_bytes
        for address, payload in self._chunks.ready(time.monotonic(), room_bytes=room):
            self._link.publish(reaching.message(desk, address, payload))

    def _heard(self, run: str, word: object) -> None:
        self.post(lambda desk: runs.heard(desk, run, word))

    def _put(self, run: Callable[[], None]) -> None:
        self._asked.put(run)
        self._link.wake()

    def _close(self) -> None:
        runs.put_down(self._desk)
        self._promoter.close()
        if self._downloads is not None:
            self._downloads.stop()
        if self._bridge is not None:
            self._bridge.stop()
        self._errands.stop()
        self._link.close(reaching.presence(self._desk, "offline"))
        self._desk.registry.close()
        self._lock.close()
