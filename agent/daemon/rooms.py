"""The rooms of the agent, joined: every callable that one room is handed by another.

Rule 1: rooms know each other only through what they are given here.
Rule 2: state is sent when it differs from what was sent last, and after each connect.
Rule 3: nothing is wished of a slot before the runtimes were probed and what ran before
        runs again.
"""

import time

from agent.config import Config
from agent.contract.codec import encode
from agent.contract.manifest import Artifact, Source
from agent.contract.messages import Assigned, FreshRequest, MetaRequest, Telemetry
from agent.contract.sealing import unwrap_key
from agent.contract.sources import full_source
from agent.daemon import (
    bundles,
    certifying,
    desired,
    evaluating,
    finding,
    judging,
    learning,
    listening,
    transfers,
    updating,
)
from agent.daemon.agenda import Agenda
from agent.daemon.children import Children
from agent.daemon.host import event, log
from agent.daemon.moments import awake_seconds, moment, wall_ms
from agent.daemon.opening import Opened, open_link, open_local
from agent.daemon.seeding import Seeding
from agent.daemon.serving import Inference, Predicted, SourceEnded
from agent.daemon.state import StateTeller, conditions_of, inventory_of, reported_of
from agent.daemon.ways import open_budget, open_downloading
from agent.errors import AgentError, StoreError, is_error
from agent.identity.clock import TrustedClock
from agent.infer.pipeline import Broken
from agent.learn.offer import Conditions
from agent.link.fetch import FetchFailed
from agent.link.inbox import Inbox, Lane
from agent.link.ranges import Chunk
from agent.observe.resources import Machine, describe_machine, rss_bytes
from agent.refusals import NoContentKeyError
from agent.update import machine
from agent.update.store import Store
from agent.worker.jobs import (
    CheckAnswer,
    LearnAnswer,
    ProbeAnswer,
    RebuildAnswer,
    UnbundleAnswer,
    UnpackAnswer,
)
from agent.worker.start import Finished

PROBE_AGAIN_SECONDS = 60.0
COUNT_AGAIN_SECONDS = 5.0


