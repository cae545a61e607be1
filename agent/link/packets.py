"""Whole packets out of a stream of bytes, and the one kind that comes in thousands.

Rule 1: bytes are received into one buffer, which is as large as the largest packet and more;
        a packet that does not fit is refused before any of it is kept.
Rule 2: only a PUBLISH of QoS 0 is read here, with no properties but those that say how to
        show or keep it. Everything else is left to the MQTT library: None.
Rule 3: a payload is copied once, out of the buffer.

MQTT 5 (OASIS, 2019): 1.5.5 lengths, 2.1 fixed header, 2.2.2 properties, 3.3 PUBLISH.
"""

from dataclasses import dataclass
from typing import Final

from agent.errors import MalformedError

_PUBLISH: Final = 0x30
_KIND_AND_QOS: Final = 0xF6
_RETAINED: Final = 0x01
_LONGEST_LENGTH: Final = 4
_MORE: Final = 0x80
_TEXT_HEAD: Final = 2
"""Two bytes before a text say how long it is."""


@dataclass(frozen=True, slots=True)
class Publish:
    """A message of QoS 0, as it came."""

    topic: str
    payload: bytes
    retained: bool


class Stream:
    """What was received and not yet taken."""

    def __init__(self, *, packet_bytes: int, spare_bytes: int) -> None:
        """Take packets of at most ``packet_bytes``; ``spare_bytes`` are received beside one."""
        self._largest = packet_bytes
        self._view = memoryview(bytearray(packet_bytes + spare_bytes))
        self._begin = self._end = 0

    def room(self) -> memoryview:
        """Return where to receive into; never empty once ``next`` has returned None."""
        if self._begin == self._end:
            self._begin = self._end = 0
        elif len(self._view) - self._begin < self._largest:
            kept = self._end - self._begin
            self._view[:kept] = bytes(self._view[self._begin : self._end])
            self._begin, self._end = 0, kept
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Note how many bytes were received."""
        self._end += count

    def next(self) -> memoryview | None:
        """Return the next whole packet, valid until ``room`` is called; None where there is none.

        Raises:
            MalformedError: Its length is malformed, or over what was announced to be taken.

        """
        length = at = 0
        while True:
            where = self._begin + 1 + at
            if where >= self._end:
                return None
            byte = self._view[where]
            length |= (byte & ~_MORE) << 7 * at
            at += 1
            if not byte & _MORE:
                break
            if at == _LONGEST_LENGTH:
                raise MalformedError("the broker sent a packet whose length is malformed")
        whole = 1 + at + length
        if whole > self._largest:
            raise MalformedError(
                f"the broker sent a packet of {whole} bytes, and was told to send at most"
                f" {self._largest}"
            )
        if self._begin + whole > self._end:
            return None
        packet = self._view[self._begin : self._begin + whole]
        self._begin += whole
        return packet


def read_publish(packet: memoryview) -> Publish | None:
    """Read a whole packet, or return None where it is for the library to read."""
    if packet[0] & _KIND_AND_QOS != _PUBLISH:
        return None
    at = 2
    try:
        while packet[at - 1] & _MORE:
            at += 1
        topic_end = at + _TEXT_HEAD + (packet[at] << 8 | packet[at + 1])
        properties = topic_end + 1
        payload = properties + packet[topic_end]
        if packet[topic_end] & _MORE or payload > len(packet):
            return None
        while properties < payload:
            match packet[properties]:
                case 0x01:
                    properties += 2
                case 0x02:
                    properties += 5
                case 0x03:
                    properties += (
                        1 + _TEXT_HEAD + (packet[properties + 1] << 8 | packet[properties + 2])
                    )
                case _:
                    return None
        topic = str(packet[at + _TEXT_HEAD : topic_end], "utf-8")
    except (IndexError, UnicodeDecodeError):
        return None
    if properties != payload or not topic:
        return None
    retained = bool(packet[0] & _RETAINED)
    return Publish(topic, bytes(packet[payload:]), retained)
