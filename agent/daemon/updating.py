"""Slots and their releases: raises events in the update machine and performs its effects.

Rule 1: the machine decides; here a new state is saved, and then its effects are performed.
Rule 2: effects answer by events that wait in a queue, so no effect runs inside another.
Rule 3: a manifest is believed before the first byte of an artifact is asked for.
Rule 4: a try that failed for want of network or room is repeated, as ``retrying`` allows.
Rule 5: bytes that rotted on the medium are removed and fetched again; no release is
        condemned for them. An effect that the disk refuses does not cost the ones after it.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from agent.contract.manifest import Artifact
from agent.contract.messages import Assigned, Finding, Hosted, SlotReport
from agent.daemon.admitting import Admitting
from agent.daemon.host import event, log
from agent.daemon.retrying import Retrying
from agent.daemon.state import describe_slot
from agent.disk import Disk
from agent.errors import (
    AgentError,
    ChildDiedError,
    CorruptError,
    DeadlineError,
    PlatformError,
    RollbackError,
    RuntimeMissingError,
    StoreError,
    WorkerError,
)
from agent.infer.external import engines
from agent.update import journal, machine
from agent.update.slot import Fetching, Probing
from agent.update.store import Store
from agent.worker.jobs import CheckAnswer

OUTSIDE = (RuntimeMissingError, StoreError, PlatformError, CorruptError, WorkerError)
"""What keeps a release from being loaded and speaks of the device, not of the release."""

UNDECIDED = (AgentError.code, ChildDiedError.code, WorkerError.code, DeadlineError.code)
"""What ended a check without a finding: it is tried again, and not for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        want_manifest: Asks for the bytes of an assigned manifest.
        permitted: Whether a permit lets this device go back: (slot, digest).
        vouched: Whether the metadata of now was seen to list a manifest: (digest).
        download: Fetches artifacts of a slot's release: (slot, digest, artifacts).
        stop_download: Gives up what a slot fetches.
        check: Starts the child that loads and measures: (slot, digest).
        serve: Loads and serves: (slot, model, beside); may raise.
        prove: Begins a probation: (slot, candidate, against, golden findings).
        stop_proving: Ends the probation of a slot, if any.
        report: Puts an outcome into the outbox, durably: (slot, outcome).
        committed: A release proved itself: (slot, digest).
        changed: Something that is reported changed.

    """

    want_manifest: Callable[[Assigned], None]
    permitted: Callable[[str, str], bool]
    vouched: Callable[[str], bool]
    download: Callable[[str, str, tuple[Artifact, ...]], None]
    stop_download: Callable[[str], None]
    check: Callable[[str, str], None]
    serve: Callable[[str, Assigned | None, Assigned | None], None]
    prove: Callable[[str, machine.Prove], None]
    stop_proving: Callable[[str], None]
    report: Callable[[str, machine.Outcome], None]
    committed: Callable[[str, str], None]
    changed: Callable[[], None]


class Updating:
    """Every slot of this device."""

    def __init__(
        self,
        disk: Disk,
        store: Store,
        *,
        slots: tuple[str, ...],
        hardware: str,
        reserve_bytes: int,
        quota_bytes: int | None = None,
        retry_seconds: float,
        around: Surroundings,
    ) -> None:
        """``slots`` are those that the configuration names; others keep their files."""
        self._disk = disk
        self._store = store
        self._slots = slots
        self._admitting = Admitting(
            store, hardware=hardware, reserve_bytes=reserve_bytes, quota_bytes=quota_bytes
        )
        self._retrying = Retrying(retry_seconds)
        self._around = around
        self._states = {slot: journal.load(disk, slot) for slot in journal.slots(disk)}
        self._events: deque[tuple[str, machine.SlotEvent]] = deque()
        self._unresumed: list[str] = []
        self._performing = False

    @property
    def states(self) -> dict[str, machine.State]:
        """The state of every slot that ever had a wish."""
        return dict(self._states)

    @property
    def kept(self) -> frozenset[str]:
        """The manifests that no slot can do without: what runs, the last good, a candidate."""
        return frozenset(digest for state in self._states.values() for digest in state.kept)

    def is_probing(self, slot: str) -> bool:
        """Return whether a candidate answers in a slot, to be judged."""
        return isinstance(self._states[slot].phase, Probing)

    def resume(self, installed: tuple[Hosted, ...]) -> None:
        """Go on where the last life ended; the attempt that begins now is counted first."""
        self._admitting.installed = installed
        self._unresumed = sorted(self._states.keys() & set(self._slots))
        self._resume_rest()
        self._drain()

    def want(self, slot: str, assigned: Assigned) -> None:
        """Raise a standing wish; one that just failed is left alone for a while."""
        if not self._retrying.is_resting(slot, assigned.digest, time.monotonic()):
            self.tell(slot, machine.Wanted(assigned))

    def end_try(self, slot: str) -> None:
        """Give up what is being tried in a slot, if anything; what runs goes on running."""
        if slot in self._states:
            self.tell(slot, machine.Wanted(None))

    def hurry(self) -> None:
        """Try again at once what failed: the network came back, or the wish is new."""
        self._retrying.hurry()

    def tell(self, slot: str, news: machine.SlotEvent) -> None:
        """Raise an event in a slot's machine and do what follows from it."""
        self._events.append((slot, news))
        self._drain()

    def fetch_anew(self, slot: str) -> None:
        """Look again for what a slot is fetching: there is another place to find it."""
        phase = self._states[slot].phase
        if isinstance(phase, Fetching):
            self._fetch(slot, phase.wanted)
            self._drain()

    def go_on(self) -> None:
        """Try again what a full disk kept from being remembered or reported."""
        self._resume_rest()
        self._drain()
        for slot in sorted(self._states):
            for outcome in self._states[slot].unreported:
                self._report(slot, outcome)
        self._drain()

    def stop(self) -> None:
        """Note in every slot that the agent stops on purpose."""
        for slot in sorted(self._states):
            state, _ = machine.step(self._states[slot], machine.Stopping())
            if state != self._states[slot]:
                journal.save(self._disk, slot, state)
                self._states[slot] = state

    def manifest_arrived(self, assigned: Assigned, content: bytes) -> None:
        """Keep a verified manifest, and fetch what it names where it is wanted."""
        try:
            self._store.put(assigned.digest, content)
        except AgentError as why:
            self.manifest_failed(assigned, why)
            return
        for slot in self._fetching(assigned):
            self._fetch(slot, assigned, refreshed=True)
        self._drain()

    def manifest_failed(self, assigned: Assigned, why: AgentError) -> None:
        """Note that an assigned manifest cannot be had now; newer metadata may list it."""
        for slot in self._fetching(assigned):
            self._fail_fetch(slot, assigned, why, retryable=True)
        self._drain()

    def checked(self, slot: str, digest: str, answer: CheckAnswer | AgentError) -> None:
        """Take the answer of the child that loaded a candidate."""
        match answer:
            case CheckAnswer() if answer.held:
                self.tell(slot, machine.Checked(digest, answer.findings))
            case CheckAnswer():
                code = answer.code or "check"
                self.tell(slot, machine.CheckFailed(digest, answer.findings, code=code))
            case AgentError():
                self._admitting.discard_rotten(digest, answer)
                failed = machine.CheckFailed(
                    digest,
                    (_not_loaded(answer),),
                    code=answer.code,
                    retryable=isinstance(answer, OUTSIDE),
                    undecided=answer.code in UNDECIDED,
                )
                self.tell(slot, failed)
            case _:
                assert_never(answer)

    def report(self) -> dict[str, SlotReport]:
        """Return what every slot really runs."""
        return {slot: describe_slot(state) for slot, state in sorted(self._states.items())}

    def _resume_rest(self) -> None:
        """Go on in the slots where the last life ended; what a full disk refuses waits."""
        waiting, self._unresumed = self._unresumed, []
        refused: StoreError | None = None
        for slot in waiting:
            state, effects = machine.resume(self._states[slot])
            try:
                self._adopt(slot, state)
            except StoreError as why:  # an attempt that is not counted does not begin
                refused = why
                self._unresumed.append(slot)
                self._serve(slot, self._states[slot].current, None)
                continue
            try:
                self._perform(slot, effects)
            except StoreError as why:
                refused = why
        if refused is not None:
            raise refused

    def _drain(self) -> None:
        if self._performing:
            return
        self._performing = True
        try:
            while self._events:
                slot, news = self._events[0]
                before = self._states.get(slot, machine.State())
                state, effects = machine.step(before, news)
                self._adopt(slot, state)  # a full disk keeps the event for the next try
                self._events.popleft()
                self._retrying.count(slot, news, time.monotonic())
                if state.current != before.current and state.current is not None:
                    self._around.committed(slot, state.current.digest)
                self._perform(slot, effects)
        finally:
            self._performing = False

    def _adopt(self, slot: str, state: machine.State) -> None:
        before = self._states.get(slot)
        if state == before or (before is None and state == machine.State()):
            return
        journal.save(self._disk, slot, state)
        self._states[slot] = state
        candidate = state.candidate.digest[:16] if state.candidate else None
        current = state.current.digest[:16] if state.current else None
        log.info(
            event("slot", slot=slot, phase=state.phase_name, current=current, candidate=candidate)
        )
        if not isinstance(state.phase, Probing):
            self._around.stop_proving(slot)
        if not isinstance(state.phase, Fetching):
            self._around.stop_download(slot)
        self._around.changed()

    def _perform(self, slot: str, effects: tuple[machine.Effect, ...]) -> None:
        refused: StoreError | None = None
        for effect in effects:
            try:
                self._do(slot, effect)
            except StoreError as why:
                refused = refused or why
        if refused is not None:
            raise refused

    def _do(self, slot: str, effect: machine.Effect) -> None:
        match effect:
            case machine.Fetch(wanted):
                self._fetch(slot, wanted)
            case machine.Check(wanted):
                self._around.check(slot, wanted.digest)
            case machine.Serve(release, beside):
                self._serve(slot, release, beside)
            case machine.Prove():
                self._around.prove(slot, effect)
            case machine.Report(outcome):
                self._report(slot, outcome)
            case machine.Forget():
                self._evict()
            case _:
                assert_never(effect)

    def _fetch(self, slot: str, wanted: Assigned, *, refreshed: bool = False) -> None:
        if not (self._store.has(wanted.digest) and self._around.vouched(wanted.digest)):
            self._around.want_manifest(wanted)  # what is stored may be withdrawn by now
            return
        try:
            state = self._states.get(slot, machine.State())
            permitted = self._around.permitted(slot, wanted.digest)
            missing = self._admitting.admit(slot, wanted, state, permitted=permitted)
        except CorruptError as why:
            self._admitting.discard_rotten(wanted.digest, why)
            self._around.want_manifest(wanted)
        except (RuntimeMissingError, StoreError) as why:
            self._fail_fetch(slot, wanted, why, retryable=True)
        except AgentError as why:
            if isinstance(why, RollbackError) and not refreshed:
                self._around.want_manifest(wanted)  # newer metadata may permit it
            else:
                self._fail_fetch(slot, wanted, why, retryable=False)
        else:
            if missing:
                self._around.download(slot, wanted.digest, missing)
            else:
                self._events.append((slot, machine.Fetched(wanted.digest)))

    def _fail_fetch(self, slot: str, wanted: Assigned, why: AgentError, *, retryable: bool) -> None:
        log.warning(event("fetch-failed", slot=slot, code=why.code, why=why))
        self._events.append(
            (slot, machine.FetchFailed(wanted.digest, why.code, str(why)[:500], retryable))
        )

    def _serve(self, slot: str, release: Assigned | None, beside: Assigned | None) -> None:
        proving = self.is_probing(slot)
        try:
            self._around.serve(slot, release, beside)
        except AgentError as why:
            log.warning(event("serve-failed", slot=slot, code=why.code, why=why))
            if release is not None:
                self._admitting.discard_rotten(release.digest, why)
            if release is not None and proving:
                outside = isinstance(why, OUTSIDE)
                failed = machine.Failed(release.digest, (_not_loaded(why),), retryable=outside)
                self._events.append((slot, failed))
            elif release is not None:
                self._events.append(
                    (slot, machine.Broken(release.digest, why.code, str(why)[:500]))
                )

    def _report(self, slot: str, outcome: machine.Outcome) -> None:
        self._around.report(slot, outcome)
        self._events.append((slot, machine.Reported(outcome.event_id)))

    def _evict(self) -> None:
        for name in self._store.evict(self.kept):
            log.info(event("evicted", file=name[:16]))
        for name in engines.evict(self._disk, self._store.has):
            log.info(event("evicted", engine=name))

    def _fetching(self, assigned: Assigned) -> list[str]:
        return [
            slot
            for slot, state in self._states.items()
            if isinstance(state.phase, Fetching) and state.phase.wanted == assigned
        ]


def _not_loaded(why: AgentError) -> Finding:
    return Finding(check="load", held=False, why=str(why)[:500])
