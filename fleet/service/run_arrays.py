"""What a federated run made, as arrays: of any model, a candidate for a release or not."""

from msgspec import Struct

from fleet.errors import ConflictError
from fleet.registry.runs import RunRow
from fleet.rounds.engine import FINAL
from fleet.service.desk import Desk
from fleet.service.run_doors import row_of


class ArraysView(Struct, frozen=True, kw_only=True):
    """The last arrays of a run; ``message`` is a Flower message that holds them as ``arrays``."""

    run: str
    message: bytes


def arrays(desk: Desk, run: str) -> ArraysView:
    """Return what a run made.

    Raises:
        NotFoundError: There is none with this id.
        ConflictError: It made nothing, or what it made was removed.

    """
    row = row_of(desk, run)
    message = desk.registry.runs.blob(run, FINAL)
    if message is None:
        raise ConflictError(f"{run} has no arrays: {_why(desk, row)}")
    return ArraysView(run=run, message=message)


def _why(desk: Desk, row: RunRow) -> str:
    if row.status != "finished":
        return f"it is {row.status}"
    days = desk.config.retention.runs_days
    return f"they were removed {days} days after its end (retention.runs_days)"