class Rooms:
    """All rooms of one agent."""

    def __init__(self, config: Config, opened: Opened) -> None:
        self.config = config
        self.inbox = Inbox()
        self.agenda = Agenda()
        self._disk = opened.disk
        self._device = opened.key.device
        self._signing = opened.key.signing
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
        self.inference = Inference(
            config.pipeline,
            self.store,
            hardware=self.machine.hardware,
            published=self._published(),
            put=self._put,
            wall_ms=wall_ms,
        )
        self.local = open_local(config, self._device, self.inference.push)
        self.measures = judging.Measures(self._start_check)
        self.evaluating = evaluating.Evaluating(
            self._device,
            self.measures,
            evaluating.Surroundings(
                report=self.reporting.event, alarm=self.reporting.alarm, moment=moment
            ),
        )
        self.judging = judging.Judging(
            config.update, self.measures, self.agenda, self._around_judging()
        )
        self.budget = open_budget(config, opened.disk, lambda: self.desired.signed_ms)
        self.listening = listening.Listening(
            self.agenda,
            listening.Surroundings(
                ask=self.reporting.ask,
                listen=self.broker.listen,
                unlisten=self.broker.unlisten,
                monotonic=time.monotonic,
                paced=lambda: self.budget.paced,
            ),
        )
        self.downloading = open_downloading(
            config.link,
            self.agenda,
            self.inbox,
            broker=self.broker,
            reporting=self.reporting,
            listening=self.listening,
            authority=lambda: self.desired.authority,
        )
        self.transfers = transfers.Transfers(
            opened.disk,
            self.agenda,
            self._around_transfers(),
            stall_seconds=config.link.stall_seconds,
            seeding=Seeding(self.store, lambda: self.updating.kept),
            budget=self.budget,
        )
        self.updating = self._open_updating()
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
        self.bundles = bundles.Bundles(
            opened.disk, self.store, self._device, self.agenda, self._around_bundles()
        )
        self.learning = learning.Learning(opened.disk, self._around_learning())

    def start(self) -> None:
        """Start what needs no answer yet: the connections, and the probe of the runtimes."""
        self.probe()
        self.finding.listed(self.desired.endpoints)
        self._begin_link()
        if self.local is not None:
            self.local.start()

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

    def probe(self) -> None:
        """Find out, in a child, what this device can run; what ran before runs again after."""
        try:
            self.children.probe()
        except AgentError as why:
            self._not_probed(why)

    def _not_probed(self, why: AgentError) -> None:
        self.reporting.alarm(why.code, f"runtimes cannot be probed: {why}")
        self.agenda.at("probe", time.monotonic() + PROBE_AGAIN_SECONDS, self.probe)

    def worker_finished(self, finished: Finished) -> None:
        """Hand a child's answer to who asked for it."""
        self.children.ended(finished)
        match finished.kind, finished.answer:
            case "refresh", _:
                self.desired.refreshed(finished)
            case "check", CheckAnswer() | AgentError() as answer:
                self.measures.answered(finished.ticket, answer)
            case "probe", ProbeAnswer() as answer:
                self._resume(answer)
            case "probe", AgentError() as why:
                self._not_probed(why)
            case "learn", LearnAnswer() | AgentError() as answer:
                self.learning.finished(answer)
            case "unbundle", UnbundleAnswer() | AgentError() as answer:
                self.bundles.opened(finished.ticket, answer)
            case "unpack", UnpackAnswer() | AgentError() as answer:
                self.bundles.unpacked(finished.ticket, answer)
            case "rebuild", RebuildAnswer() | AgentError() as answer:
                if isinstance(answer, RebuildAnswer):
                    self.store.seals.keep(finished.ticket, answer.seal)
                self.transfers.rebuilt(finished.ticket, answer)
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
        if self._probed is not None:
            learn, slots = self.config.learn, self.inference.slots
            self._state.tell(inventory_of(learn, self.machine, self._probed, slots=slots))
            self._state.tell(
                reported_of(
                    self.desired.accepted,
                    self.updating.report(),
                    versions=self.desired.versions,
                    endpoint=self.finding.report(),
                    acknowledged=self._acknowledged,
                )
            )

    def settle_again(self) -> None:
        """Raise the standing wishes again, and what a full disk held up."""
        if self._probed is None:
            return
        self.updating.go_on()
        self.desired.raise_wishes()
        self.reporting.outbox.flush()

    def try_again(self) -> None:
        """Raise the standing wishes without patience: what kept them back may be gone."""
        self.updating.hurry()
        self.settle_again()

    def report_windows(self) -> None:
        """Report what every release did since the last time."""
        windows = self.inference.close_windows()
        if not windows:
            return
        totals = self.reporting.outbox.totals()
        self.reporting.telemetry(
            Telemetry(
                ts=wall_ms(),
                up=int(time.monotonic() * 1000),
                windows=windows,
                rss_bytes=rss_bytes(),
                outbox_bytes=totals.size_bytes,
                dropped_reports=totals.dropped,
            )
        )

    def predicted(self, item: Predicted) -> None:
        """Publish one answer for integrations: to the fleet, to the owner, or to both."""
        said, local = item.message(wall_ms()), self.config.local_broker
        if self.config.pipeline[item.slot].publish_predictions:
            self.reporting.prediction(said)
        if self.local is not None and local is not None and local.prefix:
            topic = f"{local.prefix}/{self._device}/{item.slot}/prediction"
            self.local.publish(topic, encode(said))

    def downloaded(self, item: Chunk) -> None:
        """Take a chunk that came over HTTP."""
        piece = self.downloading.takes(item)
        if piece is not None:
            self.downloading.judged(piece, good=self.transfers.take(piece))

    def source_ended(self, item: SourceEnded) -> None:
        """Say that a slot gets no more samples."""
        if isinstance(item.end, Broken):
            self.reporting.alarm("source", item.end.why, slot=item.slot)
        else:
            self.reporting.alarm("source-ended", f"{item.slot} has no more samples", slot=item.slot)

    def wind_down(self) -> None:
        """End what works, and report what it did last."""
        try:
            self.updating.stop()
        finally:
            self.children.stop()
            self.inference.stop()
            if self.local is not None:
                self.local.stop()
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

    def _published(self) -> frozenset[str]:
        local = self.config.local_broker
        everywhere = local is not None and bool(local.prefix)
        pipelines = self.config.pipeline.items()
        return frozenset(slot for slot, p in pipelines if everywhere or p.publish_predictions)

    def _put(self, item: Predicted | SourceEnded) -> None:
        self.inbox.put(Lane.LOCAL if isinstance(item, Predicted) else Lane.CONTROL, item)

    def _resume(self, probed: ProbeAnswer) -> None:
        self._probed = probed
        runtimes = ",".join(f"{r.name}-{r.version}" for r in probed.runtimes)
        log.info(event("probed", runtimes=runtimes or "none", labelled=probed.decide))
        if probed.why:
            self.reporting.alarm("probe", probed.why)
        self.children.installed = probed.runtimes
        self.updating.resume(probed.runtimes)
        for slot, state in self.updating.states.items():
            if state.current is not None and slot in self.inference.slots:
                self.evaluating.evaluate(slot, state.current.digest)
        self.desired.raise_wishes()
        self.tell_state()
        self.bundles.start()

    def _wish(self, slot: str, assigned: Assigned | None) -> None:
        if self._probed is None:
            return
        if assigned is None:
            self.updating.end_try(slot)
        elif slot not in self.inference.slots:
            self.reporting.alarm(
                "slot", f"{assigned.target} is assigned to {slot}, which has no pipeline here"
            )
        else:
            self.updating.want(slot, assigned)

    def _start_check(self, digest: str) -> None:
        try:
            labelled = self.store.read_manifest(digest).slot == self.config.labelled_slot
            self.children.check(
                digest,
                labelled=labelled and self.config.learn.evaluate,
                sealed=self.store.seals.fresh(),
            )
        except AgentError as why:
            self.measures.answered(digest, why)

    def _report_outcome(self, slot: str, outcome: machine.Outcome) -> None:
        self.bundles.ended(slot, outcome)
        self.reporting.event(outcome.event(self._device, slot, *moment()))
        if is_error(outcome.code):  # and no verdict of a check or a probation
            self.reporting.alarm(outcome.code, outcome.why, slot=slot)

    def _conditions(self, busy_with: str | None) -> Conditions:
        slot = self.config.labelled_slot
        return conditions_of(
            self.config.learn,
            device=self._device,
            probed=self._probed,
            slot=self.updating.states.get(slot) if slot else None,
            busy_with=busy_with,
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
                manifest=self.updating.manifest_arrived,
                manifest_failed=self.updating.manifest_failed,
                alarm=self.reporting.alarm,
                monotonic=time.monotonic,
            ),
        )

    def _open_updating(self) -> updating.Updating:
        config = self.config
        return updating.Updating(
            self._disk,
            self.store,
            slots=self.inference.slots,
            hardware=self.machine.hardware,
            reserve_bytes=config.update.reserve_bytes,
            quota_bytes=config.store.quota_bytes,
            retry_seconds=config.link.resettle_seconds,
            around=self._around_updating(),
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

    def _trusted(self) -> None:
        self.finding.listed(self.desired.endpoints)
        self.tell_state()

    def _want_manifest(self, assigned: Assigned) -> None:
        self.desired.want_manifest(assigned)

    def _permitted(self, slot: str, digest: str) -> bool:
        return self.desired.permits(slot, digest)

    def _vouched(self, digest: str) -> bool:
        return self.desired.vouches(digest)

    def _tell(self, slot: str, news: machine.SlotEvent) -> None:
        self.updating.tell(slot, news)

    def _around_updating(self) -> updating.Surroundings:
        return updating.Surroundings(
            want_manifest=self._want_manifest,
            permitted=self._permitted,
            vouched=self._vouched,
            download=self._download,
            stop_download=self._stop_download,
            check=self._check,
            serve=self._serve,
            prove=self.judging.begin,
            stop_proving=self.judging.stop,
            report=self._report_outcome,
            committed=self.evaluating.evaluate,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.bundles.changed()
        self.tell_state()

    def _download(self, slot: str, digest: str, missing: tuple[Artifact, ...]) -> None:
        self.bundles.download(slot, digest, missing)

    def _stop_download(self, slot: str) -> None:
        self.bundles.stop_download(slot)
        self.transfers.stop(slot)

    def _around_bundles(self) -> bundles.Surroundings:
        return bundles.Surroundings(
            read=lambda number: self.children.unbundle(number, self._device),
            unpack=self.children.unpack,
            verify=self.desired.verify,
            obey=self.desired.obey,
            believed_time=lambda: self.desired.believed_time,
            hurry=self.updating.hurry,
            fetch_anew=self.updating.fetch_anew,
            states=lambda: self.updating.states,
            slots=self.inference.slots,
            download=self.transfers.begin,
            take_at_hand=self.transfers.take_at_hand,
            alarm=self.reporting.alarm,
            monotonic=time.monotonic,
        )

    def _check(self, slot: str, digest: str) -> None:
        self.measures.ask(
            digest, lambda answer: self.updating.checked(slot, digest, answer), anew=True
        )

    def _serve(self, slot: str, model: Assigned | None, beside: Assigned | None) -> None:
        proving, installed = self.updating.is_probing(slot), self.children.installed
        self.inference.serve(slot, model, beside, measure=proving, installed=installed)

    def _around_judging(self) -> judging.Surroundings:
        return judging.Surroundings(
            comparison=self.inference.comparison,
            conclude=self._tell,
            monotonic=time.monotonic,
        )

    def _around_transfers(self) -> transfers.Surroundings:
        def failed(slot: str, release: str, failure: FetchFailed) -> None:
            news = machine.FetchFailed(release, failure.code, failure.why, failure.retryable)
            self._tell(slot, news)

        return transfers.Surroundings(
            ask=self.downloading.ask,
            fetching=self.downloading.fetching,
            waits=self._waits,
            done=lambda slot, release: self._tell(slot, machine.Fetched(release)),
            failed=failed,
            hashed=self.store.seal,
            rebuild=self._rebuild,
            monotonic=time.monotonic,
        )

    def _rebuild(self, artifact: Artifact, source: Source) -> None:
        """Make an artifact from a source, with its content key where it is encrypted."""
        key = self._opened_key(artifact) if artifact.encrypted else None
        self.children.rebuild(artifact, source, key)

    def _opened_key(self, artifact: Artifact) -> bytes:
        box = self.desired.keys.get(full_source(artifact).digest)
        if box is None:
            raise NoContentKeyError(
                f"no assignment brought the key of encrypted artifact {artifact.digest[:16]}"
            )
        return unwrap_key(box, self._signing)

    def _waits(self, slot: str, why: AgentError) -> None:
        self.downloading.stop()
        self.listening.stop()
        self.reporting.alarm(why.code, f"{slot}: {why}", slot=slot)

    def _around_learning(self) -> learning.Surroundings:
        return learning.Surroundings(
            conditions=self._conditions,
            start=self.children.learn,
            answer=self.reporting.answer_task,
            alarm=self.reporting.alarm,
            monotonic=time.monotonic,
        )
