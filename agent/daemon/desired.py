"""From signed documents to wishes: what the fleet wants of this device, once believed.

Rule 1: an assignment is persisted (``accepted.json``) before anything is done about it.
Rule 2: a document that the trust so far cannot explain (an unknown key, a higher epoch)
        is held, while ``refreshing`` looks for newer trust; then it is judged again, once.
Rule 3: a refusal is an alarm with its code and sentence; what runs goes on running.
        Only an older order that the broker had kept is first just refused: a broker that
        was restored keeps an old one for each device until the fleet writes the next.
Rule 4: an assignment that ran out ends what is tried for it, by signed time alone
        (``timekeeping``); the same time tells whether a newer one is kept back.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from agent.contract.authority import Authority
from agent.contract.belief import Believed, believe_ack, believe_assignment, believe_task
from agent.contract.codec import encode
from agent.contract.frames import Piece
from agent.contract.messages import Ack, Assigned, Assignment, Fresh, FreshRequest, MetaRequest
from agent.contract.rounds import Task
from agent.daemon import refreshing, timekeeping
from agent.daemon.accepted import ACCEPTED, AcceptedAssignment, keys_to_keep
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.daemon.newest import Newest
from agent.disk import Disk, read_versioned
from agent.errors import AgentError, MismatchError, RollbackError, StoreError, UnsignedError
from agent.identity.clock import TrustedClock
from agent.refusals import AssignmentExpiredError
from agent.update import trust
from agent.worker.jobs import Limits
from agent.worker.start import Finished

MAX_HELD = 4
STALE_UNALARMED = 2  # older orders that the broker kept; the next one is an alarm


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask: Publishes a request; False when offline.
        start_refresh: Starts the child; its ``Finished`` comes back by ``refreshed``.
        accepted: A new assignment is on the medium.
        time_known: Signed time came for the first time in this life.
        answered: A director answered what was asked on the connection of now.
        trusted: Metadata was verified; what it says may be news.
        wish: A slot is wanted to run a release; None ends a try for what was wanted.
        manifest: The verified bytes of an assigned manifest.
        manifest_failed: Why an assigned manifest cannot be had, for now.
        alarm: Something is refused: (code, sentence).
        monotonic: Seconds.
        said: What else came with signed time.

    """

    ask: Callable[[MetaRequest | FreshRequest], bool]
    start_refresh: Callable[[trust.RefreshJob, Limits], None]
    accepted: Callable[[], None]
    time_known: Callable[[], None]
    answered: Callable[[], None]
    trusted: Callable[[], None]
    wish: Callable[[str, Assigned | None], None]
    manifest: Callable[[Assigned, bytes], None]
    manifest_failed: Callable[[Assigned, AgentError], None]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float]
    said: Callable[[Fresh], None] = lambda _: None


