"""What an app keeps of a run on this device, between the messages of the run.

Rule 1: it never leaves the device, and goes with the oldest run when there are many.
Rule 2: a task that is done again, because its answer was lost with the power, begins with
        the state it began with before: nothing is counted twice.
"""

from typing import Annotated, Final

from msgspec import Meta

from agent.contract.codec import Versioned, encode
from agent.disk import Disk, read_versioned

FOLDER: Final = "apps-kept"
MAX_RUNS: Final = 8
State = Annotated[bytes, Meta(max_length=16 * 1024 * 1024)]


class Kept(Versioned, frozen=True, kw_only=True):
    """The state of one run.

    Attributes:
        task: The task that made it last.
        before, after: What that task began with, and what it left.

    """

    task: str
    before: State
    after: State


def state_for(disk: Disk, run: str, task: str) -> bytes:
    """Return the state that a task begins with.

    Raises:
        NewerStateError: A newer version of the agent kept it.
        StoreError: It cannot be read.

    """
    held = read_versioned(disk, f"{FOLDER}/{run}", Kept)
    if held is None:
        return b""
    return held.before if held.task == task else held.after


def keep_state(disk: Disk, run: str, task: str, before: bytes, after: bytes) -> None:
    """Keep what a task left, and forget the oldest of many runs.

    Raises:
        StoreError: It cannot be written.

    """
    disk.replace(f"{FOLDER}/{run}", encode(Kept(task=task, before=before, after=after)))
    kept = [f"{FOLDER}/{name}" for name in disk.names(FOLDER)]
    oldest = sorted(kept, key=lambda name: disk.path(name).stat().st_mtime)
    for name in oldest[:-MAX_RUNS]:
        disk.remove(name)
