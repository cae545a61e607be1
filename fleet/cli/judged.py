"""What devices and cohorts make of a candidate, in tables for people."""

from agent.contract.messages import Quality
from fleet.cli.output import table, tell
from fleet.service.judged_views import CohortView, FiguresView, MeasuredView
from fleet.service.views import RunView

_DEVICES = ("DEVICE", "PART", "DECIDE", "WITHHELD", "VERDICT", "WHY")
_COHORTS = ("COHORT", "DEVICES", "ON", "BEFORE", "AFTER", "CHANGE", "WORST TENTH", "VERDICT")


def print_figures(view: RunView) -> None:
    """Print the figures of each device and of each cohort, where there are some yet."""
    rows = [
        (
            j.device,
            "trained" if j.trained else "guard",
            _change(j.decide_before, j.decide_after),
            _change(j.withheld_before, j.withheld_after),
            _verdict(j.receives),
            j.why,
        )
        for j in view.judged
    ]
    if rows:
        table(_DEVICES, rows, "")
    if view.cohorts:
        table(_COHORTS, [row for c in view.cohorts for row in _rows(c)], "")
    print_held_out(view)
    if view.promotion:
        release = view.promotion.release
        tell(f"  {f'released as {release}' if release else 'not released'}: {view.promotion.why}")


def print_held_out(view: RunView) -> None:
    """Print what came of the operator's own labelled windows, where there were any."""
    if view.held_out is None:
        return
    if view.held_out.figures is None:
        tell(f"  held-out set: {view.held_out.why}")
        return
    before, after, change, _ = _told(view.held_out.figures)
    windows = view.held_out.figures.before.windows
    tell(f"  held-out set of {windows} windows: {before} → {after}, {change}; decides nothing")


def _rows(cohort: CohortView) -> list[tuple[object, ...]]:
    """Return a cohort's two lines; only the first decides."""
    decided = (cohort.name, len(cohort.devices), "decide", *_told(cohort.decide))
    quoted = ("", "", "withheld", *_told(cohort.withheld))
    return [(*decided, _verdict(cohort.receives)), (*quoted, "")]


def _told(figures: FiguresView | None) -> tuple[str, str, str, str]:
    if figures is None:
        return "-", "-", "-", "-"
    change = figures.change
    return (
        _measured(figures.before),
        _measured(figures.after),
        f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})",
        f"{figures.worst_decile:+.3f}",
    )


def _measured(measured: MeasuredView) -> str:
    return f"{measured.accuracy:.3f} ({measured.low:.3f} to {measured.high:.3f})"


def _verdict(receives: bool) -> str:
    return "receives" if receives else "keeps"


def _change(before: Quality | None, after: Quality | None) -> str:
    if before is None or after is None:
        return "-"
    return f"{before.accuracy:.3f} → {after.accuracy:.3f} (n={after.windows})"
