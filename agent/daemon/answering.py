"""Inference and the owner's own broker, joined: where samples come from, where answers go.

Rule 1: nothing is published for integrations but what the configuration names.
Rule 2: inference needs neither broker: it starts and ends on its own.
"""

import time
from collections.abc import Callable, Mapping

from agent.config import Config
from agent.contract.telemetry import Telemetry
from agent.daemon.agenda import Agenda
from agent.daemon.announcing import Wish
from agent.daemon.moments import wall_ms
from agent.daemon.owner_side import HomeAssistantStarted, OwnerNews, OwnerSide
from agent.daemon.reporting import Reporting
from agent.daemon.serving import Inference, Predicted, SourceEnded
from agent.disk import Disk
from agent.infer.pipeline import Broken
from agent.link.inbox import Inbox, Lane
from agent.observe.resources import rss_bytes
from agent.update.store import Store


class Answering:
    """The pipelines of this device, with their ends.

    Attributes:
        inference: What answers.
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
        wishes: Callable[[], Mapping[str, Wish]],
    ) -> None:
        """Join them; ``wishes`` says what the fleet wants of each slot.

        Raises:
            ConfigError: The address of the owner's broker cannot be one, or its CA cannot
                be read.
            NewerStateError: What drift remembers was written by a newer agent.

        """
        self._config = config
        self._inbox = inbox
        self._reporting = reporting
        self.inference = Inference(
            config.pipeline,
            store,
            hardware=hardware,
            published=_published(config),
            put=self._put,
            wall_ms=wall_ms,
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
        )

    def start(self) -> None:
        """Connect to the owner's broker, where there is one."""
        self.owner.start()

    def stop(self) -> None:
        """End inference, then the connection for it."""
        self.inference.stop()
        self.owner.stop()

    def predicted(self, item: Predicted) -> None:
        """Publish one answer for integrations: to the fleet, to the owner, or to both."""
        said = item.message(wall_ms())
        if self._config.pipeline[item.slot].publish_predictions:
            self._reporting.prediction(said)
        self.owner.predicted(item, said)

    def report_windows(self) -> None:
        """Report what every release did since the last time."""
        windows = self.owner.looked(self.inference.close_windows())
        if not windows:
            return
        totals = self._reporting.outbox.totals()
        self._reporting.telemetry(
            Telemetry(
                ts=wall_ms(),
                up=int(time.monotonic() * 1000),
                windows=windows,
                rss_bytes=rss_bytes(),
                outbox_bytes=totals.size_bytes,
                dropped_reports=totals.dropped,
                owner=self.owner.counts(),
            )
        )

    def source_ended(self, item: SourceEnded) -> None:
        """Say that a slot gets no more samples."""
        if isinstance(item.end, Broken):
            code, why = "source", item.end.why
        else:
            code, why = "source-ended", f"{item.slot} has no more samples"
        self._reporting.alarm(code, why, slot=item.slot)
        self.owner.source_ended(item.slot, why)

    def _put(self, item: Predicted | SourceEnded | OwnerNews) -> None:
        """Hand over; what anybody on the owner's broker can cause may be dropped."""
        bounded = isinstance(item, Predicted | HomeAssistantStarted)
        self._inbox.put(Lane.LOCAL if bounded else Lane.CONTROL, item)


def _published(config: Config) -> frozenset[str]:
    local = config.local_broker
    everywhere = local is not None and bool(local.prefix)
    pipelines = config.pipeline.items()
    return frozenset(slot for slot, p in pipelines if everywhere or p.publish_predictions)
