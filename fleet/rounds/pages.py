"""A mapping that never changes, and of which a changed one costs a page and not a copy.

A run with ten thousand devices takes ten thousand answers, and each makes a new state:
copying one dictionary for each of them would cost the square of that.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

V = TypeVar("V")
_PAGES: Final = 256
_BLANK: Final[tuple[dict[str, Any], ...]] = ({},) * _PAGES


class Pages(Mapping[str, V]):
    """Keys spread over pages; ``plus`` copies the one page that it changes."""

    __slots__ = ("_count", "_pages")

    def __init__(self, pages: tuple[dict[str, V], ...] = _BLANK, count: int = 0) -> None:
        self._pages, self._count = pages, count

    def plus(self, key: str, value: V) -> "Pages[V]":
        """Return a mapping that also holds this."""
        place = hash(key) % _PAGES
        before = self._pages[place]
        pages = (*self._pages[:place], {**before, key: value}, *self._pages[place + 1 :])
        return Pages(pages, self._count + (key not in before))

    def __getitem__(self, key: str) -> V:
        return self._pages[hash(key) % _PAGES][key]

    def __iter__(self) -> Iterator[str]:
        for page in self._pages:
            yield from page

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Pages({dict(self)!r})"
