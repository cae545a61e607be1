"""What a slot remembers across a power cut: one small file per slot.

Rule 1: the file is replaced whole; a cut leaves the old state or the new one.
Rule 2: a file of a newer version is refused and left untouched.
Rule 3: an unreadable file stops the agent with one sentence; it is never started afresh,
        because forgotten denials and pointers are worse than a stop.
"""

from typing import Final

from agent.contract.codec import encode
from agent.contract.limits import require_name
from agent.disk import Disk, read_versioned
from agent.update.slot import State

FOLDER: Final = "slots"
_SUFFIX: Final = ".json"


def load(disk: Disk, slot: str) -> State:
    """Return the state of a slot; one that was never saved is empty.

    Raises:
        NewerStateError: A newer version of the agent wrote it.
        StoreError: It does not parse.

    """
    found = read_versioned(disk, _name(slot), State)
    return State() if found is None else found


def save(disk: Disk, slot: str, state: State) -> None:
    """Remember a state; it is on the medium when this returns.

    Raises:
        DiskFullError: No space is left; the old state stays.

    """
    disk.replace(_name(slot), encode(state))


def slots(disk: Disk) -> tuple[str, ...]:
    """Return the names of the slots that have a journal, sorted."""
    names = disk.names(FOLDER)
    return tuple(n.removesuffix(_SUFFIX) for n in names if n.endswith(_SUFFIX))


def _name(slot: str) -> str:
    return f"{FOLDER}/{require_name(slot, 'slot')}{_SUFFIX}"
