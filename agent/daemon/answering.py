"""Inference and the owner's own broker, joined: where samples come from, where answers go.

Rule 1: nothing is published for integrations but what the configuration names.
Rule 2: inference needs neither broker: it starts and ends on its own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.config import Config
from agent.contract.codec import encode
from agent.contract.limits import MAX_TELEMETRY_BYTES
from agent.contract.telemetry import Telemetry, Window
from agent.daemon.agenda import Agenda
from agent.daemon.feedback import Feedback
from agent.daemon.health import MachineHealth
from agent.daemon.inference_news import ModelDied, Predicted, SourceEnded
from agent.daemon.moments import wall_ms
from agent.daemon.offering import Offering
from agent.daemon.owner.side import HomeAssistantStarted, OwnerNews, OwnerSide
from agent.daemon.placing import placer_of
from agent.daemon.reporting import Reporting
from agent.daemon.serving import Inference
from agent.daemon.state import with_kept
from agent.daemon.watching import Watching
from agent.disk import Disk
from agent.infer.pipeline import Broken
from agent.link.inbox import Inbox, Lane
from agent.observe.resources import rss_bytes
from agent.update.store import Store
from agent.worker.jobs import ProbeAnswer

if TYPE_CHECKING:
    from agent.daemon.owner.announcing import Wish


class Answering:
    """The pipelines of this device, with their ends.

    Attributes:
        feedback: What people say of the answers.
        health: How this machine is.
        inference: What answers.
        offering: The same over HTTP.
        owner: All that concerns the owner's own broker.

    """

    def __init__(
        self,
        config: Config,
        store: Store,
        inbox: Inbox,
        *,
        device: str,
        hardware: str,
        reporting: Reporting,
        disk: Disk,
        agenda: Agenda,
        wishes: Callable[[], "Mapping[str, Wish]"],
    ) -> None:
        """Join them; ``wishes`` says what the fleet wants of each slot.

        Raises:
            ConfigError: The address of the owner's broker cannot be one, or its CA cannot
                be read.
            NewerStateError: What drift remembers, or labelled windows, were written by a newer
                agent.

        """
        self._config = config
        self._agenda = agenda
        self._inbox = inbox
        self._reporting = reporting
        self.feedback = Feedback(config.feedback, config.pipeline, disk, wall_ms=wall_ms)
        self.inference = Inference(
            config.pipeline,
            store,
            hardware=hardware,
            published=_published(config),
            put=self._put,
            wall_ms=wall_ms,
            feedback=self.feedback,
            observe=config.observe,
            place=placer_of(config, disk),
        )
        self.health = MachineHealth(
            config.health,
            state_dir=config.agent.state_dir,
            work_less=self.inference.work_less,
            alarm=reporting.alarm,
        )
        self._watching = Watching(
            config.observe,
            held=self.inference.held,
            alarm=lambda code, why, slot: reporting.alarm(code, why, slot=slot),
        )
        self.owner = OwnerSide(
            config,
            disk,
            self.inference,
            agenda,
            device=device,
            hardware=hardware,
            put=self._put,
            alarm=lambda code, why, slot: reporting.alarm(code, why, slot=slot),
            wishes=wishes,
            label=self.feedback.take if config.feedback else None,
        )
        self.offering = Offering(
            config.serve,
            agenda,
            alarm=reporting.alarm,
            request=self.inference.request,
            offered=self.inference.offered,
            actions={"feedback": self.feedback.take},
        )

    def start(self) -> None:
        """Connect to the owner's broker, where there is one, and watch the machine's heat."""
        self._look_at_health()
        self.owner.start()
        self.offering.start()

    def stop(self) -> None:
        """End who asks over HTTP, inference, then the connection for it."""
        self.offering.stop()
        self.inference.stop()
        self.owner.stop()

    def predicted(self, item: Predicted) -> None:
        """Publish one answer for integrations: to the fleet, to the owner, or to both."""
        said = item.message(wall_ms())
        if self._config.pipeline[item.slot].publish_predictions:
            self._reporting.prediction(said)
        self.owner.predicted(item, said)

    def report_windows(self) -> None:
        """Report what every release did since the last time, and how the machine is."""
        windows = self.owner.looked(self.inference.close_windows())
        self._watching.look(windows)
        windows = self.feedback.onto(windows, self.inference.number)
        trouble = self.feedback.tend()
        if trouble is not None:
            self._reporting.alarm(trouble.code, f"labelled windows: {trouble}")
        totals = self._reporting.outbox.totals()
        first, *more = packed(windows)
        told = Telemetry(
            ts=wall_ms(),
            up=int(time.monotonic() * 1000),
            windows=first,
            rss_bytes=rss_bytes(),
            outbox_bytes=totals.size_bytes,
            dropped_reports=totals.dropped,
            owner=self.owner.counts(),
            refused_labels=self.feedback.close_refused(),
            health=replace(self.health.reading(), served=self.offering.counts()),
        )
        self._reporting.telemetry(told)
        for part in more:
            self._reporting.telemetry(
                replace(told, windows=part, owner=None, refused_labels=0, health=None)
            )

    def counted(self, probed: ProbeAnswer | None) -> ProbeAnswer | None:
        """Return what the probe found, and the windows that people labelled by now."""
        return with_kept(probed, self.feedback.counts(self._config.labelled_slot))

    def _look_at_health(self) -> None:
        again = time.monotonic() + self._config.health.look_seconds
        self._agenda.at("health", again, self._look_at_health)
        self.health.look()

    def source_ended(self, item: SourceEnded) -> None:
        """Say that a slot gets no more samples."""
        if isinstance(item.end, Broken):
            code, why = "source", item.end.why
        else:
            code, why = "source-ended", f"{item.slot} has no more samples"
        self._reporting.alarm(code, why, slot=item.slot)
        self.owner.source_ended(item.slot, why)

    def model_died(self, item: ModelDied) -> None:
        """Say that a model's process ended; it is being started again."""
        self._reporting.alarm("worker", item.why, slot=item.slot)

    def _put(self, item: Predicted | SourceEnded | ModelDied | OwnerNews) -> None:
        """Hand over; what anybody on the owner's broker can cause may be dropped."""
        bounded = isinstance(item, Predicted | HomeAssistantStarted)
        self._inbox.put(Lane.LOCAL if bounded else Lane.CONTROL, item)


def packed(windows: Sequence[Window]) -> list[tuple[Window, ...]]:
    """Return windows in as many messages as they need, at least one."""
    messages: list[tuple[Window, ...]] = [()]
    room = MAX_TELEMETRY_BYTES
    for window in windows:
        size = len(encode(window))
        if messages[-1] and size > room:
            messages.append(())
            room = MAX_TELEMETRY_BYTES
        messages[-1] += (window,)
        room -= size
    return messages


def _published(config: Config) -> frozenset[str]:
    local = config.local_broker
    everywhere = local is not None and bool(local.prefix)
    pipelines = config.pipeline.items()
    return frozenset(slot for slot, p in pipelines if everywhere or p.publish_predictions)
