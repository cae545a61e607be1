"""The options of ``run start`` that say how the updates of a round become a model."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from fleet.rounds.strategies import RULES, USUAL_MAX_NORM

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--strategy",
        type=click.Choice(RULES),
        help="What the built-in program makes of a round's updates; default: fedavg.",
    ),
    click.option(
        "--server-learning-rate",
        type=float,
        help="How far the model goes along a round's aggregate; default: 1, and 0.1 under "
        "fedadam and fedyogi.",
    ),
    click.option(
        "--momentum", type=float, help="Under fedavgm, fedadam and fedyogi; default: 0.9."
    ),
    click.option(
        "--trim",
        type=float,
        help="Share that trimmed-mean cuts from either end of each coordinate; default: 0.2.",
    ),
    click.option(
        "--byzantine",
        type=int,
        help="How many devices may lie under krum and multi-krum; default: 1.",
    ),
    click.option(
        "--max-norm",
        type=float,
        help="Leave out updates so many times as long as the round's median one; 0 for none. "
        f"Default: {USUAL_MAX_NORM:g}, and with an app none.",
    ),
)


def strategy_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
