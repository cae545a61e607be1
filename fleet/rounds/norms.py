"""Which updates of a round are far longer than the others.

Rule 1: judged when a round closes, from what is journalled: the order in which answers
        came changes nothing.
Rule 2: the measure is the median, which less than half of the devices cannot move; two
        updates have no majority, so that neither is left out.
"""

from collections.abc import Mapping
from statistics import median
from typing import Final

FEWEST: Final = 3


def too_long(norms: Mapping[str, float], times: float) -> dict[str, str]:
    """Return which updates are more than ``times`` as long as the median one, and why so.

    >>> too_long({"t-a": 1.0, "t-b": 1.2, "t-c": 90.0}, 10)
    {'t-c': "its step of length 90 is over 10 times the round's median of 1.2"}
    """
    if len(norms) < FEWEST:
        return {}
    usual = median(norms.values())
    return {
        task: f"its step of length {norm:.4g} is over {times:g} times the round's median "
        f"of {usual:.4g}"
        for task, norm in sorted(norms.items())
        if norm > times * usual > 0
    }
