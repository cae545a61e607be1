"""Which strategy a run was asked for, and whether its devices are enough for it."""

from typing import Any

from fleet.errors import RefusedError
from fleet.rounds.strategies import USUAL_MAX_NORM, Strategy
from fleet.service.wishes import RunWish

MAX_BOUND = 1e6


def strategy_of(wish: RunWish, *, app: bool) -> Strategy | None:
    """Return the built-in strategy that a run was asked for; none beside an app.

    Raises:
        RefusedError: A setting fits no strategy, or not this one.

    """
    settings: dict[str, Any] = {
        "server_learning_rate": wish.server_learning_rate,
        "momentum": wish.momentum,
        "trim": wish.trim,
        "byzantine": wish.byzantine,
    }
    if app:
        if wish.strategy is not None or any(v is not None for v in settings.values()):
            raise RefusedError(
                "an app brings a strategy of its own: leave out --strategy and its settings, "
                "or the app"
            )
        return None
    strategy = Strategy(name=wish.strategy or "fedavg", **settings)  # type: ignore[arg-type]  # it judges the name itself
    if strategy.name == "fedprox" and wish.anchor == 0:
        raise RefusedError("fedprox with an anchor of 0 is fedavg: ask for that, or raise --anchor")
    return strategy


def enough_replies(strategy: Strategy | None, minimum: int, wanted: int) -> int:
    """Return how many replies a round must have, for the strategy as well.

    Args:
        strategy: The built-in one.
        minimum: How many were asked for.
        wanted: How many a round waits for.

    Raises:
        RefusedError: It waits for fewer than the strategy needs.

    """
    needs = strategy.needed_replies if strategy else 1
    if strategy and wanted < needs:
        raise RefusedError(
            f"{strategy.name} needs {needs} replies in every round, and this run's rounds "
            f"wait for {wanted}: select more devices, or take another strategy"
        )
    return max(minimum, needs)


def bound_of(wish: RunWish, *, app: bool) -> float | None:
    """Return how many times the median step an update may be as long; None for any.

    Raises:
        RefusedError: It is no such number.

    """
    if wish.max_norm is None:
        return None if app else USUAL_MAX_NORM
    if wish.max_norm == 0:
        return None
    if not 1 <= wish.max_norm <= MAX_BOUND:
        raise RefusedError(
            f"--max-norm {wish.max_norm:g} is not 1 to {MAX_BOUND:.0f} times the median step; "
            "0 sets no bound"
        )
    return wish.max_norm
