"""From signed documents to wishes: what the fleet wants of this device, once believed.

Rule 1: an assignment is persisted (``accepted.json``) before anything is done about it.
Rule 2: a document that the trust so far cannot explain (an unknown key, a higher epoch)
        is held; metadata is collected and verified in a child, then it is judged again,
        once. Held documents cannot make the device ask faster than its own pace.
Rule 3: one refresh at a time, on behalf of everything that is wanted by then.
Rule 4: a refusal is an alarm with its code and sentence; what runs goes on running.
        Only an older order that the broker had kept is first just refused: a broker that
        was restored keeps an old one for each device until the fleet writes the next.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from random import SystemRandom

from agent.contract.belief import (
    Believed,
    believe_ack,
    believe_assignment,
    believe_fresh,
    believe_permits,
    believe_task,
    is_permitted,
)
from agent.contract.codec import encode
from agent.contract.frames import Piece
from agent.contract.marks import ROLES
from agent.contract.messages import (
    Ack,
    Assigned,
    Assignment,
    Authority,
    Fresh,
    FreshRequest,
    MetaRequest,
    Task,
)
from agent.daemon.accepted import ACCEPTED, AcceptedAssignment, keys_to_keep
from agent.daemon.agenda import Agenda
from agent.daemon.gathering import Gathering
from agent.daemon.host import event, log
from agent.daemon.newest import Newest
from agent.disk import Disk, read_versioned
from agent.errors import (
    AgentError,
    MalformedError,
    MismatchError,
    RollbackError,
    StoreError,
    UnsignedError,
)
from agent.identity.clock import TrustedClock
from agent.refusals import AssignmentExpiredError, UnpublishedError, WrongNonceError
from agent.update import trust
from agent.worker.jobs import Limits
from agent.worker.start import Finished

REFRESH_LIMITS = Limits(seconds=120.0, memory_bytes=2 * 1024**3)
FOLLOW, HINTED = "follow", "hinted"
MAX_HELD = 4
MAX_QUESTIONS = 4  # open at once; a nonce lives 60 s
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
        self._state = state
        self._clock = clock
        self._agenda = agenda
        self._around = around
        self._answer_seconds = answer_seconds
        self._fresh_seconds = fresh_seconds
        self._jitter_seconds = jitter_seconds
        self._authority = state.who_directs()
        self._accepted = read_versioned(disk, ACCEPTED, AcceptedAssignment)
        self._held: deque[bytes] = deque(maxlen=MAX_HELD)
        self._targets: dict[str, Assigned] = {}
        self._gathering = Gathering(
            around.ask,
            wants=lambda: (self._state.root_version, tuple(self._targets)),
            agenda=agenda,
            monotonic=around.monotonic,
            answer_seconds=answer_seconds,
        )
        self._puzzles: dict[str, Callable[[], object]] = {}
        self._refreshing: tuple[str, ...] | None = None
        self._then: Callable[[trust.Refreshed | AgentError], None] | None = None
        self._nonces: deque[str] = deque(maxlen=MAX_QUESTIONS)
        self._misled = False
        self._stale = 0
        self._refreshed = (0, 0)
        self._vouched: set[str] = set()
        self._lists: dict[str, int] = {}
        self._newest = Newest()

    @property
    def accepted(self) -> AcceptedAssignment | None:
        """The newest assignment that was believed."""
        return self._accepted

    @property
    def authority(self) -> Authority:
        """Who may direct this device."""
        return self._authority

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Content keys of encrypted artifacts by their full stream, in their boxes."""
        return self._accepted.keys if self._accepted else {}

    @property
    def endpoints(self) -> bytes | None:
        """The bytes of the verified list of endpoints; None where none is signed."""
        return self._state.endpoints

    @property
    def versions(self) -> dict[str, int]:
        """The highest version of each of the four roles that was accepted."""
        return {role: m.version for role, m in self._state.marks.items() if role in ROLES}

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
        return is_permitted(
            believe_permits(self._state.permits, fleet=self._fleet),
            device=self._device,
            slot=slot,
            digest=digest,
            now_ms=self._clock.now_ms(),
        )

    def vouches(self, digest: str) -> bool:
        """Return whether the metadata held was seen, in this life, to list a manifest."""
        return digest in self._vouched

    def raise_wishes(self) -> None:
        """Tell again what is wanted of each slot; repeated wishes change nothing."""
        if self._refreshing is None and not self._gathering.under_way:
            if self._held:
                self._retry_held()
            if self._targets:  # what a full disk or a dead child left unanswered
                self._gathering.begin_at_our_pace()
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
            self._explain()
        except RollbackError as why:
            self._stale += 1
            self._refuse("assignment", why, alarmed=not retained or self._stale > STALE_UNALARMED)
        except AgentError as why:
            self._refuse("assignment", why)
        else:
            self._settle(believed, payload)

    def take_fresh(self, payload: bytes) -> None:
        """Take over signed time, if it answers an open question of ours.

        On a slow way the answer to an earlier question comes after the next was asked. What
        answers none leaves them open, and is an alarm once for each time that we ask.
        """
        if not self._nonces:
            return
        first = self._clock.trusted_ms() is None
        try:
            fresh = self._believe_fresh(payload)
            self._believe_time(fresh, fresh.nonce)
        except (UnsignedError, MismatchError) as why:
            self._puzzle("signed-time", why, lambda: self._nonces and self._believe_fresh(payload))
        except AgentError as why:
            self._refuse("signed-time", why, alarmed=not self._misled)
            self._misled = True
        else:
            self._nonces.clear()
            log.info(event("fresh", now_ms=fresh.now_ms, sequence=fresh.sequence))
            wait = self._compare(fresh)
            self._agenda.at("fresh", self._around.monotonic() + wait, self.ask_fresh)
            if first:
                self._around.time_known()
            self._around.answered()
            self._around.said(fresh)
            self._follow(fresh)

    def _vouch(self, news: trust.Refreshed) -> None:
        """Remember which manifests are listed, for as long as no list changes."""
        marks = news.state.marks.items()
        lists = {role: m.version for role, m in marks if role not in {"timestamp", "snapshot"}}
        if lists != self._lists:
            self._vouched, self._lists = set(), lists
        self._vouched |= {sha256(content).hexdigest() for content in news.targets.values()}

    def _compare(self, fresh: Fresh) -> float:
        """Look whether the newest assignment has come; return when to ask again, in seconds."""
        if self._held:
            return self._fresh_seconds  # it came, and waits for metadata
        missed = self._newest.missing
        why = self._newest.compare(fresh, self._accepted.accepted if self._accepted else None)
        if why is not None:
            self._refuse("assignment", why)
        news = self._newest.missing and not missed
        return min(self._answer_seconds, self._fresh_seconds) if news else self._fresh_seconds

    def _follow(self, fresh: Fresh) -> None:
        """Collect metadata, at a moment of our own, where the director says that it changed.

        What this life has not refreshed counts as changed: a refresh that was refused in the
        middle leaves newer versions behind than it has delivered.
        """
        root, targets = self._refreshed
        if (fresh.root > root or fresh.targets > targets) and not self._agenda.holds(FOLLOW):
            later = SystemRandom().uniform(0.0, self._jitter_seconds)
            self._agenda.at(FOLLOW, self._around.monotonic() + later, self._catch_up)

    def _catch_up(self) -> None:
        if self._refreshing is None:
            self._gathering.begin()
        else:  # what is being verified was collected before we heard of the change
            later = self._around.monotonic() + self._answer_seconds
            self._agenda.at(FOLLOW, later, self._catch_up)

    def _believe_fresh(self, payload: bytes) -> Fresh:
        read = partial(believe_fresh, payload, authority=self._authority, device=self._device)
        *older, newest = self._nonces
        for nonce in older:
            with suppress(WrongNonceError):
                return read(nonce=nonce)
        return read(nonce=newest)

    def _believe_time(self, fresh: Fresh, nonce: str) -> None:
        try:
            self._clock.believe(fresh, nonce, root_expires_ms=self._state.root_expires_ms)
        except StoreError as why:  # the time is known all the same, only the floor did not rise
            self._refuse("time-floor", why)

    def take_ack(self, payload: bytes) -> Ack | None:
        """Return an acknowledgement that the director signed, or None."""
        try:
            return self._believe_ack(payload)
        except UnsignedError as why:
            self._puzzle("acknowledgement", why, partial(self._believe_ack, payload))
        except AgentError as why:
            self._refuse("acknowledgement", why)
        return None

    def _believe_ack(self, payload: bytes) -> Ack:
        return believe_ack(payload, authority=self._authority, device=self._device)

    def take_task(self, payload: bytes, run: str) -> tuple[Task, bytes] | None:
        """Return a task that the director signed, with its attachment, or None."""
        try:
            return believe_task(payload, authority=self._authority, device=self._device, run=run)
        except AgentError as why:
            self._refuse("task", why)
            return None

    def connected(self) -> None:
        """Ask anew on a new connection, without the patience that the old one taught."""
        self.ask_fresh()
        self._gathering.connected()

    def hinted(self) -> None:
        """Ask for signed time soon: somebody says that something changed; nobody signs that."""
        if not self._agenda.holds(HINTED):
            later = SystemRandom().uniform(0.0, self._jitter_seconds)
            self._agenda.at(HINTED, self._around.monotonic() + later, self.ask_fresh)

    def ask_fresh(self) -> None:
        """Ask for signed time; asked again until it comes."""
        self._nonces.append(self._clock.new_nonce())
        self._misled = False
        held = self._accepted.accepted.digest if self._accepted else None
        self._around.ask(FreshRequest(nonce=self._nonces[-1], holds=held))
        later = self._around.monotonic() + self._answer_seconds
        self._agenda.at("fresh", later, self.ask_fresh)

    def want_manifest(self, assigned: Assigned) -> None:
        """Get the bytes of an assigned manifest by way of the offline-signed targets."""
        self._targets[assigned.target] = assigned
        self.refresh()

    def refresh(self) -> None:
        """Collect metadata, unless it is being verified: then what is missing is asked after."""
        if self._refreshing is None:
            self._gathering.begin()

    def take_piece(self, piece: Piece) -> None:
        """Take one piece of the metadata that we asked for; verify the whole in a child."""
        try:
            whole = self._gathering.take(piece)
        except AgentError as why:
            self._refuse("metadata", why)
            self._give_up(tuple(self._targets), why)
            return
        if whole is None:
            return
        wanted, files = whole
        try:
            job = trust.RefreshJob(
                state=self._state, files=files, wanted=wanted, now_ms=self._clock.now_ms()
            )
            self._around.start_refresh(job, REFRESH_LIMITS)
        except AgentError as why:
            self._refuse("metadata", why)
            self._give_up(wanted, why)
            return
        self._refreshing = wanted

    def verify(
        self,
        files: dict[str, bytes],
        wanted: tuple[str, ...],
        then: Callable[[trust.Refreshed | AgentError], None],
    ) -> bool:
        """Have metadata verified that came by hand; False while other is being verified."""
        if self._refreshing is not None:
            return False
        job = trust.RefreshJob(
            state=self._state, files=files, wanted=wanted, now_ms=self._clock.now_ms()
        )
        try:
            self._around.start_refresh(job, REFRESH_LIMITS)
        except AgentError as why:
            self._refuse("metadata", why)
            then(why)
        else:
            self._refreshing, self._then = wanted, then
        return True

    def obey(self, payload: bytes) -> Assignment:
        """Judge an assignment that came by hand, by the best time there is, and follow it.

        Raises:
            TrustError, ContractError: It is not believed.
            StoreError: It cannot be persisted.

        """
        believed = self._believe(payload, self._clock.now_ms())
        self._settle(believed, payload)
        return believed.assignment

    def refreshed(self, finished: Finished) -> None:
        """Take over what the child verified, and go on with what waited for it."""
        wanted, self._refreshing = self._refreshing or (), None
        then, self._then = self._then, None
        try:
            match finished.answer:
                case trust.RefreshAnswer(result=result):
                    if result.state is not None:
                        trust.save(self._disk, result.state)
                        self._state = result.state
                        self._succeed()
                    news = trust.believe(result)
                case AgentError() as failure:
                    raise failure
                case _:
                    raise MalformedError("the refresh worker answered something else")
        except AgentError as why:
            self._refuse("metadata", why)
            self._give_up(wanted, why)
            if then is not None:
                then(why)
            return
        self._authority = news.state.who_directs()
        self._vouch(news)
        self._refreshed = (news.state.root_version, self.versions.get("targets", 0))
        log.info(event("trusted", root=news.state.root_version, targets=len(news.targets)))
        if then is not None:
            then(news)
        self._deliver(wanted, news)
        self._retry_held()
        if self._targets:
            self._gathering.begin()
        self._around.trusted()

    def _succeed(self) -> None:
        """Ask a director of a higher epoch for the time: the one before may have lied."""
        before, self._authority = self._authority, self._state.who_directs()
        if self._authority.director_epoch > before.director_epoch:
            self.ask_fresh()

    def _still_stands(self, accepted: AcceptedAssignment) -> bool:
        """Return whether updates may follow from it; what runs goes on running in any case."""
        now_ms = self._clock.trusted_ms()
        if now_ms is None or now_ms < accepted.expires_ms:
            return True
        why = (
            f"{accepted.accepted.sequence} ran out at {accepted.expires_ms} ms: nothing is updated"
        )
        self._refuse("assignment", AssignmentExpiredError(why))
        return False

    def _believe(self, payload: bytes, now_ms: int | None) -> Believed:
        return believe_assignment(
            payload,
            authority=self._authority,
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

    def _puzzle(self, what: str, why: AgentError, judge: Callable[[], object]) -> None:
        """Keep a question for after a refresh: perhaps only newer metadata names its director."""
        log.info(event("puzzles", what=what, why=why))
        self._puzzles[what] = judge
        self._explain()

    def _explain(self) -> None:
        if self._refreshing is None:
            self._gathering.begin_at_our_pace()

    def _retry_held(self) -> None:
        puzzles, self._puzzles = self._puzzles, {}
        for what, judge in puzzles.items():
            try:
                judge()
            except AgentError as why:
                self._refuse(what, why)
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

    def _deliver(self, wanted: tuple[str, ...], news: trust.Refreshed) -> None:
        for target in wanted:
            assigned = self._targets.pop(target, None)
            if assigned is None:
                continue
            if target in news.targets:
                self._around.manifest(assigned, news.targets[target])
                continue
            refusal = news.refused.get(target)
            why = (
                trust.error_of(refusal)
                if refusal
                else UnpublishedError(f"the fleet sent no manifest of {target}")
            )
            self._refuse("manifest", why)
            self._around.manifest_failed(assigned, why)

    def _give_up(self, wanted: tuple[str, ...], why: AgentError) -> None:
        self._retry_held()
        for target in wanted:
            assigned = self._targets.pop(target, None)
            if assigned is not None:
                self._around.manifest_failed(assigned, why)

    def _refuse(self, what: str, why: AgentError, *, alarmed: bool = True) -> None:
        log.warning(event("refused", what=what, code=why.code, why=why))
        if alarmed:
            self._around.alarm(why.code, f"{what}: {why}")
