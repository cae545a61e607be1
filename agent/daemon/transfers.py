"""Artifacts on their way: one transfer at a time, for whichever slot comes first.

Rule 1: what is missing is asked for again; a stalled transfer fails, and may be retried.
Rule 2: a slot that wants something else meanwhile gives up its place.
Rule 3: what an artifact is made from is decided in ``sourcing``; a child makes it. A source
        is thrown away after, whether it served or failed.
Rule 4: a key that is missing or wrong fails the try, and the sealed stream waits in the
        store for a better one.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, assert_never

from agent.contract.frames import Piece
from agent.contract.manifest import Artifact, Source
from agent.contract.messages import ChunkRefusal, ChunkRequest
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.daemon.seeding import Seeding
from agent.daemon.sourcing import Sourcing
from agent.disk import Disk
from agent.errors import (
    AgentError,
    BudgetSpentError,
    StoreError,
)
from agent.link.budget import Budget
from agent.link.fetch import Fetch, Fetched, FetchFailed, Fetching, Progress
from agent.refusals import (
    NoContentKeyError,
    WrongContentKeyError,
)
from agent.update.store import FOLDER
from agent.worker.jobs import RebuildAnswer

BUDGET_SECONDS: Final = 30.0
"""How often a transfer that waits for its budget looks whether there is a new one."""
_OF_THE_KEY: Final = (NoContentKeyError, WrongContentKeyError)
"""Failures that another assignment may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask: Asks for chunks; False when offline.
        fetching: Told what is asked for next.
        waits: A slot's artifacts wait, because this link's bytes of the day are spent.
        done: Every artifact of a slot's release is in the store: (slot, digest).
        failed: It is given up: (slot, digest, failure).
        monotonic: Seconds.
        hashed: The bytes of this digest arrived, and were hashed from the disk just now;
            a place that verifies nothing afterwards need not know.
        rebuild: Starts a child that makes an artifact of a source, to be answered by
            ``rebuilt``; None where everything is fetched whole. May raise, also for want
            of the key of an encrypted artifact.

    """

    ask: Callable[[ChunkRequest], bool]
    done: Callable[[str, str], None]
    failed: Callable[[str, str, FetchFailed], None]
    monotonic: Callable[[], float]
    hashed: Callable[[str], None] = lambda _digest: None
    rebuild: Callable[[Artifact, Source], None] | None = None
    fetching: Callable[[Artifact], None] = lambda _artifact: None
    waits: Callable[[str, BudgetSpentError], None] = lambda _slot, _why: None


@dataclass(slots=True, kw_only=True)
class _Order:
    slot: str
    release: str
    artifacts: deque[Artifact]
    active: Fetch | None = None
    source: Source | None = None
    was_there: bool = False
    waits: bool = False
    rebuilding: bool = False


class Transfers:
    """What is fetched, in the order in which it was wanted."""

    def __init__(
        self,
        disk: Disk,
        agenda: Agenda,
        around: Surroundings,
        *,
        stall_seconds: float,
        seeding: Seeding | None = None,
        budget: Budget | None = None,
    ) -> None:
        """``seeding`` knows what lies in the store; without it, every chunk is fetched.

        ``budget`` is what may be spent on this link; without it, everything.
        """
        self._disk = disk
        self._agenda = agenda
        self._around = around
        self._stall_seconds = stall_seconds
        self._sourcing = Sourcing(disk, seeding)
        self._budget = budget
        self._orders: deque[_Order] = deque()
        self._rebuilding: dict[str, Source] = {}

    def begin(self, slot: str, release: str, artifacts: tuple[Artifact, ...]) -> None:
        """Fetch artifacts of a slot's release, instead of what it fetched before."""
        self.stop(slot)
        self._orders.append(_Order(slot=slot, release=release, artifacts=deque(artifacts)))
        self._agenda.at("chunks", self._around.monotonic(), self._ask)

    def take_at_hand(self, slot: str, release: str, artifacts: tuple[Artifact, ...]) -> None:
        """Do the same before what others wait for: what was brought by hand needs no network."""
        self.stop(slot)
        order = _Order(slot=slot, release=release, artifacts=deque(artifacts))
        if self._orders and self._orders[0].rebuilding:
            self._orders.insert(1, order)
        else:
            if self._orders:  # it is opened again, where it was
                self._orders[0].active, self._orders[0].source = None, None
            self._orders.appendleft(order)
        self._agenda.at("chunks", self._around.monotonic(), self._ask)

    def stop(self, slot: str) -> None:
        """Give up what a slot fetches; what arrived of it is kept for another try."""
        if any(order.slot == slot for order in self._orders):
            self._orders = deque(o for o in self._orders if o.slot != slot)

    def refused(self, refusal: ChunkRefusal) -> None:
        """End the try that waits for an artifact which the manager does not keep."""
        fetch = self._orders[0].active if self._orders else None
        rebuilding = fetch is not None and self._orders[0].rebuilding
        if fetch is not None and fetch.digest == refusal.a and not rebuilding:
            self._follow(fetch.give_up(refusal.why))
            self._ask()

    def take(self, piece: Piece) -> bool:
        """Take one chunk, if anybody waits for it; False where it is not the signed one."""
        if self._budget is not None:
            self._budget.came(len(piece.content))
        fetch = self._orders[0].active if self._orders else None
        if fetch is None or self._orders[0].rebuilding:
            return True
        now, refused = self._around.monotonic(), fetch.refused
        self._follow(fetch.take(piece, now))
        self._ask()
        return fetch.refused == refused

    def rebuilt(self, digest: str, answer: RebuildAnswer | AgentError) -> None:
        """Take the answer of the child that made an artifact, or could not."""
        source = self._rebuilding.pop(digest, None)
        if source is None:
            return
        if isinstance(answer, AgentError):
            if isinstance(answer, _OF_THE_KEY):
                short = source.digest[:16]
                log.warning(event("locked", source=short, code=answer.code, why=answer))
                self._locked(digest, answer)
                return
            self._sourcing.could_not_make(digest, source, answer)
            self._refuse(source)
        with suppress(StoreError):  # what stays is evicted with what no release needs
            self._disk.remove(f"{FOLDER}/{source.digest}")
        self._agenda.at("chunks", self._around.monotonic(), self._ask)
        order = self._orders[0] if self._orders else None
        if order is None or not order.rebuilding or order.artifacts[0].digest != digest:
            return
        order.rebuilding, order.active, order.source = False, None, None
        if isinstance(answer, RebuildAnswer):
            log.info(event("rebuilt", slot=order.slot, artifact=digest[:16], source=source.kind))
            self._arrived(order)

    def _locked(self, digest: str, why: AgentError) -> None:
        """End the try for an artifact whose key is missing or wrong; its stream stays."""
        self._agenda.at("chunks", self._around.monotonic(), self._ask)
        order = self._orders[0] if self._orders else None
        if order is not None and order.rebuilding and order.artifacts[0].digest == digest:
            self._orders.popleft()
            failure = FetchFailed(digest=digest, code=why.code, why=str(why), retryable=True)
            self._around.failed(order.slot, order.release, failure)

    def _ask(self) -> None:
        """Ask for what is due, and come back when something else will be."""
        self._agenda.cancel("chunks")
        while self._orders:
            order = self._orders[0]
            if order.rebuilding:
                return
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
                wait_seconds = self._request(order, fetch, now)
                self._agenda.at("chunks", now + max(wait_seconds, 0.01), self._ask)
                return
            self._follow(progress)

    def _request(self, order: _Order, fetch: Fetch, now: float) -> float:
        """Ask for what may be asked for, and return how long nothing else is to be."""
        if self._budget is None:
            requests, wait_seconds = fetch.requests(now), fetch.wait_seconds(now)
        else:
            try:
                requests, wait_seconds = self._budget.requests(fetch, now)
            except BudgetSpentError as why:
                if not order.waits:
                    self._around.waits(order.slot, why)
                order.waits = True
                return BUDGET_SECONDS
        order.waits = False
        for request in requests:
            self._around.ask(request)
        return wait_seconds

    def _open(self, order: _Order) -> bool:
        wanted = order.artifacts[0]
        if wanted.digest in self._rebuilding:  # begun for an order that was given up
            order.rebuilding = True
            return False
        order.source = self._sourcing.choose(wanted) if self._around.rebuild else None
        if order.source is None and wanted.encrypted and not self._sourcing.is_here(wanted):
            self._follow(self._sourcing.cannot_open(wanted))
            return False
        artifact = order.source or wanted
        order.was_there = self._disk.path(f"{FOLDER}/{artifact.digest}").exists()
        try:
            if order.source is None and not order.was_there:
                self._sourcing.seed(wanted)
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
        self._around.fetching(artifact)
        kind = order.source.kind if order.source else None
        log.info(event("fetching", slot=order.slot, artifact=artifact.digest[:16], source=kind))
        return True

    def _follow(self, progress: Progress) -> None:
        order = self._orders[0]
        if self._budget is not None and not isinstance(progress, Fetching):
            with suppress(StoreError):  # too much stays noted, and is forgotten with the day
                self._budget.settle()
        match progress:
            case Fetching():
                return
            case Fetched():
                log.info(event("fetched", slot=order.slot, artifact=progress.digest[:16]))
                if not order.was_there:  # otherwise it was only looked at
                    self._around.hashed(progress.digest)
                if order.source is not None and self._around.rebuild is not None:
                    self._begin_rebuild(order, order.source, self._around.rebuild)
                    return
                self._arrived(order)
            case FetchFailed() if self._gives_up_source(order, progress):
                order.active, order.source = None, None
            case FetchFailed():
                self._orders.popleft()
                self._around.failed(order.slot, order.release, progress)
            case _:
                assert_never(progress)

    def _arrived(self, order: _Order) -> None:
        order.artifacts.popleft()
        order.active = None
        if not order.artifacts:
            self._orders.popleft()
            self._around.done(order.slot, order.release)

    def _begin_rebuild(
        self, order: _Order, source: Source, start: Callable[[Artifact, Source], None]
    ) -> None:
        wanted = order.artifacts[0]
        order.rebuilding, self._rebuilding[wanted.digest] = True, source
        try:
            start(wanted, source)
        except AgentError as why:
            self.rebuilt(wanted.digest, why)

    def _gives_up_source(self, order: _Order, failure: FetchFailed) -> bool:
        source = order.source
        if source is None or not self._sourcing.gives_up(order.artifacts[0], source, failure):
            return False
        self._refuse(source)
        return True

    def _refuse(self, source: Source) -> None:
        self._sourcing.refuse(source, [order.artifacts[0] for order in self._orders])
