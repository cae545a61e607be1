"""A Flower message without its arrays, and the arrays put in again, byte for byte.

Rule 1: what is cut out is the content of an ``ArrayRecord`` and nothing else, so that the
        same weights are the same bytes in the messages to every device.
Rule 2: nothing is parsed to put a message together: contents go where they were. What came
        out is checked by its digest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256

from agent.contract import wireformat as wire
from agent.contract.limits import (
    CHUNK_BYTES,
    CHUNK_HASH_BYTES,
    MAX_FLOWER_BYTES,
    MAX_SHARED_RECORDS,
)
from agent.contract.manifest import Artifact
from agent.errors import MalformedError


@dataclass(frozen=True, slots=True)
class Cut:
    """The bytes of a record of arrays, and where they begin in their message."""

    at: int
    content: memoryview

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, hex."""
        return sha256(self.content).hexdigest()


def cut_message(message: bytes, *, least: int) -> tuple[bytes, tuple[Cut, ...]]:
    """Return a Flower message without its records of arrays, and these.

    Args:
        message: The bytes.
        least: Records of fewer bytes stay where they are, and so do those after the eighth.

    Raises:
        MalformedError: It is not a Flower message.

    """
    whole = memoryview(message)
    places = [p for p in _records(whole) if p.stop - p.start >= max(1, least)]
    cuts = tuple(Cut(p.start, whole[p]) for p in places[:MAX_SHARED_RECORDS])
    frame, at = bytearray(), 0
    for cut in cuts:
        frame += whole[at : cut.at]
        at = cut.at + len(cut.content)
    return bytes(frame + whole[at:]), cuts


def join_message(frame: bytes, cuts: Iterable[tuple[int, bytes | memoryview]]) -> bytes:
    """Return the whole message, the inverse of ``cut_message``.

    Raises:
        MalformedError: A content lies outside of the message, or over the one before it.

    >>> join_message(b"ad", [(1, b"bc")])
    b'abcd'
    """
    parts: list[bytes | memoryview] = []
    made = taken = 0
    for at, content in cuts:
        fits = made <= at <= made + len(frame) - taken
        if not fits or at + len(content) > MAX_FLOWER_BYTES:
            raise MalformedError(f"a record of {len(content)} bytes cannot stand at {at}")
        parts += [memoryview(frame)[taken : taken + at - made], content]
        taken += at - made
        made = at + len(content)
    if made + len(frame) - taken > MAX_FLOWER_BYTES:
        raise MalformedError(f"a Flower message of over {MAX_FLOWER_BYTES} bytes")
    return b"".join((*parts, memoryview(frame)[taken:]))


def in_chunks(content: bytes | memoryview) -> Artifact:
    """Return the description by which every chunk of some bytes can be checked."""
    view = memoryview(content)
    hashes = (
        blake2b(view[at : at + CHUNK_BYTES], digest_size=CHUNK_HASH_BYTES).hexdigest()
        for at in range(0, len(view), CHUNK_BYTES)
    )
    return Artifact(digest=sha256(view).hexdigest(), size=len(view), chunks="".join(hashes))


def _records(whole: memoryview) -> Iterator[slice]:
    """Yield where the contents of the array records stand."""
    for content in _within(whole, slice(0, len(whole)), 2):
        for item in _within(whole, content, 1):
            yield from _within(whole, item, 2)


def _within(whole: memoryview, place: slice, wanted: int) -> Iterator[slice]:
    for number, found in wire.find_fields(whole[place]):
        if number == wanted and isinstance(found, slice):
            yield slice(place.start + found.start, place.start + found.stop)
