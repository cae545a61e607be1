"""This device in Home Assistant: announced, kept up to date, and taken away again.

Rule 1: discovery is published at the connect, when what it says has changed, and a moment after
        Home Assistant started: all devices of a house hear that at once.
Rule 2: another prediction is told at once, but at most once a second; the same one now and
        then. What is retained is what comes after a restart of Home Assistant.
Rule 3: with ``announce = false`` all that was retained is emptied, which takes the device away.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import SystemRandom
from time import monotonic

from agent.config_inference import HomeAssistantConfig
from agent.contract.home_assistant import (
    AGENT_ORIGIN,
    HomeDevice,
    HomeSlot,
    config_topic,
    discovery,
)
from agent.contract.home_states import (
    Told,
    encode_state,
    health_of,
    state_of,
    update_state,
    wait_seconds,
)
from agent.contract.messages import SlotReport
from agent.contract.owner_topics import OwnerTopics
from agent.contract.telemetry import Prediction, Window
from agent.daemon.accepted import AcceptedAssignment
from agent.daemon.agenda import Agenda
from agent.daemon.host import AGENT_VERSION
from agent.errors import AgentError
from agent.infer.requests import Offered
from agent.link.connection import Foreign
from agent.update.store import Store

JITTER_SECONDS = (0.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the fleet wants of a slot.

    Attributes:
        version: Of the release that is wanted; None where its manifest is not here yet.
        in_progress: Whether it is being installed.

    """

    version: str | None = None
    in_progress: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What announcing is given.

    Attributes:
        publish: Sends a message to the owner's broker.
        offered: The slots and what runs in them.
        wishes: What the fleet wants of each.
        problem: What is wrong with a slot; "" for nothing.
        expires: Silence of a slot's source, in seconds, after which its prediction is old; 0
            never.

    """

    publish: Callable[[Foreign], bool]
    offered: Callable[[], tuple[Offered, ...]]
    wishes: Callable[[], Mapping[str, Wish]]
    problem: Callable[[str], str]
    expires: Callable[[str], int]


class Announcing:
    """Publishes for Home Assistant; only the loop's thread calls it.

    Args:
        config: ``[home_assistant]``.
        topics: Of this device on its owner's broker.
        agenda: For what is due later.
        around: What it is given.
        name: The device's name there.
        model: Its hardware.

    """

    def __init__(
        self,
        config: HomeAssistantConfig,
        topics: OwnerTopics,
        agenda: Agenda,
        around: Surroundings,
        *,
        name: str,
        model: str,
    ) -> None:
        self._config = config
        self._topics = topics
        self._agenda = agenda
        self._around = around
        self._name = name
        self._model = model
        self._retained: dict[str, bytes] = {}
        self._newest: dict[str, Prediction] = {}
        self._told: dict[str, Told] = {}
        self._windows: dict[str, Window] = {}
        self._classes: dict[str, tuple[str, ...]] = {}

    def connected(self) -> None:
        """Say everything anew."""
        self._retained.clear()
        self._told.clear()
        if not self._config.announce:
            self._take_away()
            return
        self.tell()
        for slot in list(self._newest):
            if not self._around.problem(slot):  # else an old prediction would seem new
                self._tell_prediction(slot)

    def restarted(self) -> None:
        """Home Assistant has started: say everything anew in a moment."""
        wait = SystemRandom().uniform(*JITTER_SECONDS)
        self._agenda.at("home-assistant", monotonic() + wait, self.connected)

    def looked(self, windows: Iterable[Window]) -> None:
        """Take the windows that were just closed, and say what has changed."""
        for window in windows:
            if window.inferences or window.slot not in self._windows:
                self._windows[window.slot] = window
        if self._config.announce:
            self.tell()

    def predicted(self, said: Prediction) -> None:
        """Take one prediction, and say it if it is time."""
        if not self._config.announce or not said.label:
            return
        slot = said.slot
        self._newest[slot] = said
        if said.label not in self._classes.get(slot, ()):
            self.tell()  # another model's class; Home Assistant takes none that it does not know
        told, now = self._told.get(slot), monotonic()
        wait = wait_seconds(told, said.label, now, self._config.every_seconds)
        if wait == 0:
            self._tell_prediction(slot)
        elif told is not None and told.label != said.label:
            self._agenda.at(f"home-{slot}", now + wait, lambda: self._tell_prediction(slot))

    def tell(self) -> None:
        """Publish discovery, health and updates as far as they have changed."""
        offered, wishes = self._around.offered(), self._around.wishes()
        self._retain(
            config_topic(self._config.discovery, self._topics.device), self._discover(offered)
        )
        for slot in offered:
            running = slot.release.version if slot.release else None
            self._retain(self._topics.health(slot.slot), self._health(slot))
            wish = wishes.get(slot.slot, Wish())
            self._retain(
                self._topics.update(slot.slot),
                update_state(
                    installed=running,
                    latest=wish.version,
                    title=slot.release.family if slot.release else slot.slot,
                    in_progress=wish.in_progress,
                ),
            )

    def _discover(self, offered: tuple[Offered, ...]) -> bytes:
        return discovery(
            HomeDevice(
                topics=self._topics,
                name=self._name,
                model=self._model,
                version=AGENT_VERSION,
                slots=tuple(map(self._slot, offered)),
                origin=AGENT_ORIGIN,
                origin_version=AGENT_VERSION,
            )
        )

    def _slot(self, offered: Offered) -> HomeSlot:
        """Return a slot as it is shown; one that has lost its model for a while stays."""
        slot, before = offered.slot, self._classes.get(offered.slot, ())
        classes = offered.release.classes if offered.release else before
        self._classes[slot] = classes or before
        return HomeSlot(
            slot=slot,
            classes=classes,
            had_classes=bool(before),
            expire_seconds=self._around.expires(slot),
        )

    def _health(self, slot: Offered) -> bytes:
        window = self._windows.get(slot.slot)
        if window is not None and window.release != slot.digest:
            window = None
        version = slot.release.version if slot.release else None
        return encode_state(health_of(version, window, self._around.problem(slot.slot)))

    def _tell_prediction(self, slot: str) -> None:
        said = self._newest[slot]
        self._told[slot] = Told(said.label, monotonic())
        self._publish(self._topics.state(slot), encode_state(state_of(said)))

    def _take_away(self) -> None:
        self._publish(config_topic(self._config.discovery, self._topics.device), b"")
        for slot in self._around.offered():
            for topic in (self._topics.state, self._topics.health, self._topics.update):
                self._publish(topic(slot.slot), b"")

    def _retain(self, topic: str, payload: bytes) -> None:
        if self._retained.get(topic) != payload and self._publish(topic, payload):
            self._retained[topic] = payload

    def _publish(self, topic: str, payload: bytes) -> bool:
        return self._around.publish(Foreign(topic=topic, payload=payload, qos=1, retained=True))


def wishes_of(
    accepted: AcceptedAssignment | None, reports: Mapping[str, SlotReport], store: Store
) -> dict[str, Wish]:
    """Return what the fleet wants of each slot that does not run it yet."""
    found = {}
    for slot, assigned in (accepted.slots if accepted else {}).items():
        report = reports.get(slot, SlotReport())
        if report.current == assigned.digest or assigned.digest in report.denied:
            continue
        try:
            version = store.read_manifest(assigned.digest).version
        except AgentError:  # not here yet
            version = None
        found[slot] = Wish(version=version, in_progress=report.phase != "idle")
    return found
