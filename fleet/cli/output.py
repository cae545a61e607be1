"""How views are printed: tables for people, JSON for programs.

Rule 1: devices, models and strangers wrote a part of every view, so nothing reaches the
        terminal that could move on it: ``tell`` and ``table`` print plain text only.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click
import msgspec

from agent.contract.messages import Quality
from agent.contract.plain_text import plain, plain_json
from fleet.cli.client import PATIENCE_SECONDS, ManagerClient
from fleet.config import FleetConfig, default_home

P = ParamSpec("P")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--home``: the manager's folder."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        default=default_home,
        show_default="FIELDFARE_HOME or ./fieldfare-home",
        help="Folder of the manager.",
    )(command)


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-o``: text or json."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="How to print.",
    )(command)


def with_manager(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--home`` and ``-o``, and hand the command a client of the running manager."""

    @wraps(command)
    def run(home: Path, **options: Any) -> None:
        with client_of(FleetConfig.load(home)) as client:
            command(client=client, **options)

    return home_option(output_option(run))


def client_of(config: FleetConfig) -> ManagerClient:
    """Return a client of the manager that runs in this home."""
    return ManagerClient(config.socket, patience_seconds=PATIENCE_SECONDS)


def show(view: object, output: str, text: Callable[[], None]) -> None:
    """Print a view as JSON, or let ``text`` print it."""
    if output == "json":
        click.echo(plain_json(msgspec.json.format(msgspec.json.encode(view), indent=2).decode()))
    else:
        text()


def tell(line: str, *, err: bool = False) -> None:
    """Print one line that others wrote a part of."""
    click.echo(plain(line), err=err)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """Print rows in columns, or one sentence where there are none."""
    if not rows:
        click.echo(empty)
        return
    cells = [[str(h) for h in headings]] + [[plain(str(c)) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.secho(line.rstrip(), bold=number == 0)


def ago(then_ms: int, now: datetime | None = None) -> str:
    """Return how long ago a moment was, in one short word."""
    if not then_ms:
        return "never"
    seconds = int(((now or datetime.now(UTC)).timestamp() * 1000 - then_ms) / 1000)
    if seconds < _MINUTE:
        return f"{max(seconds, 0)}s ago"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}min ago"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h ago"
    return f"{seconds // _DAY}d ago"


def told_right(quality: Quality) -> str:
    """Return how many were right, of how many, and the share."""
    return f"{quality.right} of {quality.windows} right ({quality.accuracy:.3f})"


def share_right(quality: Quality | None) -> str:
    """Return an accuracy and of how many, or a dash."""
    return f"{quality.accuracy:.3f} ({quality.windows})" if quality else "-"


def moment(at_ms: int) -> str:
    """Return a moment in UTC, to the minute."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
