"""Everything between this device and its owner's own broker, joined.

Rule 1: nothing is published for integrations but what the configuration names.
Rule 2: the network thread queues; what it has to say is taken by the loop's thread, and
        requests by a thread of their own.
Rule 3: what the configuration does not name is not imported.
Rule 4: a broker that is away costs what is not retained; windows and drift go on.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.config import Config
from agent.config_inference import Subscribed
from agent.contract.codec import encode
from agent.contract.manifest import Release
from agent.contract.owner_topics import ONLINE
from agent.contract.telemetry import Owner, Prediction, Window
from agent.daemon.agenda import Agenda
from agent.daemon.drifting import Drifting
from agent.daemon.inference_news import Predicted
from agent.daemon.owner.link import OwnerLink
from agent.daemon.serving import Inference
from agent.daemon.source_watch import SourceWatch
from agent.disk import Disk
from agent.link.connection import Foreign

if TYPE_CHECKING:
    from agent.daemon.owner.announcing import Announcing, Wish
    from agent.daemon.owner.requesting import Label, Requests


@dataclass(frozen=True, slots=True)
class OwnerConnected:
    """The owner's broker took us."""


@dataclass(frozen=True, slots=True)
class HomeAssistantStarted:
    """It said that it is online."""


OwnerNews = OwnerConnected | HomeAssistantStarted


class OwnerSide:
    """See above.

    Args:
        config: Of this device.
        disk: For what drift has to remember.
        inference: What answers.
        agenda: For what is due later.
        device: Its id.
        hardware: Its hardware.
        put: Hands news to the loop's thread, and must not wait.
        alarm: Takes code, sentence and slot.
        wishes: What the fleet wants of each slot.
        label: Takes labels for predictions; None where none are taken.

    Attributes:
        link: Whoever else listens there names its topics before ``start``.

    Raises:
        ConfigError: The address of the owner's broker cannot be one, or its CA cannot be read.
        NewerStateError: The drift was remembered by a newer agent.

    """

    def __init__(
        self,
        config: Config,
        disk: Disk,
        inference: Inference,
        agenda: Agenda,
        *,
        device: str,
        hardware: str,
        put: Callable[[OwnerNews], object],
        alarm: Callable[[str, str, str], None],
        wishes: Callable[[], "Mapping[str, Wish]"],
        label: "Label | None" = None,
    ) -> None:
        self._config = config
        self._inference = inference
        self._put = put
        self._drift = Drifting(
            disk, first=config.observe.drift_first, newest=config.observe.drift_newest
        )
        self._releases: dict[str, Release] = {}
        self._before: dict[str, Release] = {}
        self._watch = SourceWatch(config.pipeline, alarm)
        self.link = OwnerLink(config, device, inference.push)
        self._requests = self._open_requests(label)
        self._announcing = self._open_announcing(agenda, hardware, wishes)

    def start(self) -> None:
        """Connect, where there is such a broker."""
        if self._requests is not None:
            self._requests.start()
        self.link.start()

    def stop(self) -> None:
        """Answer no more, say goodbye, and remember what drift needs."""
        if self._requests is not None:
            self._requests.stop()
        self.link.stop()
        self._drift.save()

    def take(self, news: OwnerNews) -> None:
        """Act on what the network thread told."""
        if self._announcing is None:
            return
        match news:
            case OwnerConnected():
                self._announcing.connected()
            case HomeAssistantStarted():
                self._announcing.restarted()

    def predicted(self, item: Predicted, said: Prediction) -> None:
        """Publish one answer."""
        if self.link.topics is None:
            return
        release = self._release(item.answer.release)
        local = self._config.local_broker
        if release is not None:
            said = replace(said, version=release.version)
        if release is not None and local is not None and local.probabilities:
            shares = item.answer.probabilities.tolist()
            named = zip(release.classes, shares, strict=False)
            said = replace(said, probabilities={name: min(share, 1.0) for name, share in named})
        topic = self.link.topics.prediction(item.slot)
        self.link.publish(Foreign(topic=topic, payload=encode(said)))
        if self._announcing is not None:
            self._announcing.predicted(said)

    def source_ended(self, slot: str, why: str) -> None:
        """Note that a slot gets no more samples."""
        self._watch.ended(slot, why)

    def looked(self, windows: Sequence[Window]) -> tuple[Window, ...]:
        """Return windows with their drift; whatever else they show is told."""
        drifted = tuple(replace(window, drift=self._drift.add(window)) for window in windows)
        self._watch.look(self._inference.flows(), drifted)
        if self._announcing is not None:
            self._announcing.looked(drifted)
        return drifted

    def counts(self) -> Owner | None:
        """Return what came by the owner's broker since the start; None without one."""
        if self._config.local_broker is None:
            return None
        flows = self._inference.flows().values()
        asked = self._requests.counts if self._requests else None
        return Owner(
            malformed=sum(flow.malformed for flow in flows),
            dropped=sum(flow.dropped for flow in flows),
            answered=asked.answered if asked else 0,
            refused=asked.refused if asked else 0,
            busy=asked.busy if asked else 0,
            failed=asked.failed if asked else 0,
        )

    def _release(self, digest: str) -> Release | None:
        """Return a release that answers, or did so a moment ago."""
        if digest not in self._releases:
            offered = self._inference.offered()
            running = {one.digest: one.release for one in offered if one.digest and one.release}
            self._releases = self._before | running
            self._before = running
        return self._releases.get(digest)

    def _open_requests(self, label: "Label | None") -> "Requests | None":
        local, topics = self._config.local_broker, self.link.topics
        if local is None or topics is None or not (local.requests or label):
            return None
        from agent.daemon.owner.requesting import Requests  # noqa: PLC0415 -- rule 3

        home = self._config.home_assistant
        told = (f"{home.discovery}/#",) if home else ()
        return Requests(
            local,
            topics,
            self.link,
            self._inference,
            label=label,
            forbidden=(*self.link.sources, *told),
        )

    def _open_announcing(
        self, agenda: Agenda, hardware: str, wishes: Callable[[], "Mapping[str, Wish]"]
    ) -> "Announcing | None":
        home, topics = self._config.home_assistant, self.link.topics
        if home is None or topics is None:
            return None
        from agent.contract.home_assistant import status_topic  # noqa: PLC0415 -- rule 3
        from agent.daemon.owner.announcing import Announcing, Surroundings  # noqa: PLC0415

        self.link.greet(self._greeted)
        self.link.listen(status_topic(home.discovery), self._heard_home_assistant)
        return Announcing(
            home,
            topics,
            agenda,
            Surroundings(
                publish=self.link.publish,
                offered=self._inference.offered,
                wishes=wishes,
                problem=self._watch.problem,
                expires=self._expires,
            ),
            name=home.name or socket.gethostname(),
            model=hardware,
        )

    def _greeted(self) -> None:
        self._put(OwnerConnected())

    def _heard_home_assistant(self, message: Foreign) -> None:
        if message.payload == ONLINE and not message.retained:
            self._put(HomeAssistantStarted())

    def _expires(self, slot: str) -> int:
        """Return the silence after which a prediction is old: that of its source."""
        source = self._config.pipeline[slot].source
        if not isinstance(source, Subscribed) or not source.stale_seconds:
            return 0
        every = self._config.home_assistant.every_seconds if self._config.home_assistant else 0.0
        return max(1, round(max(source.stale_seconds, 3 * every)))
