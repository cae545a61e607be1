"""Topics on the owner's own broker, where there is no fleet: ``{prefix}/{device}/…``.

Rule 1: what we write and what we listen to is told apart by the last word.
Rule 2: an answer goes where the asker wishes, but never to where it could be taken for
        something else: to the broker's own topics, to a listening end of ours, to a source
        of samples, or into what Home Assistant is told.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.errors import MalformedError

STATUS: Final = "status"
ONLINE: Final = b"online"
OFFLINE: Final = b"offline"
MAX_TOPIC_BYTES: Final = 256
_LAST_CONTROL: Final = 0x1F
_DELETE: Final = 0x7F


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerTopics:
    """Every topic of one device.

    >>> topics = OwnerTopics(prefix="fieldfare", device="d-abc")
    >>> topics.prediction("motion")
    'fieldfare/d-abc/motion/prediction'
    >>> topics.status
    'fieldfare/d-abc/status'
    """

    prefix: str
    device: str

    @property
    def status(self) -> str:
        """``online`` or ``offline``, retained; ``offline`` is also the Will."""
        return f"{self.prefix}/{self.device}/{STATUS}"

    def prediction(self, slot: str) -> str:
        """Every answer to a window of a source."""
        return self._of(slot, "prediction")

    def infer(self, slot: str) -> str:
        """Requests are heard here."""
        return self._of(slot, "infer")

    def response(self, slot: str) -> str:
        """Answers go here where the request names no other topic."""
        return self._of(slot, "infer/response")

    def feedback(self, slot: str) -> str:
        """Labels for predictions are heard here."""
        return self._of(slot, "feedback")

    def feedback_response(self, slot: str) -> str:
        """Answers to labels go here where no other topic is named beside them."""
        return self._of(slot, "feedback/response")

    def state(self, slot: str) -> str:
        """The newest prediction, retained and not more often than people look."""
        return self._of(slot, "state")

    def health(self, slot: str) -> str:
        """What runs in a slot and how it does, retained."""
        return self._of(slot, "health")

    def update(self, slot: str) -> str:
        """Which release is installed and which is the latest, retained."""
        return self._of(slot, "update")

    def _of(self, slot: str, last: str) -> str:
        return f"{self.prefix}/{self.device}/{slot}/{last}"

    def require_response(
        self, topic: str, slots: Iterable[str], foreign: Iterable[str] = ()
    ) -> str:
        """Return a topic that an asker wishes the answer on, if an answer may go there.

        Args:
            topic: What was asked for.
            slots: Those that requests can be for.
            foreign: Filters of topics that mean something else to somebody.

        Raises:
            MalformedError: It may not; says why.

        """
        require_topic(topic)
        answers = (self.response, self.feedback_response)
        ours = {answer(slot) for slot in slots for answer in answers}
        below = tuple(f"{answer}/" for answer in ours)
        if topic.startswith(f"{self.prefix}/") and not (topic in ours or topic.startswith(below)):
            raise MalformedError(
                f"response topic {topic!r} is one of ours: take one outside {self.prefix}/, or "
                "below .../infer/response or .../feedback/response"
            )
        taken = next((name for name in foreign if matches(name, topic)), None)
        if taken is not None:
            raise MalformedError(f"response topic {topic!r} would be heard as {taken}")
        return topic


def require_topic(topic: str) -> str:
    """Return a topic that a message can be published on.

    Raises:
        MalformedError: It is empty, too long, the broker's own, or a filter.

    """
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise MalformedError(f"response topic {topic[:40]!r} is not 1 to {MAX_TOPIC_BYTES} bytes")
    if topic.startswith("$") or set(topic) & {"+", "#"}:
        raise MalformedError(
            f"response topic {topic!r} begins with $ or has a wildcard; name one plain topic"
        )
    if any(ord(c) <= _LAST_CONTROL or ord(c) == _DELETE for c in topic):
        raise MalformedError(f"response topic {topic!r} has control characters")
    return topic


def matches(pattern: str, topic: str) -> bool:
    """Return whether a topic is under a filter (MQTT 5, section 4.7).

    >>> matches("zigbee2mqtt/#", "zigbee2mqtt/door"), matches("zigbee2mqtt/#", "zigbee2mqtt")
    (True, True)
    >>> matches("a/+/c", "a/b/c"), matches("a/+", "a/b/c"), matches("#", "$SYS/uptime")
    (True, False, False)
    """
    if pattern[:1] in {"#", "+"} and topic.startswith("$"):
        return False
    wanted, found = pattern.split("/"), topic.split("/")
    for place, word in enumerate(wanted):
        if word == "#":
            return True
        if place >= len(found) or word not in {"+", found[place]}:
            return False
    return len(found) == len(wanted)


def is_filter(pattern: str) -> bool:
    """Return whether a text can be subscribed to (MQTT 5, section 4.7.1).

    >>> is_filter("zigbee2mqtt/+/state"), is_filter("a/b#"), is_filter("a/#/b")
    (True, False, False)
    """
    words = pattern.split("/")
    return (
        bool(pattern)
        and all(word in {"+", "#"} or not set(word) & {"+", "#", "\0"} for word in words)
        and "#" not in words[:-1]
    )
