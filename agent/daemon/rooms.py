"""The rooms of the agent, joined: every callable that one room is handed by another.

Rule 1: rooms know each other only through what they are given here, and in ``answering``,
        ``ways``, ``rounds`` and ``releases``, which each join those of one errand.
Rule 2: state is sent when it differs from what was sent last, and after each connect.
Rule 3: nothing is wished of a slot before the runtimes were probed and what ran before
        runs again.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.config import Config
from agent.contract.messages import Assigned, FreshRequest, MetaRequest
from agent.daemon import apps, certifying, desired, finding, probing, rounds, ways
from agent.daemon.agenda import Agenda
from agent.daemon.answering import Answering
from agent.daemon.children import Children
from agent.daemon.host import event, log
from agent.daemon.moments import awake_seconds, wall_ms
from agent.daemon.opening import Opened, open_link
from agent.daemon.releases import Releases
from agent.daemon.round_models import open_round_models
from agent.daemon.state import StateTeller, conditions_of, inventory_of, reported_of
from agent.daemon.ways import Ways
from agent.errors import AgentError, StoreError
from agent.identity.clock import TrustedClock
from agent.learn.offer import Conditions
from agent.link.inbox import Inbox, Lane
from agent.observe.resources import Machine, describe_machine
from agent.update import machine
from agent.update.store import Store
from agent.worker.jobs import (
    AppCheckAnswer,
    CheckAnswer,
    LearnAnswer,
    ProbeAnswer,
    RebuildAnswer,
    UnbundleAnswer,
    UnpackAnswer,
)
from agent.worker.start import Finished

if TYPE_CHECKING:
    from agent.daemon.owner.announcing import Wish

COUNT_AGAIN_SECONDS = 5.0


class Rooms:
    """All rooms of one agent."""

    def __init__(self, config: Config, opened: Opened) -> None:
        self.config = config
        self.inbox = Inbox()
        self.agenda = Agenda()
        self._device = opened.key.device
        self._life = opened.life
        self._uncounted: StoreError | None = None
        self._epoch = 0
        self._acknowledged: dict[str, int] = {}
        self._probed: ProbeAnswer | None = None
        self.machine: Machine = describe_machine(config.agent.hardware)
        self.children = Children(
            config,
            hardware=self.machine.hardware,
            deliver=lambda finished: self.inbox.put(Lane.CONTROL, finished),
        )
        self.store = Store(opened.disk)
        self.broker, self.reporting = open_link(config, opened, self.inbox, self.agenda)
        self._state = StateTeller(self.reporting.state, wall_ms)
        self.answering = Answering(
            config,
            self.store,
            self.inbox,
            device=self._device,
            hardware=self.machine.hardware,
            reporting=self.reporting,
            disk=opened.disk,
            agenda=self.agenda,
            wishes=self._wishes,
        )
        self.inference = self.answering.inference
        self.ways = Ways(
            config,
            self.store,
            self.agenda,
            self.inbox,
            self._around_ways(),
            signing=opened.key.signing,
            broker=self.broker,
            reporting=self.reporting,
            children=self.children,
        )
        self.releases = Releases(
            config,
            opened.disk,
            self.store,
            self.agenda,
            device=self._device,
            hardware=self.machine.hardware,
            children=self.children,
            reporting=self.reporting,
            inference=self.inference,
            ways=self.ways,
            desired=lambda: self.desired,
            tell_state=self.tell_state,
        )
        self.probing = probing.Probing(
            self.children.samples,
            self.agenda,
            probing.Surroundings(
                start=self.children.probe,
                found=self._resume,
                alarm=self.reporting.alarm,
                monotonic=time.monotonic,
            ),
            config.runtime,
        )
        self.finding = self._open_finding(opened)
        self.certifying = certifying.Certifying(
            opened.disk,
            self.agenda,
            certifying.Surroundings(
                ask_again=self._ask_fresh,
                alarm=self.reporting.alarm,
                monotonic=time.monotonic,
            ),
            jitter_seconds=config.link.state_jitter_seconds,
        )
        self.desired = self._open_desired(opened)
        self.round_models = open_round_models(
            config,
            opened.disk,
            self.agenda,
            ways=self.ways,
            broker=self.broker,
            reporting=self.reporting,
        )
        joined = self._open_rounds(opened)
        self.learning, self.apps = joined.learning, joined.apps

    def start(self) -> None:
        """Start what needs no answer yet: the connections, and the probe of the runtimes."""
        self.probing.begin()
        self.finding.listed(self.desired.endpoints)
        self._begin_link()
        self.answering.start()

    def _begin_link(self) -> None:
        """Connect once this life is counted: no other one may stamp with its number.

        A full or failing disk keeps it from being counted. Then nothing is said to anybody,
        inference goes on, and it is tried again.
        """
        try:
            self._life.count()
        except StoreError as why:
            log.error(event("life-not-counted", code=why.code, why=why))
            self._uncounted = why
            self.agenda.at("link", time.monotonic() + COUNT_AGAIN_SECONDS, self._begin_link)
            return
        self.broker.start()
        if self._uncounted is not None:
            told = f"started without the fleet, the disk did not take the boot: {self._uncounted}"
            self.reporting.alarm(self._uncounted.code, told)

    def worker_finished(self, finished: Finished) -> None:
        """Hand a child's answer to who asked for it."""
        self.children.ended(finished)
        match finished.kind, finished.answer:
            case "refresh", _:
                self.desired.refreshed(finished)
            case "check", CheckAnswer() | AgentError() as answer:
                self.releases.measures.answered(finished.ticket, answer)
            case "probe", ProbeAnswer() | AgentError() as answer:
                self.probing.answered(finished.ticket, answer)
            case "learn" | "app", LearnAnswer() | AgentError() as answer:
                self.learning.finished(answer)
            case "app-check", AppCheckAnswer() | AgentError() as answer:
                self.apps.checked(finished.ticket, answer)
            case "unbundle", UnbundleAnswer() | AgentError() as answer:
                self.releases.bundles.opened(finished.ticket, answer)
            case "unpack", UnpackAnswer() | AgentError() as answer:
                self.releases.bundles.unpacked(finished.ticket, answer)
            case "rebuild", RebuildAnswer() | AgentError() as answer:
                self.ways.rebuilt(finished.ticket, answer)
            case _:
                log.error(event("unexpected-answer", kind=finished.kind))

    def connected(self, epoch: int) -> None:
        """Say who and what we are, and ask what we missed."""
        self._epoch = epoch
        self.reporting.online(epoch)
        self.tell_everything()
        self.learning.connected()
        self.try_again()

    def tell_everything(self) -> None:
        """Send state and every waiting report anew."""
        self._state.forget()
        self._acknowledged = self.reporting.outbox.acknowledged()
        self.tell_state()
        self.reporting.connected()
        self.desired.connected()

    def tell_state(self) -> None:
        """Send inventory and reported state where they differ from what was sent last."""
        if (probed := self.answering.counted(self._probed)) is not None:
            learn, slots = self.config.learn, self.inference.slots
            pythons = self.apps.environments
            self._state.tell(
                inventory_of(learn, self.machine, probed, slots=slots, environments=pythons)
            )
            self._state.tell(
                reported_of(
                    self.desired.accepted,
                    self.releases.updating.report(),
                    versions=self.desired.versions,
                    endpoint=self.finding.report(),
                    acknowledged=self._acknowledged,
                )
            )

    def settle_again(self) -> None:
        """Raise the standing wishes again, and what a full disk held up."""
        if self._probed is None:
            return
        self.releases.updating.go_on()
        self.desired.raise_wishes()
        self.reporting.outbox.flush()

    def try_again(self) -> None:
        """Raise the standing wishes without patience: what kept them back may be gone."""
        self.releases.updating.hurry()
        self.settle_again()

    def report_windows(self) -> None:
        """Report what every release did since the last time, and what people labelled."""
        self.answering.report_windows()
        self.tell_state()

    def wind_down(self) -> None:
        """End what works, and report what it did last."""
        try:
            self.releases.updating.stop()
        finally:
            self.children.stop()
            self.answering.stop()
        self.report_windows()
        self.reporting.send_due()

    @property
    def has_unsent(self) -> bool:
        """Whether staying a moment longer may get reports acknowledged."""
        return self.broker.connected and self.reporting.outbox.totals().pending > 0

    def close(self, why: str) -> None:
        """Say goodbye; what is known is on the medium after."""
        try:
            self.reporting.outbox.flush()
        finally:
            self.broker.stop(self.reporting.signer.presence("offline", self._epoch, why))

    def _resume(self, probed: ProbeAnswer) -> None:
        self._probed = probed
        runtimes = ",".join(f"{r.library or r.name}-{r.version}" for r in probed.runtimes)
        log.info(event("probed", runtimes=runtimes or "none", labelled=probed.decide))
        if probed.why:
            self.reporting.alarm("probe", probed.why)
        self.releases.resume(probed)
        self.desired.raise_wishes()
        self.tell_state()
        self.releases.bundles.start()
        self.apps.begin()

    def _wish(self, slot: str, assigned: Assigned | None) -> None:
        if self._probed is not None:
            self.releases.wish(slot, assigned)

    def _wishes(self) -> "Mapping[str, Wish]":
        from agent.daemon.owner.announcing import wishes_of  # noqa: PLC0415 -- few devices announce

        return wishes_of(self.desired.accepted, self.releases.updating.report(), self.store)

    def _conditions(self, busy_with: str | None) -> Conditions:
        slot = self.config.labelled_slot
        return conditions_of(
            self.config.learn,
            device=self._device,
            probed=self.answering.counted(self._probed),
            slot=self.releases.updating.states.get(slot) if slot else None,
            busy_with=busy_with,
            hot=self.answering.health.why_busy,
            lacking=self.apps.lacking,
            unfetched=self.apps.unfetched,
        )

    def _ask_fresh(self) -> None:
        self.desired.ask_fresh()

    def _ask(self, request: MetaRequest | FreshRequest) -> bool:
        if isinstance(request, FreshRequest):
            request = self.certifying.complete(request)
        return self.reporting.ask(request)

    def _open_desired(self, opened: Opened) -> desired.Desired:
        return desired.Desired(
            opened.disk,
            device=self._device,
            fleet=opened.credentials.fleet,
            state=opened.trust,
            clock=TrustedClock(opened.disk, awake_seconds, time.time),
            agenda=self.agenda,
            answer_seconds=self.config.link.answer_seconds,
            fresh_seconds=self.config.link.fresh_seconds,
            jitter_seconds=self.config.link.state_jitter_seconds,
            around=desired.Surroundings(
                ask=self._ask,
                said=self.certifying.said,
                start_refresh=self.children.refresh,
                accepted=self.tell_state,
                time_known=self.try_again,
                answered=self.finding.answered,
                trusted=self._trusted,
                wish=self._wish,
                manifest=self._manifest_arrived,
                manifest_failed=self._manifest_failed,
                alarm=self.reporting.alarm,
                monotonic=time.monotonic,
            ),
        )

    def _open_rounds(self, opened: Opened) -> rounds.Rounds:
        return rounds.Rounds(
            self.config,
            opened.disk,
            self.agenda,
            models=self.round_models,
            reporting=self.reporting,
            children=self.children,
            desired=self.desired,
            conditions=self._conditions,
            changed=self.tell_state,
        )

    def _open_finding(self, opened: Opened) -> finding.Finding:
        link = self.config.link
        return finding.Finding(
            opened.disk,
            self.agenda,
            finding.Surroundings(
                redirect=lambda to, place, at_once: self.broker.redirect(
                    to.url, to.ca, place, at_once=at_once
                ),
                changed=self.tell_state,
                alarm=self.reporting.alarm,
            ),
            fleet=opened.credentials.fleet,
            home=opened.home,
            patience=finding.Patience(
                proof=link.endpoint_seconds,
                again=link.endpoint_retry_seconds,
                jitter=link.state_jitter_seconds,
            ),
        )

    def _manifest_arrived(self, assigned: Assigned, content: bytes) -> None:
        if apps.is_app(assigned):
            self.apps.arrived(assigned, content)
        else:
            self.releases.updating.manifest_arrived(assigned, content)

    def _manifest_failed(self, assigned: Assigned, why: AgentError) -> None:
        if apps.is_app(assigned):
            self.apps.failed(assigned, why)
        else:
            self.releases.updating.manifest_failed(assigned, why)

    def _trusted(self) -> None:
        self.finding.listed(self.desired.endpoints)
        self.tell_state()

    def _tell(self, slot: str, news: machine.SlotEvent) -> None:
        self.releases.updating.tell(slot, news)

    def _around_ways(self) -> ways.Surroundings:
        return ways.Surroundings(
            authority=lambda: self.desired.authority,
            signed_ms=lambda: self.desired.signed_ms,
            keys=lambda: self.desired.keys,
            kept=lambda: self.releases.updating.kept,
            tell=self._tell,
        )
