"""Whether the newest assignment has come: what signed time says beside what was accepted.

Rule 1: signed time names the order and the digest of the newest assignment. One that does
        not come is kept back by somebody on the way; our order with another digest means
        that two directors sign.
Rule 2: it may be on its way: only what a second signed time still misses is an alarm. The
        question in between says what we hold, so that an honest manager sends it again.
"""

from agent.contract.belief import Accepted
from agent.contract.messages import Fresh
from agent.errors import RollbackError
from agent.refusals import ForkedAssignmentError, WithheldAssignmentError


class Newest:
    """What signed time has announced and what has not come.

    Attributes:
        missing: Whether an assignment that was announced has yet to come.

    """

    def __init__(self) -> None:
        self.missing = False

    def compare(self, fresh: Fresh, held: Accepted | None) -> RollbackError | None:
        """Return what is wrong, if anything, given the newest assignment that was accepted."""
        known = held.digest if held else None
        if fresh.digest in (None, known):
            self.missing = False
            return None
        order = (fresh.director_epoch, fresh.sequence)
        if held is not None and order <= held.order:
            self.missing = False
            return None if order < held.order else _forked(order)
        waited, self.missing = self.missing, True
        return _withheld(order, held) if waited else None


def _forked(order: tuple[int, int]) -> RollbackError:
    return ForkedAssignmentError(f"the director signed another one under our number {order}")


def _withheld(order: tuple[int, int], held: Accepted | None) -> RollbackError:
    ours = f"ours is {held.order}" if held else "none came"
    return WithheldAssignmentError(
        f"the newest is {order} and {ours}: look whether the broker keeps it back"
    )
