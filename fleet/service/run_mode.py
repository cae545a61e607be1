"""Whom a run's rounds wait for: how many replies, or how many a buffer takes."""

from typing import Final

from fleet.errors import RefusedError
from fleet.rounds.strategies import ROBUST, Strategy
from fleet.service.wishes import RunWish

USUAL_BUFFER: Final = 10


def buffer_of(wish: RunWish, strategy: Strategy | None, trainers: int) -> int:
    """Return how many updates make a version of a buffered run; 0 for one in rounds.

    Args:
        wish: What was asked for.
        strategy: The built-in one; None beside an app.
        trainers: How many devices train.

    Raises:
        RefusedError: An app or a rule of whole rounds cannot be buffered, or the buffer could
            never be filled.

    """
    if wish.mode != "async":
        if wish.buffer is not None:
            raise RefusedError("--buffer belongs to --mode async: leave it out, or ask for that")
        return 0
    if strategy is None:
        raise RefusedError("an app drives rounds of its own: leave out --mode async, or the app")
    if strategy.name in ROBUST:
        raise RefusedError(
            f"{strategy.name} compares the updates of one round, and --mode async has none: "
            "take fedavg, fedprox, fedavgm, fedadam or fedyogi"
        )
    at_a_time = min(wish.clients or trainers, trainers)
    buffer = min(USUAL_BUFFER, at_a_time) if wish.buffer is None else wish.buffer
    if buffer > at_a_time:
        raise RefusedError(
            f"a buffer of {buffer} is more than the {at_a_time} devices that train at a time: "
            "lower --buffer, or ask for more clients"
        )
    return buffer


def minimum_of(wish: RunWish, usual: int, wanted: int) -> int:
    """Return how many replies a round must have.

    Args:
        wish: What was asked for.
        usual: The manager's setting.
        wanted: How many a round waits for.

    Raises:
        RefusedError: It waits for fewer than it must have.

    """
    if wish.minimum_replies is None:
        return min(usual, wanted)
    if wish.minimum_replies > wanted:
        raise RefusedError(
            f"a round must have {wish.minimum_replies} replies and wants {wanted}; "
            "lower --minimum-replies, or ask for more clients"
        )
    return wish.minimum_replies