class Desired:
    """What the director wants of this device, and whom it believes about that."""

    def __init__(
        self,
        disk: Disk,
        *,
        device: str,
        fleet: str,
        state: trust.TrustState,
        clock: TrustedClock,
        agenda: Agenda,
        around: Surroundings,
        answer_seconds: float,
        fresh_seconds: float,
        jitter_seconds: float = 0.0,
    ) -> None:
        self._disk = disk
        self._device = device
        self._fleet = fleet
        self._clock = clock
        self._around = around
        self._accepted = read_versioned(disk, ACCEPTED, AcceptedAssignment)
        self._held: deque[bytes] = deque(maxlen=MAX_HELD)
        self._stale = 0
        self._newest = Newest()
        self._refreshing = refreshing.Refreshing(
            disk,
            state,
            agenda,
            self._around_refreshing(),
            answer_seconds=answer_seconds,
            jitter_seconds=jitter_seconds,
        )
        self._time = timekeeping.Timekeeping(
            clock,
            self._refreshing,
            agenda,
            self._around_timekeeping(),
            device=device,
            answer_seconds=answer_seconds,
            fresh_seconds=fresh_seconds,
            jitter_seconds=jitter_seconds,
        )

    def _around_refreshing(self) -> refreshing.Surroundings:
        return refreshing.Surroundings(
            ask=self._around.ask,
            start=self._around.start_refresh,
            now_ms=self._clock.now_ms,
            succeeded=self.ask_fresh,
            judge_again=self._judge_again,
            trusted=self._around.trusted,
            manifest=self._around.manifest,
            manifest_failed=self._around.manifest_failed,
            refuse=self._refuse,
            monotonic=self._around.monotonic,
        )

    def _around_timekeeping(self) -> timekeeping.Surroundings:
        return timekeeping.Surroundings(
            ask=self._around.ask,
            holds=lambda: self._accepted.accepted.digest if self._accepted else None,
            missing=self._is_missing,
            time_known=self._around.time_known,
            answered=self._around.answered,
            said=self._around.said,
            refuse=self._refuse,
            note=partial(self._refuse, alarmed=False),
            monotonic=self._around.monotonic,
        )

    @property
    def accepted(self) -> AcceptedAssignment | None:
        """The newest assignment that was believed."""
        return self._accepted

    @property
    def authority(self) -> Authority:
        """Who may direct this device."""
        return self._refreshing.authority

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Content keys of encrypted artifacts by their full stream, in their boxes."""
        return self._accepted.keys if self._accepted else {}

    @property
    def endpoints(self) -> bytes | None:
        """The bytes of the verified list of endpoints; None where none is signed."""
        return self._refreshing.endpoints

    @property
    def versions(self) -> dict[str, int]:
        """The highest version of each of the four roles that was accepted."""
        return self._refreshing.versions

    @property
    def believed_time(self) -> tuple[int, str]:
        """What time this device believes it is, ms since 1970, and by what."""
        return self._clock.now_ms(), self._clock.basis

    @property
    def signed_ms(self) -> int:
        """Signed time, ms since 1970: of this life, or the last that was put down."""
        return self._clock.trusted_ms() or self._clock.floor_ms

    def permits(self, slot: str, digest: str) -> bool:
        """Return whether this device may go back to an older release of a slot, now."""
        return self._refreshing.permits(slot, digest, fleet=self._fleet, device=self._device)

    def vouches(self, digest: str) -> bool:
        """Return whether the metadata held was seen, in this life, to list a manifest."""
        return self._refreshing.vouches(digest)

    def connected(self) -> None:
        """Ask anew on a new connection, without the patience that the old one taught."""
        self.ask_fresh()
        self._refreshing.connected()

    def ask_fresh(self) -> None:
        """Ask for signed time; asked again until it comes."""
        self._time.ask()

    def hinted(self) -> None:
        """Ask for signed time soon: somebody says that something changed."""
        self._time.hinted()

    def take_fresh(self, payload: bytes) -> None:
        """Take over signed time, if it answers an open question of ours."""
        self._time.take(payload)

    def want_manifest(self, assigned: Assigned) -> None:
        """Get the bytes of an assigned manifest by way of the offline-signed targets."""
        self._refreshing.want_manifest(assigned)

    def refresh(self) -> None:
        """Collect metadata, unless it is being verified."""
        self._refreshing.begin()

    def take_piece(self, piece: Piece) -> None:
        """Take one piece of the metadata that we asked for."""
        self._refreshing.take_piece(piece)

    def verify(
        self, files: dict[str, bytes], wanted: tuple[str, ...], then: refreshing.Then
    ) -> bool:
        """Have metadata verified that came by hand; False while other is being verified."""
        return self._refreshing.verify(files, wanted, then)

    def refreshed(self, finished: Finished) -> None:
        """Take over what the child verified, and go on with what waited for it."""
        self._refreshing.finished(finished)

    def raise_wishes(self) -> None:
        """Tell again what is wanted of each slot; repeated wishes change nothing."""
        if self._refreshing.idle:
            if self._held:
                self._refreshing.judge_again()
            self._refreshing.begin_for_rest()
        if self._accepted is not None:
            stands = self._still_stands(self._accepted)
            for slot, assigned in self._accepted.slots.items():
                self._around.wish(slot, assigned if stands else None)

    def take_assignment(self, payload: bytes, *, retained: bool = False) -> None:
        """Judge an assignment that arrived; hold it while the trust so far is too old for it.

        ``retained``: the broker says that it had kept it. A lie buys two silent refusals.
        """
        try:
            believed = self._believe(payload, self._clock.trusted_ms())
        except (UnsignedError, MismatchError) as why:
            log.info(event("assignment-held", why=why))
            self._held.append(payload)
            self._refreshing.explain()
        except RollbackError as why:
            self._stale += 1
            self._refuse("assignment", why, alarmed=not retained or self._stale > STALE_UNALARMED)
        except AgentError as why:
            self._refuse("assignment", why)
        else:
            self._settle(believed, payload)

    def obey(self, payload: bytes) -> Assignment:
        """Judge an assignment that came by hand, by the best time there is, and follow it.

        Raises:
            TrustError, ContractError: It is not believed.
            StoreError: It cannot be persisted.

        """
        believed = self._believe(payload, self._clock.now_ms())
        self._settle(believed, payload)
        return believed.assignment

    def take_ack(self, payload: bytes) -> Ack | None:
        """Return an acknowledgement that the director signed, or None."""
        try:
            return self._believe_ack(payload)
        except UnsignedError as why:
            self._refreshing.puzzle("acknowledgement", why, partial(self._believe_ack, payload))
        except AgentError as why:
            self._refuse("acknowledgement", why)
        return None

    def _believe_ack(self, payload: bytes) -> Ack:
        return believe_ack(payload, authority=self.authority, device=self._device)

    def take_task(self, payload: bytes, run: str) -> tuple[Task, bytes] | None:
        """Return a task that the director signed, with its attachment, or None."""
        try:
            return believe_task(payload, authority=self.authority, device=self._device, run=run)
        except AgentError as why:
            self._refuse("task", why)
            return None

    def _is_missing(self, fresh: Fresh) -> bool:
        """Return whether the newest assignment was just found not to have come."""
        if self._held:
            return False  # it came, and waits for metadata
        missed = self._newest.missing
        why = self._newest.compare(fresh, self._accepted.accepted if self._accepted else None)
        if why is not None:
            self._refuse("assignment", why)
        return self._newest.missing and not missed

    def _still_stands(self, accepted: AcceptedAssignment) -> bool:
        """Return whether updates may follow from it; what runs goes on running in any case."""
        now_ms = self._clock.trusted_ms()
        if now_ms is None or now_ms < accepted.expires_ms:
            return True
        order = accepted.accepted.sequence
        why = f"{order} ran out at {accepted.expires_ms} ms: nothing is updated"
        self._refuse("assignment", AssignmentExpiredError(why))
        return False

    def _believe(self, payload: bytes, now_ms: int | None) -> Believed:
        return believe_assignment(
            payload,
            authority=self.authority,
            fleet=self._fleet,
            device=self._device,
            accepted=self._accepted.accepted if self._accepted else None,
            now_ms=now_ms,
        )

    def _settle(self, believed: Believed, payload: bytes) -> None:
        if not believed.repeated:
            accepted = AcceptedAssignment(
                accepted=believed.accepted,
                slots=believed.assignment.slots,
                expires_ms=believed.assignment.expires_ms,
                keys=keys_to_keep(believed.assignment.keys, self._accepted),
            )
            try:
                self._disk.replace(ACCEPTED, encode(accepted))
            except StoreError:
                self._held.append(payload)  # tried again with the standing wishes
                raise
            self._accepted = accepted
            self._stale = 0
            log.info(event("assigned", sequence=believed.accepted.sequence))
            self._around.accepted()
        self.raise_wishes()

    def _judge_again(self) -> None:
        for _ in range(len(self._held)):
            if not self._held:
                return  # settling one raises the wishes, which may try the rest
            payload = self._held.popleft()
            try:
                believed = self._believe(payload, self._clock.trusted_ms())
            except AgentError as why:
                self._refuse("assignment", why)
            else:
                self._settle(believed, payload)

    def _refuse(self, what: str, why: AgentError, *, alarmed: bool = True) -> None:
        log.warning(event("refused", what=what, code=why.code, why=why))
        if alarmed:
            self._around.alarm(why.code, f"{what}: {why}")
