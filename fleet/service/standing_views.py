"""How a device stands in learning, as people see it."""

from msgspec import Struct


class StandingView(Struct, frozen=True, kw_only=True):
    """What became of a device's updates.

    Attributes:
        accepted, refused: How many; older ones count for less.
        refusal: Why the last one was refused; "" if none was.
        left_out_why: Why it is left out of learning; None if it is not.

    """

    accepted: float
    refused: float
    refusal: str = ""
    left_out_why: str | None = None
