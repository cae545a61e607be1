"""The connection to the owner's own broker, and who listens to what on it.

Rule 1: whoever listens names its topics before the start; it is called on the network
        thread, and must not wait.
Rule 2: topics of sources must be granted by the broker; the others may be refused.
Rule 3: with a prefix the device says ``online`` at every connect, and leaves ``offline`` as
        its Will. Both are retained.
"""

from collections.abc import Callable

from agent.config import Config
from agent.config_inference import Subscribed
from agent.contract.owner_topics import OFFLINE, ONLINE, OwnerTopics, matches
from agent.daemon.opening import local_connection, pace_of
from agent.link.connection import Connection, Foreign
from agent.link.local import LocalBroker

Take = Callable[[Foreign], None]


class OwnerLink:
    """One device on its owner's own broker.

    Args:
        config: With ``[local_broker]``, or nothing is ever connected.
        device: This device.
        sampled: Takes topic and payload of what came for sources.

    Attributes:
        topics: What this device writes there; None where it writes nothing.

    Raises:
        ConfigError: The broker's address cannot be one, or its CA cannot be read.

    """

    def __init__(self, config: Config, device: str, sampled: Callable[[str, bytes], None]) -> None:
        local = config.local_broker
        self.topics: OwnerTopics | None = None
        if local is not None and local.prefix:
            self.topics = OwnerTopics(prefix=local.prefix, device=device)
        self._connection: Connection | None = local_connection(config, device)
        self._pace = pace_of(config)
        self._sampled = sampled
        wanted = [pipeline.source for pipeline in config.pipeline.values()]
        self.sources = tuple(
            dict.fromkeys(source.topic for source in wanted if isinstance(source, Subscribed))
        )
        self._routes: dict[str, Take] = {}
        self._greetings: list[Callable[[], None]] = []
        self._link: LocalBroker | None = None

    @property
    def connected(self) -> bool:
        """Whether publishing makes sense now."""
        return self._link is not None and self._link.connected

    def listen(self, topic: str, take: Take) -> None:
        """Hand everything on one topic to ``take``; before the start."""
        self._routes[topic] = take

    def greet(self, greeting: Callable[[], None]) -> None:
        """Call this at every connect; before the start."""
        self._greetings.append(greeting)

    def start(self) -> None:
        """Connect, where there is such a broker; returns at once."""
        if self._connection is None:
            return
        self._link = LocalBroker(
            self._connection,
            subscriptions=self.sources,
            welcome=tuple(self._routes),
            heard=self._heard,
            connected=self._greet,
            will=self._status(OFFLINE),
            pace=self._pace,
        )
        self._link.start()

    def stop(self) -> None:
        """Say goodbye and hang up."""
        if self._link is not None:
            self._link.stop(self._status(OFFLINE))

    def publish(self, message: Foreign) -> bool:
        """Send a message; from any thread. False when offline, or when too many wait."""
        return self._link is not None and self._link.publish(message)

    def _heard(self, message: Foreign) -> None:
        take = self._routes.get(message.topic)
        if take is not None:
            take(message)
        if any(matches(pattern, message.topic) for pattern in self.sources):
            self._sampled(message.topic, message.payload)

    def _greet(self) -> None:
        here = self._status(ONLINE)
        if here is not None:
            self.publish(here)
        for greeting in self._greetings:
            greeting()

    def _status(self, said: bytes) -> Foreign | None:
        if self.topics is None:
            return None
        return Foreign(
            topic=self.topics.status, payload=said, qos=1, retained=True, content_type="text/plain"
        )
