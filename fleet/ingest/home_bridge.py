"""The bridge to Home Assistant: a connection and a thread of its own beside the manager.

Rule 1: the manager's thread hands over what is to be shown and goes on; nothing that happens
        here reaches it. A bridge that failed begins again after a pause.
Rule 2: a device that announces itself (``fieldfare-agent`` wrote its discovery message) is left
        alone, and what the bridge had retained of it is emptied: two would fight over it.
Rule 3: discovery is published at the connect, on change, and a moment after Home Assistant
        started. A device that is no longer shown is taken away, also where that happened
        while no manager ran: its discovery message bears this fleet's name.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import SystemRandom
from threading import Event, Lock, Thread
from time import monotonic
from typing import Final, assert_never

from agent.contract.home_assistant import (
    AGENT_ORIGIN,
    config_topic,
    device_of,
    origin_of,
    status_topic,
    topics_of,
)
from agent.contract.home_states import Told, encode_state, state_of, wait_seconds
from agent.contract.owner_topics import OFFLINE, ONLINE, OwnerTopics
from agent.contract.telemetry import Prediction
from fleet.ingest.broker import BrokerLink
from fleet.ingest.mail import Arrived, Connected, Connection, Disconnected, Message

LOG = logging.getLogger(__name__)
_POLL_SECONDS: Final = 0.5
MAX_PREDICTIONS: Final = 10_000
MAX_HEARD: Final = 10_000
"""Devices that others announce: anybody there can make them up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """How long the bridge waits, in seconds.

    Attributes:
        settle: After a connect, so that who else announces what is heard first.
        jitter: At most, after Home Assistant started: everybody in a house hears that at once.
        again: After a failure.

    """

    settle: float = 2.0
    jitter: float = 5.0
    again: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One device as the manager wants it shown.

    Attributes:
        device: Its id.
        discovery: The message that announces it.
        states: What is retained of it, by topic.

    """

    device: str
    discovery: bytes
    states: Mapping[str, bytes]


@dataclass(slots=True)
class _Told:
    """What the broker holds of us on this connection, and of others."""

    retained: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    strays: dict[str, tuple[str, ...]] = field(default_factory=dict)
    predictions: dict[tuple[str, str], Told] = field(default_factory=dict)
    again_at: float | None = None
    quiet_until: float = 0.0


class HomeBridge:
    """Shows devices in Home Assistant until it is stopped.

    Args:
        connection: How Home Assistant's broker is reached.
        prefix: Of the topics of states.
        discovery: Home Assistant's discovery prefix.
        origin: Who announces: the name of this fleet's bridge.
        every_seconds: How often a prediction that stays the same is told again.
        pauses: How long it waits.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        prefix: str,
        discovery: str,
        origin: str,
        every_seconds: float,
        pauses: Pauses = Pauses(),
    ) -> None:
        self._connection = connection
        self._prefix = prefix
        self._discovery = discovery
        self._origin = origin
        self._every = every_seconds
        self._pauses = pauses
        self._lock = Lock()
        self._wanted: dict[str, Shown] | None = None
        self._newest: dict[tuple[str, str], Prediction] = {}
        self._told = _Told()
        self._link: BrokerLink | None = None
        self._state = "not connected yet"
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="home-assistant", daemon=True)

    @property
    def state(self) -> str:
        """``connected``, or why not."""
        return self._state

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def show(self, devices: tuple[Shown, ...]) -> None:
        """Show these devices and no others; from any thread."""
        with self._lock:
            self._wanted = {device.device: device for device in devices}
            self._newest = {k: p for k, p in self._newest.items() if k[0] in self._wanted}

    def predicted(self, device: str, said: Prediction) -> None:
        """Take a prediction of a device; from any thread."""
        with self._lock:
            known = self._wanted is not None and device in self._wanted
            if known and said.label and len(self._newest) < MAX_PREDICTIONS:
                self._newest[device, said.slot] = said

    def stop(self) -> None:
        """Say goodbye and end the thread."""
        self._stopping.set()
        link = self._link
        if link is not None:
            link.wake()
        if self._thread.is_alive():
            self._thread.join(15.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._live()
            except Exception as why:  # the top of the thread: the manager must not feel it
                self._state = f"{type(why).__name__}: {why}"
                LOG.exception("home-assistant bridge=failed")
                self._stopping.wait(self._pauses.again)

    def _live(self) -> None:
        link = self._link = BrokerLink(
            self._connection,
            subscriptions=(
                (status_topic(self._discovery), 1),
                (config_topic(self._discovery, "+"), 1),
            ),
            will=self._status(OFFLINE),
        )
        try:
            while not self._stopping.is_set():
                for news in link.poll(_POLL_SECONDS):
                    match news:
                        case Arrived():
                            self._heard(news)
                            link.settle([news])
                        case Connected():
                            self._connected(link)
                        case Disconnected(why=why):
                            self._state = f"away: {why}"
                            LOG.info("home-assistant away why=%s", why)
                        case _:
                            assert_never(news)
                if link.connected:
                    self._tell(link)
        finally:
            self._link = None
            link.close(self._status(OFFLINE))

    def _connected(self, link: BrokerLink) -> None:
        self._state = "connected"
        self._told = _Told(quiet_until=monotonic() + self._pauses.settle)
        LOG.info("home-assistant url=%s", self._connection.url)
        link.publish(self._status(ONLINE))

    def _heard(self, message: Arrived) -> None:
        if message.topic == status_topic(self._discovery):
            if message.payload == ONLINE:  # retained or not: once too often does no harm
                self._told.again_at = monotonic() + SystemRandom().uniform(0.0, self._pauses.jitter)
            return
        device = device_of(self._discovery, message.topic)
        if device is None or max(len(self._told.claimed), len(self._told.strays)) >= MAX_HEARD:
            return
        origin = origin_of(message.payload)
        if origin == AGENT_ORIGIN:
            self._told.claimed.add(device)
            return
        self._told.claimed.discard(device)
        if (
            origin == self._origin
            and config_topic(self._discovery, device) not in self._told.retained
        ):
            self._told.strays[device] = topics_of(message.payload, f"{self._prefix}/{device}/")

    def _tell(self, link: BrokerLink) -> None:
        now = monotonic()
        if self._told.again_at is not None and now >= self._told.again_at:
            self._told.again_at = None
            self._told.retained.clear()
            self._told.predictions.clear()
        with self._lock:
            wanted, newest = self._wanted, dict(self._newest)
        if wanted is None or now < self._told.quiet_until:
            return
        shown = {d: one for d, one in wanted.items() if d not in self._told.claimed}
        self._take_away(link, shown)
        for device, one in shown.items():
            self._retain(link, device, config_topic(self._discovery, device), one.discovery)
            for topic, payload in one.states.items():
                self._retain(link, device, topic, payload)
        for (device, slot), said in newest.items():
            if device in shown:
                self._tell_prediction(link, device, slot, said, now)

    def _tell_prediction(
        self, link: BrokerLink, device: str, slot: str, said: Prediction, now: float
    ) -> None:
        told = self._told.predictions.get((device, slot))
        if wait_seconds(told, said.label, now, self._every):
            return
        topic = OwnerTopics(prefix=self._prefix, device=device).state(slot)
        if self._retain(link, device, topic, encode_state(state_of(said))):
            self._told.predictions[device, slot] = Told(said.label, now)

    def _take_away(self, link: BrokerLink, shown: Mapping[str, Shown]) -> None:
        """Empty what is retained of devices that are not shown (any more)."""
        told = self._told
        for device, topics in list(told.strays.items()):
            if device not in shown and device not in told.claimed:
                self._empty(link, config_topic(self._discovery, device))
            if device not in shown:
                for topic in topics:
                    self._empty(link, topic)
            del told.strays[device]
        for topic, (device, _) in list(told.retained.items()):
            if device in shown:
                continue
            del told.retained[topic]
            if not (device in told.claimed and topic == config_topic(self._discovery, device)):
                self._empty(link, topic)
        told.predictions = {k: t for k, t in told.predictions.items() if k[0] in shown}

    def _retain(self, link: BrokerLink, device: str, topic: str, payload: bytes) -> bool:
        if self._told.retained.get(topic) == (device, payload):
            return True
        sent = link.publish(Message(topic=topic, payload=payload, retain=True))
        if sent:
            self._told.retained[topic] = (device, payload)
        return sent

    def _empty(self, link: BrokerLink, topic: str) -> None:
        link.publish(Message(topic=topic, payload=b"", retain=True))

    def _status(self, said: bytes) -> Message:
        return Message(
            topic=bridge_topic(self._prefix), payload=said, retain=True, content_type="text/plain"
        )


def bridge_topic(prefix: str) -> str:
    """Return where the bridge says that it is there."""
    return f"{prefix}/status"
