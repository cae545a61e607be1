"""The options of ``run start`` that say whom a round asks, and for what it waits."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--clients",
        type=click.IntRange(1, 100_000),
        help="How many good answers a round waits for; default: of all that it asks. With "
        "--mode async, how many devices train at a time.",
    ),
    click.option(
        "--over-selection",
        "over_selection_percent",
        type=click.IntRange(100, 1000),
        default=130,
        show_default=True,
        help="Percent of --clients that a round asks, so that a silent device costs no time.",
    ),
    click.option(
        "--minimum-replies",
        type=click.IntRange(1, 10_000),
        help="Fewer good answers to a round end the run; default: minimum_replies in fleet.toml.",
    ),
    click.option(
        "--deadline",
        "deadline_seconds",
        type=click.IntRange(1, 86_400),
        help="Seconds that a round waits for answers; default: task_seconds in fleet.toml.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["sync", "async"]),
        default="sync",
        show_default=True,
        help="async: no round waits for slow devices. The next version is made as soon as "
        "--buffer answers are in, whichever version they started from; older ones count less.",
    ),
    click.option(
        "--buffer",
        type=click.IntRange(1, 10_000),
        help="With --mode async, how many answers make a version; default: 10, or all devices.",
    ),
)


def round_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
