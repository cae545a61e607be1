"""Which part of a device's life a durable operation belongs to, and how cuts are counted.

    enrolment · trust metadata · fetch · stage · activate · commit · evict · outbox · start ·
    budget · endpoint · labelled

A slot's journal is *stage* until the candidate answers, *activate* while it is on
probation, *commit* once it is over. Tests say how many operations they cut by
``count_cuts``; ``conftest`` adds them up at the end of the run.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from agent.update.slot import Idle, Probing, State

Record = Callable[[str, object], None]
ENROLMENT, TRUST, FETCH, STAGE = "enrolment", "trust metadata", "fetch", "stage"
ACTIVATE, COMMIT, EVICT, OUTBOX = "activate", "commit", "evict", "outbox"
START, BUDGET, ENDPOINT, LABELLED = "start", "budget", "endpoint", "labelled"
AREAS = (
    *(ENROLMENT, TRUST, FETCH, STAGE, ACTIVATE, COMMIT, EVICT, OUTBOX),
    *(START, BUDGET, ENDPOINT, LABELLED),
)
DEMANDED = (ENROLMENT, TRUST, FETCH, STAGE, ACTIVATE, COMMIT, OUTBOX)
_OF_FILES = {
    "identity.json": ENROLMENT,
    "enrolled.json": ENROLMENT,
    "certificate": ENROLMENT,
    "trust": TRUST,
    "clock.json": TRUST,
    "accepted.json": TRUST,
    "boot.json": START,
    "outbox": OUTBOX,
    "budget.json": BUDGET,
    "endpoint.json": ENDPOINT,
    "labelled": LABELLED,
}


class Operation(str):
    """One durable operation as it stands in the log, with its area."""

    __slots__ = ("area",)
    area: str

    @classmethod
    def of(cls, what: str, name: str, slot_area: str) -> "Operation":
        said = cls(f"{what} {name}")
        said.area = _area(what, name.removesuffix(".new"), slot_area)
        return said


def area_of_state(content: bytes) -> str:
    """Return where a slot stands whose journal is written."""
    match msgspec.json.decode(content, type=State).phase:
        case Idle():
            return COMMIT
        case Probing():
            return ACTIVATE
        case _:
            return STAGE


def count_cuts(record: Record, operations: Iterable[Operation], area: str = "") -> int:
    """Have the power cuts of a test counted, by their areas or as one; returns how many."""
    counted = Counter(area or operation.area for operation in operations)
    record("cuts", dict(counted))
    return counted.total()


def _area(what: str, name: str, slot_area: str) -> str:
    first = name.split("/", maxsplit=1)[0]
    if first == "slots":
        return slot_area
    if first == "store":
        if name.endswith((".part", ".map")):
            return FETCH
        return EVICT if what == "remove" else STAGE
    return _OF_FILES.get(first, first)
