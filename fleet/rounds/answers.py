"""What the conductor makes of words from outside: of the Flower app, and of a device's judgement.

Rule 1: pure: nothing is kept or sent here.
Rule 2: what cannot be used is refused whole, with the sentence that ends up in the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from agent.contract.limits import MAX_FLOWER_BYTES
from agent.contract.rounds import TaskAnswer
from fleet.errors import RefusedError
from fleet.rounds import engine
from fleet.rounds.events import Evaluated, NotEvaluated, Posted
from fleet.rounds.pipe import Push


@dataclass(frozen=True, slots=True)
class Wording:
    """A Flower message to one device, whose greater part all devices of a send share."""

    own: bytes
    shared: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return len(self.own) + len(self.shared)

    @property
    def digest(self) -> str:
        """SHA-256 of the whole message."""
        hashed = sha256(self.own)
        hashed.update(self.shared)
        return hashed.hexdigest()

    def whole(self) -> bytes:
        """Return the message."""
        return self.own + self.shared if self.shared else self.own


def tasks_of(run: str, push: Push, devices: Mapping[int, str]) -> list[tuple[Posted, Wording]]:
    """Return the tasks that a push asks for, each with its Flower message.

    Args:
        run: Name of the run.
        push: The app's words.
        devices: Participants by node.

    Raises:
        RefusedError: The app sends what no device takes.

    """
    tasks = []
    for instruction in push.instructions:
        device, kind = devices.get(instruction.node), instruction.kind.partition(".")[0]
        wording = Wording(instruction.content, push.shared)
        size = wording.size
        if device is None or kind not in ("train", "evaluate") or size > MAX_FLOWER_BYTES:
            raise RefusedError(
                f"the Flower app sends {size} bytes of {instruction.kind!r} to node "
                f"{instruction.node}; devices take train and evaluate, "
                f"at most {MAX_FLOWER_BYTES} bytes"
            )
        task = engine.task_name(run, push.ordinal, device)
        posted = Posted(task=task, device=device, kind=kind, digest=wording.digest)
        tasks.append((posted, wording))
    return tasks


def judgement_of(device: str, answer: TaskAnswer, at_ms: int) -> Evaluated | NotEvaluated:
    """Return what a device's answer says of the candidate; figures count together or not."""
    decide, withheld = answer.decide, answer.withheld
    decide_running, withheld_running = answer.decide_running, answer.withheld_running
    if decide and withheld and decide_running and withheld_running and answer.outcome == "done":
        return Evaluated(
            device=device,
            decide=decide,
            withheld=withheld,
            decide_running=decide_running,
            withheld_running=withheld_running,
            at_ms=at_ms,
        )
    why = answer.why or f"{answer.outcome} without all figures"
    return NotEvaluated(device=device, why=why[:500], at_ms=at_ms)
