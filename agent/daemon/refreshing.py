"""Trust metadata, from the wish for it to what is believed: whom and what this device trusts.

Rule 1: it is collected in pieces and verified in a child; new trust is on the medium before
        it is used.
Rule 2: one refresh at a time, on behalf of everything that is wanted by then.
Rule 3: what the trust so far cannot explain is judged again, once, after the next refresh.
        Such puzzles cannot make the device ask faster than its own pace.
Rule 4: a manifest is vouched for while the lists that were seen to name it stand unchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from random import SystemRandom

from agent.contract.authority import Authority
from agent.contract.belief import believe_permits, is_permitted
from agent.contract.frames import Piece
from agent.contract.marks import ROLES
from agent.contract.messages import Assigned, MetaRequest
from agent.daemon.agenda import Agenda
from agent.daemon.gathering import Gathering
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError, MalformedError
from agent.refusals import UnpublishedError
from agent.update import trust
from agent.worker.jobs import Limits
from agent.worker.start import Finished

REFRESH_LIMITS = Limits(seconds=120.0, memory_bytes=2 * 1024**3)
FOLLOW = "follow"

Then = Callable[[trust.Refreshed | AgentError], None]
"""Called with what became of metadata that came by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        ask: Publishes a request; False when offline.
        start: Starts the child; its ``Finished`` comes back by ``finished``.
        now_ms: The time that this device believes it is.
        succeeded: The director is of a higher epoch: the one before may have lied.
        judge_again: What is held may be explained now.
        trusted: Metadata was verified; what it says may be news.
        manifest: The verified bytes of an assigned manifest.
        manifest_failed: Why an assigned manifest cannot be had, for now.
        refuse: Logs what is refused and why, and makes an alarm of it.
        monotonic: Seconds.

    """

    ask: Callable[[MetaRequest], bool]
    start: Callable[[trust.RefreshJob, Limits], None]
    now_ms: Callable[[], int]
    succeeded: Callable[[], None]
    judge_again: Callable[[], None]
    trusted: Callable[[], None]
    manifest: Callable[[Assigned, bytes], None]
    manifest_failed: Callable[[Assigned, AgentError], None]
    refuse: Callable[[str, AgentError], None]
    monotonic: Callable[[], float]


class Refreshing:
    """What is trusted, and how it becomes newer.

    Attributes:
        authority: Who may direct this device.

    """

    def __init__(
        self,
        disk: Disk,
        state: trust.TrustState,
        agenda: Agenda,
        around: Surroundings,
        *,
        answer_seconds: float,
        jitter_seconds: float,
    ) -> None:
        self._disk = disk
        self._state = state
        self._agenda = agenda
        self._around = around
        self._answer_seconds = answer_seconds
        self._jitter_seconds = jitter_seconds
        self.authority: Authority = state.who_directs()
        self._targets: dict[str, Assigned] = {}
        self._gathering = Gathering(
            around.ask,
            wants=lambda: (self._state.root_version, tuple(self._targets)),
            agenda=agenda,
            monotonic=around.monotonic,
            answer_seconds=answer_seconds,
        )
        self._puzzles: dict[str, Callable[[], object]] = {}
        self._verifying: tuple[str, ...] | None = None
        self._then: Then | None = None
        self._refreshed = (0, 0)
        self._vouched: set[str] = set()
        self._lists: dict[str, int] = {}

    @property
    def idle(self) -> bool:
        """Whether nothing is being collected or verified."""
        return self._verifying is None and not self._gathering.under_way

    @property
    def endpoints(self) -> bytes | None:
        """The bytes of the verified list of endpoints; None where none is signed."""
        return self._state.endpoints

    @property
    def root_expires_ms(self) -> int:
        """Until when the pinned root may be believed."""
        return self._state.root_expires_ms

    @property
    def versions(self) -> dict[str, int]:
        """The highest version of each of the four roles that was accepted."""
        return {role: m.version for role, m in self._state.marks.items() if role in ROLES}

    def permits(self, slot: str, digest: str, *, fleet: str, device: str) -> bool:
        """Return whether a device may go back to an older release of a slot, now."""
        return is_permitted(
            believe_permits(self._state.permits, fleet=fleet),
            device=device,
            slot=slot,
            digest=digest,
            now_ms=self._around.now_ms(),
        )

    def vouches(self, digest: str) -> bool:
        """Return whether the metadata held was seen, in this life, to list a manifest."""
        return digest in self._vouched

    def want_manifest(self, assigned: Assigned) -> None:
        """Get the bytes of an assigned manifest by way of the offline-signed targets."""
        self._targets[assigned.target] = assigned
        self.begin()

    def begin(self) -> None:
        """Collect metadata, unless it is being verified: then what is missing is asked after."""
        if self._verifying is None:
            self._gathering.begin()

    def begin_for_rest(self) -> None:
        """Ask, at our pace, for manifests that a full disk or a dead child left unanswered."""
        if self._targets:
            self._gathering.begin_at_our_pace()

    def connected(self) -> None:
        """Ask anew on a new connection, without the patience that the old one taught."""
        self._gathering.connected()

    def puzzle(self, what: str, why: AgentError, judge: Callable[[], object]) -> None:
        """Keep a question for after a refresh: perhaps only newer metadata names its director."""
        log.info(event("puzzles", what=what, why=why))
        self._puzzles[what] = judge
        self.explain()

    def explain(self) -> None:
        """Collect what may explain a document that is held, at our pace."""
        if self._verifying is None:
            self._gathering.begin_at_our_pace()

    def judge_again(self) -> None:
        """Judge every puzzle again, and then what the others hold."""
        puzzles, self._puzzles = self._puzzles, {}
        for what, judge in puzzles.items():
            try:
                judge()
            except AgentError as why:
                self._around.refuse(what, why)
        self._around.judge_again()

    def follow(self, *, root: int, targets: int) -> None:
        """Collect metadata, at a moment of our own, where the director says that it changed.

        What this life has not refreshed counts as changed: a refresh that was refused in the
        middle leaves newer versions behind than it has delivered.
        """
        known_root, known_targets = self._refreshed
        news = root > known_root or targets > known_targets
        if news and not self._agenda.holds(FOLLOW):
            later = SystemRandom().uniform(0.0, self._jitter_seconds)
            self._agenda.at(FOLLOW, self._around.monotonic() + later, self._catch_up)

    def _catch_up(self) -> None:
        if self._verifying is None:
            self._gathering.begin()
        else:  # what is being verified was collected before we heard of the change
            later = self._around.monotonic() + self._answer_seconds
            self._agenda.at(FOLLOW, later, self._catch_up)

    def take_piece(self, piece: Piece) -> None:
        """Take one piece of the metadata that we asked for; verify the whole in a child."""
        try:
            whole = self._gathering.take(piece)
        except AgentError as why:
            self._around.refuse("metadata", why)
            self._give_up(tuple(self._targets), why)
            return
        if whole is None:
            return
        if self._verifying is not None:  # else the older of two could be saved last
            self._catch_up()
            return
        wanted, files = whole
        try:
            self._start(files, wanted)
        except AgentError as why:
            self._around.refuse("metadata", why)
            self._give_up(wanted, why)

    def verify(self, files: dict[str, bytes], wanted: tuple[str, ...], then: Then) -> bool:
        """Have metadata verified that came by hand; False while other is being verified."""
        if self._verifying is not None:
            return False
        try:
            self._start(files, wanted)
        except AgentError as why:
            self._around.refuse("metadata", why)
            then(why)
        else:
            self._then = then
        return True

    def _start(self, files: dict[str, bytes], wanted: tuple[str, ...]) -> None:
        job = trust.RefreshJob(
            state=self._state, files=files, wanted=wanted, now_ms=self._around.now_ms()
        )
        self._around.start(job, REFRESH_LIMITS)
        self._verifying = wanted

    def finished(self, finished: Finished) -> None:
        """Take over what the child verified, and go on with what waited for it."""
        wanted, self._verifying = self._verifying or (), None
        then, self._then = self._then, None
        try:
            news = self._take_over(finished)
        except AgentError as why:
            self._around.refuse("metadata", why)
            self._give_up(wanted, why)
            if then is not None:
                then(why)
            return
        self.authority = news.state.who_directs()
        self._vouch(news)
        self._refreshed = (news.state.root_version, self.versions.get("targets", 0))
        log.info(event("trusted", root=news.state.root_version, targets=len(news.targets)))
        if then is not None:
            then(news)
        self._deliver(wanted, news)
        self.judge_again()
        if self._targets:
            self._gathering.begin()
        self._around.trusted()

    def _take_over(self, finished: Finished) -> trust.Refreshed:
        match finished.answer:
            case trust.RefreshAnswer(result=result):
                if result.state is not None:
                    trust.save(self._disk, result.state)
                    self._state = result.state
                    self._succeed()
                return trust.believe(result)
            case AgentError() as failure:
                raise failure
            case _:
                raise MalformedError("the refresh worker answered something else")

    def _succeed(self) -> None:
        before, self.authority = self.authority, self._state.who_directs()
        if self.authority.director_epoch > before.director_epoch:
            self._around.succeeded()

    def _vouch(self, news: trust.Refreshed) -> None:
        """Remember which manifests are listed, for as long as no list changes."""
        marks = news.state.marks.items()
        lists = {role: m.version for role, m in marks if role not in {"timestamp", "snapshot"}}
        if lists != self._lists:
            self._vouched, self._lists = set(), lists
        self._vouched |= {sha256(content).hexdigest() for content in news.targets.values()}

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
            self._around.refuse("manifest", why)
            self._around.manifest_failed(assigned, why)

    def _give_up(self, wanted: tuple[str, ...], why: AgentError) -> None:
        self.judge_again()
        for target in wanted:
            assigned = self._targets.pop(target, None)
            if assigned is not None:
                self._around.manifest_failed(assigned, why)
