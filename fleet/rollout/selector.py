"""Which devices? A small query that a person can type and a review can read.

    all
    group=demo
    hardware=raspberry-pi-5|generic-linux,trains=yes,memory_bytes>=2000000000
    id=d-abc|d-def
    group!=lab

Rule 1: clauses are joined by ``,`` and must all hold; ``|`` joins the values of one.
Rule 2: nothing is evaluated; an unknown word is refused by name, never ignored.
Rule 3: a device that has not sent its inventory matches no clause about it, not even
        a negated one.
"""

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from fleet.errors import RefusedError
from fleet.registry.devices import Device

_CLAUSE: Final = re.compile(r"\s*([a-z_]+)\s*(!=|>=|<=|=)\s*([^,=<>!]+?)\s*")
_MAX_CHARACTERS: Final = 500


def _inventory(read: str) -> Callable[[Device], tuple[str, ...]]:
    return lambda d: (str(getattr(d.inventory, read)),) if d.inventory else ()


def _flag(read: str) -> Callable[[Device], tuple[str, ...]]:
    return lambda d: ("yes" if getattr(d.inventory, read) else "no",) if d.inventory else ()


_WORDS: Final[dict[str, Callable[[Device], tuple[str, ...]]]] = {
    "id": lambda d: (d.id,),
    "group": lambda d: (d.group,),
    "hardware": lambda d: (d.hardware,),
    "presence": lambda d: (d.presence or "offline",),
    "arch": _inventory("arch"),
    "system": _inventory("system"),
    "python": _inventory("python"),
    "agent": _inventory("agent"),
    "trains": _flag("trains"),
    "evaluates": _flag("evaluates"),
    "runtime": lambda d: tuple(r.name for r in d.inventory.runtimes) if d.inventory else (),
    "library": lambda d: tuple(r.library for r in d.inventory.runtimes) if d.inventory else (),
    "provider": lambda d: (
        tuple(p for r in d.inventory.runtimes for p in r.providers) if d.inventory else ()
    ),
    "cpu": lambda d: tuple(d.inventory.cpu_flags) if d.inventory else (),
    "slot": lambda d: tuple(d.inventory.slots) if d.inventory else (),
}
_FIGURES: Final = {
    "memory_bytes": _inventory("memory_bytes"),
    "labelled_windows": _inventory("labelled_windows"),
}
_ORDER: Final = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One condition: a word of the device, a comparison, and the values it may have."""

    word: str
    compare: str
    values: tuple[str, ...]

    def holds(self, device: Device) -> bool:
        """Return whether the device fulfils it."""
        if self.compare in _ORDER:
            found = _FIGURES[self.word](device)
            return all(_ORDER[self.compare](int(f), int(self.values[0])) for f in found[:1]) and (
                bool(found)
            )
        found = _WORDS[self.word](device)
        among = any(value in found for value in self.values)
        return among if self.compare == "=" else bool(found) and not among


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A parsed query; no clauses is every device."""

    text: str
    clauses: tuple[Clause, ...]

    def matches(self, device: Device) -> bool:
        """Return whether every clause holds for a device."""
        return all(clause.holds(device) for clause in self.clauses)


def parse_selector(text: str) -> Selector:
    """Read a query.

    Raises:
        RefusedError: It is empty, too long, or a clause of it makes no sense; says which.

    """
    plain = text.strip()
    if not plain or len(plain) > _MAX_CHARACTERS:
        raise RefusedError(
            f"a selector has 1 to {_MAX_CHARACTERS} characters; write 'all' for every device"
        )
    if plain == "all":
        return Selector(text=plain, clauses=())
    return Selector(text=plain, clauses=tuple(_clause(part) for part in plain.split(",")))


def select(selector: Selector, devices: Iterable[Device]) -> list[Device]:
    """Return the devices that match, in their order."""
    return [device for device in devices if selector.matches(device)]


def _clause(text: str) -> Clause:
    match = _CLAUSE.fullmatch(text)
    if match is None:
        raise RefusedError(
            f"selector clause {text!r} is not word=value, word!=value or word>=number"
        )
    word, compare, value = match.groups()
    if compare in _ORDER:
        if word not in _FIGURES:
            raise RefusedError(f"selector word {word!r} has no order; {_one_of(_FIGURES)} have")
        if not (value.isascii() and value.isdigit()):
            raise RefusedError(f"selector clause {text!r} compares with something not a number")
        return Clause(word=word, compare=compare, values=(value,))
    if word not in _WORDS:
        raise RefusedError(f"selector word {word!r} is unknown; known are {_one_of(_WORDS)}")
    values = tuple(part.strip() for part in value.split("|"))
    if not all(values):
        raise RefusedError(f"selector clause {text!r} has an empty value")
    if word in {"trains", "evaluates"} and not set(values) <= {"yes", "no"}:
        raise RefusedError(f"selector clause {text!r} must say yes or no")
    return Clause(word=word, compare=compare, values=values)


def _one_of(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
