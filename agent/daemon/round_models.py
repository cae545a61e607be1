"""The arrays that tasks share: fetched in chunks, kept by their digest, put in again.

Rule 1: what is here is not fetched. Of a record that is not, the difference to one that is
        here is fetched rather than the record itself.
Rule 2: the oldest records make room for new ones; what a task needs is never among them.
Rule 3: nothing is believed before a record has its digest, and the whole message that of
        the signed task.
Rule 4: one task at a time. What is wrong, or slow, ends the gathering with its reason;
        chunks that came are kept for another try.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from agent.config import Config
from agent.contract.frames import Piece
from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.manifest import Artifact, Source
from agent.contract.messages import ChunkRefusal
from agent.contract.rounds import Task
from agent.contract.shared_arrays import join_message
from agent.contract.topics import Address
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.daemon.listening import Listening, Surroundings
from agent.daemon.reporting import Reporting
from agent.daemon.ways import Ways
from agent.disk import Disk
from agent.errors import (
    AgentError,
    CorruptError,
    StalledError,
    StoreError,
    UnsupportedError,
)
from agent.link.budget import Budget
from agent.link.fetch import Fetch, Fetched, FetchFailed, Fetching
from agent.link.session import Broker
from agent.refusals import WrongAttachmentError

FOLDER: Final = "models"
FORMS: Final = frozenset({"plain", "packed", "xor"})
APPOINTMENT: Final = "round-models"

Gathered = Callable[[bytes | AgentError], None]


@dataclass(slots=True, kw_only=True)
class _Gathering:
    task: Task
    frame: bytes
    done: Gathered
    missing: deque[Artifact] = field(default_factory=deque)
    source: Source | None = None
    fetch: Fetch | None = None


class RoundModels:
    """The records on this device, and the task that waits for some.

    Args:
        disk: The state directory.
        agenda: Of the loop.
        listening: Asks for chunks, alone or with others.
        monotonic: Seconds.
        stall_seconds: A transfer that brings nothing for so long is given up.
        quota_bytes: What records may take together.
        budget: What may be spent on this link.

    """

    def __init__(
        self,
        disk: Disk,
        agenda: Agenda,
        listening: Listening,
        *,
        monotonic: Callable[[], float],
        stall_seconds: float,
        quota_bytes: int,
        budget: Budget | None = None,
    ) -> None:
        self._disk = disk
        self._agenda = agenda
        self._listening = listening
        self._monotonic = monotonic
        self._stall_seconds = stall_seconds
        self._quota_bytes = quota_bytes
        self._budget = budget
        self._now: _Gathering | None = None

    def gather(self, task: Task, frame: bytes, done: Gathered) -> None:
        """Get a task's message whole; ``done`` is called with it, or with why it is not.

        A task that is gathered already is given up for this one.
        """
        self.stop()
        now = self._now = _Gathering(task=task, frame=frame, done=done)
        wanted = {shared.artifact.digest: shared.artifact for shared in task.shared}
        try:
            if sum(shared.artifact.size for shared in task.shared) > MAX_FLOWER_BYTES:
                raise UnsupportedError(
                    f"task {task.task} shares more than {MAX_FLOWER_BYTES} bytes of arrays"
                )
            now.missing.extend(a for d, a in wanted.items() if not self._has(d))
            self._make_room(now)
        except AgentError as why:
            self._end(why)
            return
        self._agenda.at(APPOINTMENT, self._monotonic(), self._ask)

    def take(self, piece: Piece) -> bool:
        """Take a chunk; False where it is of nothing that is fetched here."""
        now = self._now
        fetch = now.fetch if now is not None else None
        if fetch is None or piece.name.hex() != fetch.digest[:16]:
            return False
        if self._budget is not None:
            self._budget.came(len(piece.content))
        fetch.take(piece, self._monotonic())
        self._ask()
        return True

    def heard(self, address: Address, piece: Piece) -> bool:
        """Take a chunk that was sent to many; False where it is of nothing fetched here."""
        now = self._now
        if now is None or now.fetch is None or address.name != now.fetch.digest[:16]:
            return False
        self._listening.heard(address, piece.index)
        return self.take(piece)

    def refused(self, refusal: ChunkRefusal) -> bool:
        """End the try for chunks that cannot be had; False where they are of something else."""
        fetch = self._now.fetch if self._now is not None else None
        if fetch is None or fetch.digest != refusal.a:
            return False
        fetch.give_up(refusal.why)
        self._ask()
        return True

    def stop(self) -> None:
        """Gather nothing any longer; nobody is told."""
        self._now = None
        self._agenda.cancel(APPOINTMENT)
        self._listening.stop()

    def _ask(self) -> None:
        """Ask for what is due, and take what arrived, until something is waited for."""
        self._agenda.cancel(APPOINTMENT)
        try:
            while (now := self._now) is not None and not self._waits(now):
                if not now.missing:
                    self._end(self._put_together(now))
        except AgentError as why:
            if isinstance(why, CorruptError):  # asked for again from its beginning
                self._throw_away()
            self._end(why)

    def _waits(self, now: _Gathering) -> bool:
        """Do the next step; True where chunks are waited for."""
        if not now.missing:
            return False
        if now.fetch is None or now.source is None:
            now.source = self._choose(now.missing[0])
            now.fetch = Fetch(
                now.source,
                self._disk,
                now_seconds=self._monotonic(),
                folder=FOLDER,
                stall_seconds=self._stall_seconds,
            )
            log.info(event("fetching-arrays", task=now.task.task, form=now.source.kind))
        at = self._monotonic()
        match now.fetch.progress(at):
            case Fetching():
                self._agenda.at(
                    APPOINTMENT, at + max(self._request(now.fetch, at), 0.01), self._ask
                )
                return True
            case Fetched():
                self._arrived(now, now.missing[0], now.source)
            case FetchFailed(why=why):
                raise StalledError(f"the arrays of task {now.task.task} did not come: {why}")
        return False

    def _request(self, fetch: Fetch, at: float) -> float:
        """Ask for what may be asked for, and return how long nothing else is to be."""
        if self._budget is None:
            requests, wait_seconds = fetch.requests(at), fetch.wait_seconds(at)
        else:
            requests, wait_seconds = self._budget.requests(fetch, at)
        for request in requests:
            self._listening.ask(request)
        return wait_seconds

    def _choose(self, wanted: Artifact) -> Source:
        """Return the fewest bytes from which a record can be made here."""
        usable = [
            source
            for source in wanted.sources
            if source.kind in FORMS and (source.base is None or self._has(source.base))
        ]
        if not usable:
            forms = ", ".join(source.kind for source in wanted.sources)
            raise UnsupportedError(f"arrays come as {forms or 'nothing'}, which is not known here")
        return min(usable, key=lambda source: source.size)

    def _arrived(self, now: _Gathering, wanted: Artifact, source: Source) -> None:
        from agent.contract.updates import unpack  # noqa: PLC0415 -- its libraries are heavy

        coded = self._read(source.digest)
        base = None if source.base is None else self._read(source.base)
        content = unpack(source.kind, coded, wanted.size, base)
        if sha256(content).hexdigest() != wanted.digest:
            raise WrongAttachmentError(
                f"arrays made of {source.digest[:16]} are not {wanted.digest[:16]}"
            )
        if source.digest != wanted.digest:
            self._disk.replace(_place(wanted.digest), content)
            self._disk.remove(_place(source.digest))
        now.missing.popleft()
        now.fetch = now.source = None

    def _put_together(self, now: _Gathering) -> bytes:
        cuts = [(shared.at, self._read(shared.artifact.digest)) for shared in now.task.shared]
        message = join_message(now.frame, cuts)
        if sha256(message).hexdigest() != now.task.digest:
            raise WrongAttachmentError(
                f"the message of task {now.task.task} is not the signed one, put together"
            )
        return message

    def _end(self, outcome: bytes | AgentError) -> None:
        done = self._now.done if self._now is not None else None
        self.stop()
        if self._budget is not None:
            with suppress(StoreError):  # too much stays noted, and is forgotten with the day
                self._budget.settle()
        if done is not None:
            done(outcome)

    def _throw_away(self) -> None:
        """Forget files that are not what their names say."""
        now = self._now
        digests = [s.artifact.digest for s in now.task.shared] if now is not None else []
        if now is not None and now.source is not None:
            digests += [now.source.digest, now.source.base or now.source.digest]
        with suppress(StoreError):
            for digest in digests:
                self._disk.remove(_place(digest))

    def _has(self, digest: str) -> bool:
        return self._disk.path(_place(digest)).is_file()

    def _read(self, digest: str) -> bytes:
        content = self._disk.read(_place(digest))
        if content is None or sha256(content).hexdigest() != digest:
            raise WrongAttachmentError(f"the arrays {digest[:16]} are damaged on this disk")
        with suppress(OSError):
            os.utime(self._disk.path(_place(digest)))  # used last, and so removed last
        return content

    def _make_room(self, now: _Gathering) -> None:
        """Remove what was used longest ago, as far as the quota wants it."""
        needed = {shared.artifact.digest for shared in now.task.shared}
        sources = [source for artifact in now.missing for source in artifact.sources]
        needed |= {source.digest for source in sources}
        needed |= {source.base for source in sources if source.base is not None}
        room = self._quota_bytes - sum(2 * artifact.size for artifact in now.missing)
        found = [(self._disk.path(f"{FOLDER}/{n}").stat(), n) for n in self._disk.names(FOLDER)]
        total = sum(told.st_size for told, _ in found)
        for told, name in sorted(found, key=lambda one: one[0].st_mtime_ns):
            if total <= room:
                return
            if name.partition(".")[0] not in needed:
                self._disk.remove(f"{FOLDER}/{name}")
                total -= told.st_size


def _place(digest: str) -> str:
    return f"{FOLDER}/{digest}"


def open_round_models(
    config: Config, disk: Disk, agenda: Agenda, *, ways: Ways, broker: Broker, reporting: Reporting
) -> RoundModels:
    """Return the room, with a place of its own among those that listen to what many hear."""
    heard = Listening(
        agenda,
        Surroundings(
            ask=reporting.ask,
            listen=broker.listen,
            unlisten=broker.unlisten,
            monotonic=time.monotonic,
            paced=lambda: ways.budget.paced,
        ),
        appointment="round-models-listening",
    )
    return RoundModels(
        disk,
        agenda,
        heard,
        monotonic=time.monotonic,
        stall_seconds=config.link.stall_seconds,
        quota_bytes=config.learn.cache_bytes,
        budget=ways.budget,
    )
