"""Updates that come in a file: taken from the spool, verified and obeyed like any other.

    look ─▶ a child reads the bundle ─▶ the trust child verifies its metadata ─▶ its
    assignment is judged and persisted ─▶ the machine runs ─▶ the outcome is noted

Rule 1: metadata goes through the same child as over the air, the assignment through the
        same belief, a release through the same admission, check and probation. A bundle
        is only another place where bytes come from.
Rule 2: what a slot needs is copied from the bundle into the store by a child, after the
        release was admitted; what is not in it is asked for over the network.
Rule 3: expiry is judged by the best time there is, and a refusal says which that was.
Rule 4: one bundle at a time. It is over when each slot that it concerns runs what was
        wanted, or has given up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from agent.contract.manifest import Artifact
from agent.contract.messages import Assigned, Assignment
from agent.daemon import spool
from agent.daemon.agenda import Agenda
from agent.daemon.host import event, log
from agent.disk import Disk
from agent.errors import AgentError, ConfigError, ExpiredError, ModelError, error_named
from agent.refusals import BadBundleError, ForeignBundleError
from agent.update import machine, trust
from agent.update.slot import Fetching, Idle
from agent.update.store import Store
from agent.worker.jobs import Packed, UnbundleAnswer, UnpackAnswer

LOOK_SECONDS: Final = 2.0
_APPOINTMENT: Final = "bundle"
_MODELS: Final = "models/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What this room needs of the others.

    Attributes:
        read: Starts the child that reads a bundle: (number, device). May raise.
        unpack: Starts the child that copies files of it into the store. May raise.
        verify: Has metadata verified: (files, wanted targets, what then); False while
            something else is being verified.
        obey: Judges and persists an assignment; raises where it is not believed.
        believed_time: Time as this device believes it, ms since 1970, and by what.
        hurry: Forgets the patience that failures taught.
        fetch_anew: Has a slot look again for what it is fetching.
        states: Of every slot.
        slots: Those that the configuration names.
        download: Fetches what is still missing: (slot, digest, artifacts).
        take_at_hand: The same where most of it lies in the store now.
        alarm: Something is refused: (code, sentence).
        monotonic: Seconds.

    """

    read: Callable[[str], None]
    unpack: Callable[[str, tuple[Packed, ...]], None]
    verify: Callable[
        [dict[str, bytes], tuple[str, ...], Callable[[trust.Refreshed | AgentError], None]], bool
    ]
    obey: Callable[[bytes], Assignment]
    believed_time: Callable[[], tuple[int, str]]
    hurry: Callable[[], None]
    fetch_anew: Callable[[str], None]
    states: Callable[[], Mapping[str, machine.State]]
    slots: tuple[str, ...]
    download: Callable[[str, str, tuple[Artifact, ...]], None]
    take_at_hand: Callable[[str, str, tuple[Artifact, ...]], None]
    alarm: Callable[[str, str], None]
    monotonic: Callable[[], float]


@dataclass(slots=True, kw_only=True)
class _Carried:
    number: str
    content: UnbundleAnswer | None = None
    awaited: dict[str, Assigned] = field(default_factory=dict)
    ends: dict[str, machine.Outcome] = field(default_factory=dict)
    unpacking: tuple[str, str, tuple[Artifact, ...]] | None = None
    waiting: dict[str, tuple[str, tuple[Artifact, ...]]] = field(default_factory=dict)


