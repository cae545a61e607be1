"""What the operator may choose about the health of the machine.

The section stands in the one configuration file, and its rules are those of ``config``.
"""

from typing import Annotated

from msgspec import Meta, Struct

Celsius = Annotated[float, Meta(ge=0, le=200)]


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[health]``: when a hot device works less, so that it does not fail.

    A device whose hottest zone reaches ``hot_celsius``, or that says itself that heat holds
    it back, answers every second window of its streams only, then every fourth, and so on;
    requests are always answered. Meanwhile it defers tasks of federated rounds.

    Attributes:
        look_seconds: How often the temperature is looked at.
        hot_celsius: From here on half as many windows at each look.
        critical_celsius: From here on as few as ``slowest`` says, at once.
        cool_by: A device is cool again so much below ``hot_celsius``.
        slowest: At least one in so many windows is answered, a power of two; 1 leaves none out.

    """

    look_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    hot_celsius: Celsius = 85.0
    critical_celsius: Celsius = 95.0
    cool_by: Annotated[float, Meta(ge=0, le=100)] = 5.0
    slowest: Annotated[int, Meta(ge=1, le=1024)] = 8

    def __post_init__(self) -> None:
        if self.slowest & (self.slowest - 1):
            raise ValueError(f"slowest is {self.slowest}, no power of two: 1, 2, 4, 8 …")
        if self.critical_celsius < self.hot_celsius:
            raise ValueError("critical_celsius is below hot_celsius")
