"""Chunks over HTTP where the fleet offers it, and over MQTT for what does not come so.

Rule 1: the manager is asked for leave only where it said that it serves downloads, once
        for each artifact. What is asked for meanwhile waits a moment, then goes by MQTT.
Rule 2: HTTP that fails in any way (unreachable, refused, silent, wrong bytes) is left alone
        for a while that doubles; what it owed is asked for over MQTT at once.
Rule 3: chunks of both ways mix in one artifact; each counts by its signed hash. What a
        reader still says after it was given up is not listened to.
Rule 4: while chunks come over HTTP, nothing is heard that travels for many.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from agent.contract.frames import Piece
from agent.contract.grants import show_grant
from agent.contract.limits import MAX_CHUNKS_PER_REQUEST
from agent.contract.manifest import Artifact
from agent.contract.messages import ChunkRequest, Grant, GrantRequest
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.errors import AgentError, GrantSpentError, StalledError
from agent.link.ranges import Chunk, Ended, RangeReader
from agent.refusals import WrongChunkError

GRANT_SECONDS: Final = 3.0
"""A manager that does not answer within this is not asked again for a while."""
PATIENCE_SECONDS: Final = 15.0
"""Longest silence of a reader that owes chunks; shorter where transfers stall sooner."""
UNUSED_SECONDS: Final = 20.0
FIRST_REST_SECONDS: Final = 60.0
LONGEST_REST_SECONDS: Final = 3600.0
RENEW_SHARE: Final = 0.75
"""A grant is renewed when so much of its time is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask_leave: Publishes a question for leave; False when offline.
        ask: Asks for chunks over MQTT; False when offline.
        hush: Ends listening to what travels for many.
        believe: Reads a grant for this device; raises what speaks against it.
        open: Starts a reader: (artifact, address, grant as it is shown, number).
        alarm: Something is wrong: (code, sentence).
        monotonic: Seconds.

    """

    ask_leave: Callable[[GrantRequest], bool]
    ask: Callable[[ChunkRequest], bool]
    hush: Callable[[], None]
    believe: Callable[[bytes], Grant]
    open: Callable[[Artifact, str, str, int], RangeReader]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float]


@dataclass(slots=True)
class _Asking:
    """Leave was asked for; ``held`` waits for the answer."""

    artifact: Artifact
    held: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Reading:
    """A reader fetches ``owed``."""

    artifact: Artifact
    reader: RangeReader
    url: str
    renew_at: float
    owed: set[int] = field(default_factory=set)
    taken: int = 0


class Downloading:
    """Between what wants chunks and the two ways by which they come."""

    def __init__(
        self, agenda: Agenda, around: Surroundings, *, allowed: bool, patience_seconds: float
    ) -> None:
        """``allowed`` is False where the operator wants MQTT only."""
        self._agenda = agenda
        self._around = around
        self._allowed = allowed
        self._patience = patience_seconds
        self._offered = False
        self._artifact: Artifact | None = None
        self._state: _Asking | _Reading | None = None
        self._number = 0
        self._rest_seconds = FIRST_REST_SECONDS
        self._not_before = 0.0
        self._again = True

    def offered(self, served: bool) -> None:  # noqa: FBT001 - what a manager's presence says
        """Take what the manager says of itself; unsigned, so that it only spares a question."""
        self._offered = served

    def fetching(self, artifact: Artifact) -> None:
        """Note which artifact is asked for next."""
        if self._artifact != artifact:
            self.stop()
            self._artifact, self._again = artifact, True

    def ask(self, request: ChunkRequest) -> bool:
        """Ask for chunks by the better way; False when offline."""
        artifact = self._artifact
        if artifact is None or artifact.digest != request.a:
            return self._around.ask(request)
        now = self._around.monotonic()
        indexes = {i for first, count in request.r for i in range(first, first + count)}
        match self._state:
            case _Reading() as reading:
                self._agenda.at("downloading-unused", now + UNUSED_SECONDS, self.stop)
                self._want(reading, indexes)
                return True
            case _Asking() as asking:
                asking.held |= indexes
                return True
            case None:
                if self._allowed and self._offered and now >= self._not_before:
                    return self._ask_leave(artifact, indexes)
                return self._around.ask(request)

    def granted(self, payload: bytes) -> None:
        """Take the answer to a question for leave.

        Raises:
            ContractError, TrustError: It is not for this device, or nobody signed it.

        """
        grant = self._around.believe(payload)
        shown = show_grant(payload, grant.device)
        match self._state:
            case _Asking(artifact=artifact, held=held) if artifact.digest == grant.a:
                if grant.url:
                    self._open(artifact, grant.url, self._renewal(grant), shown, held)
                else:
                    log.info(event("no-leave", artifact=grant.a[:16], why=grant.why))
                    self._give_up(artifact, held)
            case _Reading() as reading if reading.url == grant.url:
                reading.reader.renew(shown)
                reading.renew_at = self._renewal(grant)
            case _:
                pass  # of something that is wanted no more

    def takes(self, chunk: Chunk) -> Piece | None:
        """Return the piece of a chunk from the present reader; None of an earlier one."""
        reading = self._state
        if not isinstance(reading, _Reading) or chunk.reader != self._number:
            return None
        index = chunk.piece.index
        reading.owed.discard(index)
        reading.taken += 1
        self._watch(reading)
        return chunk.piece

    def judged(self, piece: Piece, *, good: bool) -> None:
        """Note whether a piece that ``takes`` returned was the signed one."""
        reading = self._state
        if good:
            self._rest_seconds, self._again = FIRST_REST_SECONDS, True
        elif isinstance(reading, _Reading):
            reading.owed.add(piece.index)
            why = f"{reading.url} sent other bytes than were signed"
            self._around.alarm(WrongChunkError.code, why)
            self._fall_back(reading, WrongChunkError(why))

    def ended(self, news: Ended) -> None:
        """Take a reader's last word."""
        reading = self._state
        if not isinstance(reading, _Reading) or news.reader != self._number:
            return
        if isinstance(news.why, GrantSpentError) and self._again:
            self._again = False  # until it brings a good chunk
            self.stop()
            log.info(event("grant-spent", artifact=reading.artifact.digest[:16]))
            self._ask_leave(reading.artifact, reading.owed)
        else:
            self._fall_back(reading, news.why)

    def stop(self) -> None:
        """Fetch nothing any longer."""
        self._agenda.cancel("downloading")
        self._agenda.cancel("downloading-unused")
        if isinstance(self._state, _Reading):
            self._state.reader.stop()
        self._state = None

    def _ask_leave(self, artifact: Artifact, indexes: set[int]) -> bool:
        now = self._around.monotonic()
        if not self._around.ask_leave(GrantRequest(a=artifact.digest)):
            return self._ask_plainly(artifact, indexes)
        asking = self._state = _Asking(artifact, set(indexes))

        def unanswered() -> None:
            log.info(event("no-leave", artifact=artifact.digest[:16], why="nobody answered"))
            self._give_up(artifact, asking.held)

        self._agenda.at("downloading", now + GRANT_SECONDS, unanswered)
        return True

    def _open(
        self, artifact: Artifact, url: str, renew_at: float, shown: str, held: set[int]
    ) -> None:
        self._number += 1
        self._agenda.cancel("downloading")
        self._around.hush()
        reader = self._around.open(artifact, url, shown, self._number)
        reading = _Reading(artifact, reader, url, renew_at)
        self._state = reading
        log.info(event("downloading", artifact=artifact.digest[:16], url=url))
        now = self._around.monotonic()
        self._agenda.at("downloading-unused", now + UNUSED_SECONDS, self.stop)
        self._want(reading, held)

    def _want(self, reading: _Reading, indexes: set[int]) -> None:
        new = indexes - reading.owed
        idle = not reading.owed
        reading.owed |= new
        if new:
            reading.reader.ask(new)
        if idle:
            self._watch(reading)
        if self._around.monotonic() >= reading.renew_at:
            asked = self._around.ask_leave(GrantRequest(a=reading.artifact.digest))
            reading.renew_at = self._around.monotonic() + (GRANT_SECONDS if asked else 0.0)

    def _watch(self, reading: _Reading) -> None:
        """Expect the next chunk within the patience, also of a reader that hangs."""
        if not reading.owed:
            self._agenda.cancel("downloading")
            return

        def silent() -> None:
            why = f"{reading.url} brought nothing for {self._patience:.0f} s"
            self._fall_back(reading, StalledError(why))

        self._agenda.at("downloading", self._around.monotonic() + 1.5 * self._patience, silent)

    def _renewal(self, grant: Grant) -> float:
        lasts = max(0, grant.expires_ms - grant.issued_ms) / 1000
        return self._around.monotonic() + RENEW_SHARE * lasts

    def _fall_back(self, reading: _Reading, why: AgentError) -> None:
        log.warning(
            event(
                "download-failed",
                artifact=reading.artifact.digest[:16],
                chunks=reading.taken,
                code=why.code,
                why=why,
            )
        )
        if not reading.taken:  # not a cut on the way: it never worked
            self._around.alarm(why.code, f"downloads: {why}")
        self._give_up(reading.artifact, reading.owed)

    def _give_up(self, artifact: Artifact, owed: set[int]) -> None:
        self.stop()
        self._not_before = self._around.monotonic() + self._rest_seconds
        self._rest_seconds = min(2 * self._rest_seconds, LONGEST_REST_SECONDS)
        self._ask_plainly(artifact, owed)

    def _ask_plainly(self, artifact: Artifact, indexes: Iterable[int]) -> bool:
        asked = [self._around.ask(r) for r in requests_for(artifact.digest, indexes)]
        return all(asked)


def requests_for(digest: str, indexes: Iterable[int]) -> Iterator[ChunkRequest]:
    """Yield requests for chunks, each of at most as many as one may ask for.

    >>> [request.r for request in requests_for("ab" * 32, {5, 3, 4})]
    [((3, 1), (4, 1), (5, 1))]
    """
    wanted = sorted(indexes)
    for at in range(0, len(wanted), MAX_CHUNKS_PER_REQUEST):
        some = wanted[at : at + MAX_CHUNKS_PER_REQUEST]
        yield ChunkRequest(a=digest, r=tuple((index, 1) for index in some))
