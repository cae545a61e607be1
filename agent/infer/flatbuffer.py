"""Reading tables of a flatbuffer without believing an offset in it.

A library that does not verify a file first follows each offset wherever it points. Here each
is compared with the bytes that are there, and nothing is allocated on the word of a length.

Format: FlatBuffers internals, "Encoding"; numbers are little-endian.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, Literal

from agent.errors import MalformedError

_OFFSET: Final = Struct("<I")
_SIGNED_OFFSET: Final = Struct("<i")
_VTABLE: Final = Struct("<HH")
_SLOT: Final = Struct("<H")
_NUMBERS: Final = {kind: Struct(f"<{kind}") for kind in "bBiIqQ"}


class Table:
    """One table: its fields by their place in the schema, counted from 0."""

    __slots__ = ("_at", "_bytes", "_size", "_slots")

    def __init__(self, content: memoryview, at: int) -> None:
        """Find the table that begins at byte ``at``.

        Raises:
            MalformedError: It, or its list of fields, does not lie within ``content``.

        """
        self._bytes, self._at = content, at
        vtable = at - _read(_SIGNED_OFFSET, content, at)[0]
        of_vtable, self._size = _read(_VTABLE, content, vtable)
        last = _VTABLE.size + 2 * ((of_vtable - _VTABLE.size) // 2)
        aligned = at % _OFFSET.size == vtable % _SLOT.size == 0
        if not aligned or of_vtable < _VTABLE.size or vtable + last > len(content):
            raise MalformedError(f"the table at byte {at} has no list of fields")
        if self._size < _SIGNED_OFFSET.size or at + self._size > len(content):
            raise MalformedError(f"the table at byte {at} is longer than the file")
        self._slots = content[vtable + _VTABLE.size : vtable + last]
        for (offset,) in _SLOT.iter_unpack(self._slots):
            if offset >= self._size:  # also of a field that nobody here reads, but libraries do
                raise MalformedError(f"a field lies outside of the table at byte {at}")

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """Return a number, of a ``struct`` format character.

        Raises:
            MalformedError: It lies outside of the table.

        """
        wanted = _NUMBERS[kind]
        offset = self._offset(field, wanted.size)
        return default if not offset else _read(wanted, self._bytes, self._at + offset)[0]

    def table(self, field: int) -> "Table | None":
        """Return a table within this one, or None.

        Raises:
            MalformedError: As for the constructor.

        """
        at = self._target(field)
        return None if at is None else Table(self._bytes, at)

    def tables(self, field: int, limit: int) -> "Iterator[Table]":
        """Yield the tables of a list, which holds none where it is absent.

        Raises:
            MalformedError: More than ``limit``, or any of them lies outside of the file.

        """
        found = self._list(field, _OFFSET.size)
        if found is None:
            return
        at, count = found
        if count > limit:
            raise MalformedError(f"a list of {count} tables is over the limit of {limit}")
        for place in range(at, at + count * _OFFSET.size, _OFFSET.size):
            yield Table(self._bytes, place + _read(_OFFSET, self._bytes, place)[0])

    def numbers(self, field: int, kind: Literal["B", "i", "q"]) -> memoryview:
        """Return a list of numbers as a view, empty where it is absent.

        Raises:
            MalformedError: It lies outside of the file.

        """
        size = _NUMBERS[kind].size
        found = self._list(field, size)
        at, count = found or (0, 0)
        return self._bytes[at : at + count * size].cast(kind)

    def length(self, field: int, size: int) -> int:
        """Return how many entries, of so many bytes each, a list holds.

        Raises:
            MalformedError: It lies outside of the file.

        """
        found = self._list(field, size)
        return found[1] if found else 0

    def text(self, field: int, limit: int) -> str:
        """Return at most ``limit`` bytes of a text, empty where it is absent.

        Raises:
            MalformedError: It lies outside of the file.

        """
        found = self._list(field, 1)
        at, count = found or (0, 0)
        return bytes(self._bytes[at : at + min(count, limit)]).decode(errors="replace")

    def has(self, field: int) -> bool:
        """Return whether a field is written at all."""
        return bool(self._offset(field, 1))

    def _list(self, field: int, size: int) -> tuple[int, int] | None:
        at = self._target(field)
        if at is None:
            return None
        (count,) = _read(_OFFSET, self._bytes, at)
        begin = at + _OFFSET.size
        if count * size > len(self._bytes) - begin:
            raise MalformedError(f"a list of {count} at byte {at} is longer than the file")
        return begin, count

    def _target(self, field: int) -> int | None:
        offset = self._offset(field, _OFFSET.size)
        if not offset:
            return None
        at = self._at + offset
        return at + _read(_OFFSET, self._bytes, at)[0]

    def _offset(self, field: int, size: int) -> int:
        slot = 2 * field
        if slot >= len(self._slots):
            return 0
        (offset,) = _read(_SLOT, self._slots, slot)
        if offset and (offset < _SIGNED_OFFSET.size or offset + size > self._size):
            raise MalformedError(f"field {field} lies outside of the table at byte {self._at}")
        return offset


def root(content: memoryview, identifier: bytes) -> Table:
    """Return the table with which a flatbuffer begins.

    Raises:
        MalformedError: The file has another identifier, or the table lies outside of it.

    """
    found = bytes(content[4:8])
    if found != identifier:
        raise MalformedError(f"it has {found!r} at byte 4 instead of {identifier!r}")
    return Table(content, _read(_OFFSET, content, 0)[0])


def _read(wanted: Struct, content: memoryview, at: int) -> tuple[int, ...]:
    if not 0 <= at <= len(content) - wanted.size:
        raise MalformedError(f"an offset leads to byte {at}, which is not in the file")
    return wanted.unpack_from(content, at)
