"""A simulation as a picture, by matplotlib, which only ``fieldfare[plot]`` installs.

Left: the global model over the rounds, one line for each seed; withheld windows full,
decide windows dashed. Right: every device-seed's withheld windows before and after; above
the diagonal is better.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

from fleet.errors import ConfigError
from fleet.simulation.figures import SimulatedRun

_PARTS: Final = {"trained": ("o", "trained"), "guard": ("s", "guard, took no part")}
_INCHES: Final = (10.0, 4.5)
_DOTS_PER_INCH: Final = 110


def require_matplotlib() -> Any:
    """Return matplotlib's ``Figure``, which draws without a screen.

    Raises:
        ConfigError: It is not installed, or does not load.

    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - the one place that needs it
    except ImportError as why:
        raise ConfigError(
            f"a plot needs matplotlib, which does not load here ({why}): "
            "pip install 'fieldfare[plot]', or leave --plot out and take --json"
        ) from why
    return Figure


def draw(runs: Sequence[SimulatedRun], title: str) -> bytes:
    """Return a PNG of what runs found out.

    Args:
        runs: At least one.
        title: Stands above it.

    Raises:
        ConfigError: matplotlib is not installed.

    """
    figure = require_matplotlib()(figsize=_INCHES, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"))  # no formula
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(runs):
        at, colour = [r.round for r in run.rounds], f"C{number % 10}"
        left.plot(at, [r.withheld for r in run.rounds], color=colour, label=f"seed {run.seed}")
        left.plot(at, [r.decide for r in run.rounds], color=colour, linestyle="--", alpha=0.5)
    left.set(xlabel="round", ylabel="mean accuracy of those who train")
    left.legend(fontsize="small")
    left.grid(visible=True, alpha=0.3)
    for part, (marker, label) in _PARTS.items():
        chosen = [d for run in runs for d in run.devices if d.part == part]
        before = [d.withheld_before.accuracy for d in chosen if d.withheld_before.windows]
        after = [d.withheld_after.accuracy for d in chosen if d.withheld_before.windows]
        if chosen:
            right.scatter(before, after, marker=marker, alpha=0.6, label=label)
    right.axline((0.5, 0.5), slope=1, color="grey", linewidth=0.8)
    right.set(xlabel="before, withheld windows", ylabel="after")
    right.legend(fontsize="small", loc="lower right")
    right.grid(visible=True, alpha=0.3)
    made = BytesIO()
    figure.savefig(made, format="png", dpi=_DOTS_PER_INCH)
    return made.getvalue()
