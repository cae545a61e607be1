"""``fieldfare run simulate``: a run on simulated devices, before a fleet is touched."""

from pathlib import Path
from typing import Any

import click

from agent.contract.messages import Quality
from fleet.cli.output import table, tell
from fleet.cli.strategy_options import strategy_options
from fleet.errors import ConfigError

MAX_SEEDS = 100


def _png(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix.lower() != ".png":
        raise click.BadParameter(f"{value} does not end in .png")
    return value


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument(
    "samples", type=click.Path(path_type=Path, exists=True, dir_okay=False), nargs=-1, required=True
)
@click.option(
    "--split",
    type=click.Choice(["natural", "dirichlet"]),
    default="natural",
    show_default=True,
    help="Who has which windows: as the files say, or dealt out anew.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(min=0.001, max=10_000),
    help="Of a Dirichlet split, default 0.5: 0.1 gives each device few classes, 100 all of them.",
)
@click.option(
    "--devices",
    type=click.IntRange(1, 10_000),
    help="How many: of a Dirichlet split, default 10; of a natural one so many drawn by the seed.",
)
@click.option("--guard", default="", help="Names of devices that judge and do not train, by comma.")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Of training."
)
@strategy_options
@click.option("--learning-rate", type=float, help="Of the built-in head trainer.")
@click.option("--epochs", type=int, help="Passes over a device's windows in each round.")
@click.option("--anchor", type=float, help="How strongly a head is held near the anchor.")
@click.option(
    "--anchor-to",
    type=click.Choice(["running", "received"]),
    help="The running release's head (usual), or the head that the round began with.",
)
@click.option(
    "--drop",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Share of devices that each round loses.",
)
@click.option(
    "--attackers",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Share of devices that send ten times the opposite of what they learned.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="The first one."
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MAX_SEEDS),
    default=1,
    show_default=True,
    help="How many, from --seed on: splits, drops and attackers differ.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write everything there; - prints it instead of the tables.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_png,
    help="Draw it as a PNG; needs fieldfare[plot].",
)
def simulate(json_file: Path | None, plot: Path | None, **asked: Any) -> None:
    """Do a federated run of MODEL's head on simulated devices that have SAMPLES.

    MODEL is an ONNX file with a trainable head, as for 'model publish'. SAMPLES are files as
    of [learn] samples, one device each, or with an array 'device' that names the device of
    each window. No manager, no broker: the fleet's own strategies and the device's own
    trainer in one process. Candidates are judged and would be promoted as a fleet's are.
    """
    from fleet.simulation.asked import report_of, wish_of, written
    from fleet.simulation.plot import draw, require_matplotlib

    for file in (json_file, plot):
        if file is not None and str(file) != "-" and not file.absolute().parent.is_dir():
            raise ConfigError(f"{file} cannot be written: there is no such folder")
    if plot is not None:
        require_matplotlib()
    report = report_of(wish_of(asked))
    if plot is not None:
        _write(plot, draw(report.runs, report.title))
    if json_file is not None and str(json_file) != "-":
        _write(json_file, written(report))
    if json_file is not None and str(json_file) == "-":
        click.echo(written(report), nl=False)
        return
    _print(report)


def _write(file: Path, content: bytes) -> None:
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError as why:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{file} cannot be written: {why.strerror or why}") from why


def _print(report: Any) -> None:
    tell(report.title)
    last = report.runs[-1]
    rows = [
        (r.round, f"{r.decide:.3f}", f"{r.withheld:.3f}", r.replies or "", r.refused or "")
        for r in last.rounds
    ]
    headings = ("ROUND", "DECIDE", "WITHHELD", "REPLIES", "REFUSED")
    tell(f"seed {last.seed}, mean accuracy of those who train:")
    table(headings, rows, "")
    shown = [
        (
            d.device,
            d.part,
            d.train_windows,
            _change(d.decide_before, d.decide_after),
            _change(d.withheld_before, d.withheld_after),
            f"{d.withheld_personal.accuracy:.3f}" if d.withheld_personal else "-",
            "receives" if d.receives else "keeps",
        )
        for d in last.devices
    ]
    table(("DEVICE", "PART", "TRAIN", "DECIDE", "WITHHELD", "PERSONAL", "VERDICT"), shown, "")
    for run in report.runs:
        if run.why:
            tell(f"seed {run.seed} ended early: {run.why}")
    for sentence in last.refusals:
        tell(f"refused: {sentence}")
    _print_summary(report)


def _change(before: Quality, after: Quality) -> str:
    return f"{before.accuracy:.3f} → {after.accuracy:.3f}" if before.windows else "-"


def _print_summary(report: Any) -> None:
    summary = report.summary
    tell(f"withheld windows, seeds: {len(report.runs)}, change with its 95 % interval:")
    parts = (("trained", summary.trained), ("personal heads", summary.personal))
    rows = [
        (
            name,
            t.devices,
            f"{t.before:.3f}",
            f"{t.after:.3f}",
            f"{t.change:+.3f} ({t.low:+.3f} to {t.high:+.3f})",
            f"{t.worst_tenth:+.3f}",
        )
        for name, t in (*parts, ("guard", summary.guard))
        if t is not None
    ]
    table(("WHO", "DEVICES", "BEFORE", "AFTER", "CHANGE", "WORST TENTH"), rows, "nobody")
    total = sum(len(run.devices) for run in report.runs)
    tell(
        f"{summary.receivers} of {total} device-seeds would receive the candidate; "
        f"{summary.receivers_worse} of them lose more than 0.05"
    )
