"""The rooms of a release's life on this device, joined: wanted, tried, judged, evaluated.

Rule 1: these rooms know each other only through what they are given here.
Rule 2: what is measured for one of them in a child is known to the others.
"""

import time
from collections.abc import Callable

from agent.config import Config
from agent.contract.manifest import Artifact
from agent.contract.messages import Assigned
from agent.daemon import bundles, evaluating, judging, updating
from agent.daemon.agenda import Agenda
from agent.daemon.children import Children
from agent.daemon.desired import Desired
from agent.daemon.moments import moment
from agent.daemon.reporting import Reporting
from agent.daemon.serving import Inference
from agent.daemon.ways import Ways
from agent.disk import Disk
from agent.errors import AgentError, is_error
from agent.update import machine
from agent.update.store import Store
from agent.worker.jobs import ProbeAnswer


class Releases:
    """What becomes of the releases of every slot."""

    def __init__(
        self,
        config: Config,
        disk: Disk,
        store: Store,
        agenda: Agenda,
        *,
        device: str,
        hardware: str,
        children: Children,
        reporting: Reporting,
        inference: Inference,
        ways: Ways,
        desired: Callable[[], Desired],
        tell_state: Callable[[], None],
    ) -> None:
        """``desired`` is built after this, and is not asked for before the start."""
        self._config = config
        self._store = store
        self._device = device
        self._children = children
        self._reporting = reporting
        self._inference = inference
        self._ways = ways
        self._desired = desired
        self._tell_state = tell_state
        self.measures = judging.Measures(self._start_check)
        self._evaluating = evaluating.Evaluating(
            device,
            self.measures,
            evaluating.Surroundings(report=reporting.event, alarm=reporting.alarm, moment=moment),
        )
        self._judging = judging.Judging(
            config.update, self.measures, agenda, self._around_judging()
        )
        self.updating = updating.Updating(
            disk,
            store,
            slots=inference.slots,
            hardware=hardware,
            reserve_bytes=config.update.reserve_bytes,
            quota_bytes=config.store.quota_bytes,
            retry_seconds=config.link.resettle_seconds,
            around=self._around_updating(),
        )
        self.bundles = bundles.Bundles(disk, store, device, agenda, self._around_bundles())

    def resume(self, probed: ProbeAnswer) -> None:
        """Go on where the last life ended, with the runtimes that were found."""
        self._children.installed = probed.runtimes
        self.updating.resume(probed.runtimes)
        for slot, state in self.updating.states.items():
            if state.current is not None and slot in self._inference.slots:
                self._evaluating.evaluate(slot, state.current.digest)

    def wish(self, slot: str, assigned: Assigned | None) -> None:
        """Want a slot to run a release, if this device has such a slot; None ends a try."""
        if assigned is None:
            self.updating.end_try(slot)
        elif slot not in self._inference.slots:
            self._reporting.alarm(
                "slot", f"{assigned.target} is assigned to {slot}, which has no pipeline here"
            )
        else:
            self.updating.want(slot, assigned)

    def _start_check(self, digest: str) -> None:
        try:
            release = self._store.read_manifest(digest)
            labelled = release.slot == self._config.labelled_slot
            self._children.check(
                digest,
                release,
                labelled=labelled and self._config.learn.evaluate,
                sealed=self._store.seals.fresh(),
            )
        except AgentError as why:
            self.measures.answered(digest, why)

    def _around_judging(self) -> judging.Surroundings:
        return judging.Surroundings(
            comparison=self._inference.comparison,
            conclude=self._tell,
            monotonic=time.monotonic,
            duty=lambda: self._inference.duty,
        )

    def _around_updating(self) -> updating.Surroundings:
        return updating.Surroundings(
            want_manifest=lambda assigned: self._desired().want_manifest(assigned),
            permitted=lambda slot, digest: self._desired().permits(slot, digest),
            vouched=lambda digest: self._desired().vouches(digest),
            download=self._download,
            stop_download=self._stop_download,
            check=self._check,
            serve=self._serve,
            prove=self._judging.begin,
            stop_proving=self._judging.stop,
            report=self._report_outcome,
            committed=self._evaluating.evaluate,
            changed=self._changed,
        )

    def _around_bundles(self) -> bundles.Surroundings:
        return bundles.Surroundings(
            read=lambda number: self._children.unbundle(number, self._device),
            unpack=self._children.unpack,
            verify=lambda files, wanted, then: self._desired().verify(files, wanted, then),
            obey=lambda payload: self._desired().obey(payload),
            believed_time=lambda: self._desired().believed_time,
            hurry=self.updating.hurry,
            fetch_anew=self.updating.fetch_anew,
            states=lambda: self.updating.states,
            slots=self._inference.slots,
            download=self._ways.transfers.begin,
            take_at_hand=self._ways.transfers.take_at_hand,
            alarm=self._reporting.alarm,
            monotonic=time.monotonic,
        )

    def _tell(self, slot: str, news: machine.SlotEvent) -> None:
        self.updating.tell(slot, news)

    def _changed(self) -> None:
        self.bundles.changed()
        self._tell_state()

    def _download(self, slot: str, digest: str, missing: tuple[Artifact, ...]) -> None:
        self.bundles.download(slot, digest, missing)

    def _stop_download(self, slot: str) -> None:
        self.bundles.stop_download(slot)
        self._ways.transfers.stop(slot)

    def _check(self, slot: str, digest: str) -> None:
        self.measures.ask(
            digest, lambda answer: self.updating.checked(slot, digest, answer), anew=True
        )

    def _serve(self, slot: str, model: Assigned | None, beside: Assigned | None) -> None:
        proving, installed = self.updating.is_probing(slot), self._children.installed
        self._inference.serve(slot, model, beside, measure=proving, installed=installed)

    def _report_outcome(self, slot: str, outcome: machine.Outcome) -> None:
        self.bundles.ended(slot, outcome)
        self._reporting.event(outcome.event(self._device, slot, *moment()))
        if is_error(outcome.code):  # and no verdict of a check or a probation
            self._reporting.alarm(outcome.code, outcome.why, slot=slot)
