"""How the rounds of a run go, as text."""

from fleet.cli.output import table, tell
from fleet.service.round_views import RoundView
from fleet.service.views import RunView


def print_rounds(view: RunView) -> None:
    """Print the newest rounds, and why devices of the last one gave no result."""
    if view.elsewhere:
        tell(f"  {view.elsewhere} more take part in another run and were left out")
    if not view.latest:
        return
    rows = [
        (
            each.number,
            each.kind,
            f"{each.asked} of {each.named}",
            f"{each.answered} of {each.wanted}",
            each.without,
            each.open,
            each.late,
            each.again,
        )
        for each in view.latest
    ]
    headings = ("ROUND", "KIND", "ASKED", "ANSWERED", "WITHOUT", "OPEN", "LATE", "AGAIN")
    table(headings, rows, "")
    for line in _reasons(view.latest[-1]):
        tell(f"  {line}")


def _reasons(last: RoundView) -> list[str]:
    without = [f"{count} without a result: {why}" for why, count in last.reasons.items()]
    return [*without, *(f"{count} later: {why}" for why, count in last.put_off.items())]