class Bundles:
    """The bundle that is being applied, if any."""

    def __init__(
        self, disk: Disk, store: Store, device: str, agenda: Agenda, around: Surroundings
    ) -> None:
        self._disk = disk
        self._store = store
        self._device = device
        self._agenda = agenda
        self._around = around
        self._carried: _Carried | None = None

    def start(self) -> None:
        """Begin to look for bundles; what ran before runs again by now."""
        self._agenda.at("bundles", self._around.monotonic(), self.look)
        spool.sweep(self._disk)

    def look(self) -> None:
        """Begin with the oldest bundle that waits, and come back later."""
        self._agenda.at("bundles", self._around.monotonic() + LOOK_SECONDS, self.look)
        if self._carried is not None:
            return
        number = next(iter(spool.waiting(self._disk)), None)
        if number is None:
            return
        told = spool.outcome_of(self._disk, number)
        if told is not None:  # a cut came between its outcome and its removal
            spool.conclude(self._disk, number, told)
            return
        log.info(event("bundle", number=number))
        self._carried = _Carried(number=number)
        try:
            self._around.read(number)
        except AgentError as why:
            self._carried = None
            raise why from None

    def opened(self, number: str, answer: UnbundleAnswer | AgentError) -> None:
        """Take the answer of the child that read a bundle."""
        carried = self._carried
        if carried is None or carried.number != number:
            return
        match answer:
            case UnbundleAnswer(assignment=None):
                why = f"the bundle is for {answer.devices} other devices, this is {self._device}"
                self._refuse(ForeignBundleError(why))
            case UnbundleAnswer():
                carried.content = answer
                self._verify()
            case AgentError():
                self._refuse(answer)

    def download(self, slot: str, digest: str, missing: tuple[Artifact, ...]) -> None:
        """Have what a slot's release lacks brought into the store, from a bundle if it has it."""
        carried = self._carried
        if carried is None or not self._held(missing):
            self._around.download(slot, digest, missing)
            return
        carried.waiting[slot] = (digest, missing)
        self._unpack_next(carried)

    def stop_download(self, slot: str) -> None:
        """Give up what a slot waits for."""
        if self._carried is not None:
            self._carried.waiting.pop(slot, None)

    def unpacked(self, number: str, answer: UnpackAnswer | AgentError) -> None:
        """Take the answer of the child that copied files; what is missing is fetched now."""
        carried = self._carried
        if carried is None or carried.number != number or carried.unpacking is None:
            return
        (slot, digest, missing), carried.unpacking = carried.unpacking, None
        if isinstance(answer, UnpackAnswer):
            for name, seal in answer.sealed:
                self._store.seals.keep(name, seal)
            log.info(event("unpacked", slot=slot, files=len(answer.sealed)))
        else:
            log.warning(event("not-unpacked", slot=slot, code=answer.code, why=answer))
        if carried.waiting.get(slot) == (digest, missing):
            del carried.waiting[slot]
            self._around.take_at_hand(slot, digest, missing)
        self._unpack_next(carried)

    def ended(self, slot: str, outcome: machine.Outcome) -> None:
        """Note how a try ended, for the sentence about the bundle."""
        if self._carried is not None:
            self._carried.ends[slot] = outcome

    def changed(self) -> None:
        """Look whether the bundle is done with, after what is being done just now."""
        if self._carried is not None and self._carried.awaited:
            self._agenda.at(_APPOINTMENT, self._around.monotonic(), self._settle)

    def _verify(self) -> None:
        carried = self._carried
        if carried is None or carried.content is None:
            return
        files = carried.content.metadata
        wanted = tuple(name for name in files if name.startswith(_MODELS))
        if not self._around.verify(files, wanted, self._verified):
            self._agenda.at(_APPOINTMENT, self._around.monotonic() + 0.5, self._verify)

    def _verified(self, news: trust.Refreshed | AgentError) -> None:
        carried = self._carried
        if carried is None or carried.content is None:
            return
        assignment = carried.content.assignment or b""
        if isinstance(news, AgentError):
            self._refuse(news, alarmed=False)  # who refused it raised the alarm
            return
        names = dict.fromkeys(carried.content.metadata, b"")  # its bytes are not needed again
        carried.content = replace(carried.content, metadata=names)
        try:
            for refusal in news.refused.values():
                raise trust.error_of(refusal)
            for manifest in news.targets.values():
                self._store.put(sha256(manifest).hexdigest(), manifest)
            self._around.hurry()
            said = self._around.obey(assignment)
            carried.awaited = self._concerned(said)
        except AgentError as why:
            self._refuse(why)
            return
        for slot in carried.awaited:
            state = self._around.states().get(slot)
            if state is not None and isinstance(state.phase, Fetching):
                self._around.fetch_anew(slot)  # it looked before the bundle was read
        self.changed()

    def _concerned(self, said: Assignment) -> dict[str, Assigned]:
        """Return what the outcome depends on: slots whose release this bundle carries.

        Raises:
            BadBundleError: It carries no release that it assigns.
            ConfigError: There is no such slot in the configuration of this device.

        """
        content = self._carried.content if self._carried else None
        metadata = content.metadata if content else {}
        carried = {slot: a for slot, a in said.slots.items() if a.target in metadata}
        if not carried:
            raise BadBundleError("the bundle holds no release that it assigns to this device")
        concerned = {slot: a for slot, a in carried.items() if slot in self._around.slots}
        if not concerned:
            named = ", ".join(sorted(carried))
            raise ConfigError(f"the bundle is for {named}, which has no pipeline on this device")
        return concerned

    def _settle(self) -> None:
        carried = self._carried
        if carried is None or not carried.awaited:
            return
        states = self._around.states()
        for slot, wanted in carried.awaited.items():
            state = states.get(slot, machine.State())
            if not isinstance(state.phase, Idle):
                return
            if state.current is None or state.current.digest != wanted.digest:
                self._conclude(_not_installed(slot, wanted, state, carried.ends.get(slot)))
                return
        runs = ", ".join(f"{slot} runs {a.target}" for slot, a in sorted(carried.awaited.items()))
        self._conclude(spool.BundleOutcome(code="", why=runs[:500], exit_status=0))

    def _refuse(self, why: AgentError, *, alarmed: bool = True) -> None:
        sentence = str(why)
        if isinstance(why, ExpiredError):
            sentence += f"; {describe_time(*self._around.believed_time())}"
        log.warning(event("bundle-refused", code=why.code, why=sentence))
        if alarmed:
            self._around.alarm(why.code, f"bundle: {sentence}")
        self._conclude(
            spool.BundleOutcome(code=why.code, why=sentence[:500], exit_status=why.exit_status)
        )

    def _conclude(self, outcome: spool.BundleOutcome) -> None:
        carried, self._carried = self._carried, None
        self._agenda.cancel(_APPOINTMENT)
        if carried is None:
            return
        try:
            spool.conclude(self._disk, carried.number, outcome)
        finally:
            for slot, (digest, missing) in carried.waiting.items():
                self._around.download(slot, digest, missing)
        log.info(event("bundle-done", number=carried.number, code=outcome.code, why=outcome.why))
        self._agenda.at("bundles", self._around.monotonic(), self.look)

    def _unpack_next(self, carried: _Carried) -> None:
        if carried.unpacking is not None or not carried.waiting:
            return
        slot, (digest, missing) = next(iter(carried.waiting.items()))
        carried.unpacking = (slot, digest, missing)
        try:
            self._around.unpack(carried.number, self._held(missing))
        except AgentError as why:
            self.unpacked(carried.number, why)

    def _held(self, missing: tuple[Artifact, ...]) -> tuple[Packed, ...]:
        """Return what the bundle has of some artifacts: themselves, or else sources of them."""
        content = self._carried.content if self._carried else None
        places = content.files if content else {}
        held: dict[str, Packed] = {}
        for artifact in missing:
            whole = (artifact,) if artifact.digest in places else artifact.sources
            for file in whole:
                place = places.get(file.digest)
                if place is not None and not self._store.has(file.digest):
                    held[file.digest] = Packed(digest=file.digest, at=place[0], size=place[1])
        return tuple(held.values())


def describe_time(now_ms: int, by: str) -> str:
    """Return what time is believed, for a person.

    >>> describe_time(1772366400000, "the system clock")
    'this device believes it is 2026-03-01 12:00 UTC, by the system clock'
    """
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"this device believes it is {now:%Y-%m-%d %H:%M} UTC, by {by}"


def _not_installed(
    slot: str, wanted: Assigned, state: machine.State, end: machine.Outcome | None
) -> spool.BundleOutcome:
    """Return why a slot does not run what the bundle wants; the machine has reported it."""
    if end is not None and end.release == wanted.digest:
        code, why = end.code, end.why + ("; it is tried again by itself" if end.retryable else "")
    else:  # it was told before, and is not told twice
        told = state.wish.told if state.wish else ()
        code, why = told[-1] if told else "denied", "it failed on this device before"
    known = error_named(code, "")
    return spool.BundleOutcome(
        code=code,
        why=f"{slot} does not run {wanted.target}: {why}"[:500],
        exit_status=(known if known.code == code else ModelError()).exit_status,
    )
