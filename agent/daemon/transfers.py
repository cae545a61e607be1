"""Artifacts on their way: one transfer at a time, for whichever slot comes first.

Rule 1: what is missing is asked for again; a stalled transfer fails, and may be retried.
Rule 2: a slot that wants something else meanwhile gives up its place.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from agent.contract.frames import Piece
from agent.contract.manifest import Artifact
from agent.contract.messages import ChunkRequest
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError
from agent.link.fetch import Fetch, Fetched, FetchFailed, Fetching, Progress
from agent.update.store import FOLDER


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask: Publishes a request for chunks; False when offline.
        done: Every artifact of a slot's release is in the store: (slot, digest).
        failed: It is given up: (slot, digest, failure).
        monotonic: Seconds.
        hashed: The bytes of this digest arrived, and were hashed from the disk just now;
            a place that verifies nothing afterwards need not know.

    """

    ask: Callable[[ChunkRequest], bool]
    done: Callable[[str, str], None]
    failed: Callable[[str, str, FetchFailed], None]
    monotonic: Callable[[], float]
    hashed: Callable[[str], None] = lambda _digest: None


@dataclass(slots=True, kw_only=True)
class _Order:
    slot: str
    release: str
    artifacts: deque[Artifact]
    active: Fetch | None = None
    was_there: bool = False


class Transfers:
    """What is fetched, in the order in which it was wanted."""

    def __init__(
        self, disk: Disk, agenda: Agenda, around: Surroundings, *, stall_seconds: float
    ) -> None:
        self._disk = disk
        self._agenda = agenda
        self._around = around
        self._stall_seconds = stall_seconds
        self._orders: deque[_Order] = deque()

    def begin(self, slot: str, release: str, artifacts: tuple[Artifact, ...]) -> None:
        """Fetch artifacts of a slot's release, instead of what it fetched before."""
        self.stop(slot)
        self._orders.append(_Order(slot=slot, release=release, artifacts=deque(artifacts)))
        self._agenda.at("chunks", self._around.monotonic(), self._ask)

    def stop(self, slot: str) -> None:
        """Give up what a slot fetches; what arrived of it is kept for another try."""
        if any(order.slot == slot for order in self._orders):
            self._orders = deque(o for o in self._orders if o.slot != slot)

    def take(self, piece: Piece) -> None:
        """Take one chunk; one that nobody waits for is ignored."""
        fetch = self._orders[0].active if self._orders else None
        if fetch is None:
            return
        now = self._around.monotonic()
        self._follow(fetch.take(piece, now))
        self._ask()

    def _ask(self) -> None:
        """Ask for what is due, and come back when something else will be."""
        self._agenda.cancel("chunks")
        while self._orders:
            order = self._orders[0]
            # stands where the disk refuses what follows of this order, so that others go on
            self._agenda.at("chunks", self._around.monotonic() + 1.0, self._ask)
            if order.active is None and not self._open(order):
                continue
            fetch = order.active
            if fetch is None:
                return
            now = self._around.monotonic()
            progress = fetch.progress(now)
            if isinstance(progress, Fetching):
                for request in fetch.requests(now):
                    self._around.ask(request)
                self._agenda.at("chunks", now + max(fetch.wait_seconds(now), 0.01), self._ask)
                return
            self._follow(progress)

    def _open(self, order: _Order) -> bool:
        artifact = order.artifacts[0]
        order.was_there = self._disk.path(f"{FOLDER}/{artifact.digest}").exists()
        try:
            order.active = Fetch(
                artifact,
                self._disk,
                now_seconds=self._around.monotonic(),
                stall_seconds=self._stall_seconds,
            )
        except AgentError as why:
            failure = FetchFailed(
                digest=artifact.digest, code=why.code, why=str(why), retryable=True
            )
            self._follow(failure)
            return False
        log.info(event("fetching", slot=order.slot, artifact=artifact.digest[:16]))
        return True

    def _follow(self, progress: Progress) -> None:
        order = self._orders[0]
        match progress:
            case Fetching():
                return
            case Fetched():
                log.info(event("fetched", slot=order.slot, artifact=progress.digest[:16]))
                if not order.was_there:  # otherwise it was only looked at
                    self._around.hashed(progress.digest)
                order.artifacts.popleft()
                order.active = None
                if not order.artifacts:
                    self._orders.popleft()
                    self._around.done(order.slot, order.release)
            case FetchFailed():
                self._orders.popleft()
                self._around.failed(order.slot, order.release, progress)
            case _:
                assert_never(progress)
