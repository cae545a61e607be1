"""What the operator may choose about candidates that the manager promotes by itself."""

from dataclasses import dataclass

from fleet.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionConfig:
    """``[promotion]``: of ``run start --promote auto``, which needs ``keys rounds create``.

    Attributes:
        per_day: At most so many releases of a family are signed with the manager's own key
            in 24 hours.
        canary: Size of the first wave: ``1`` (devices) or ``5%``.
        soak_seconds: Quiet time after a wave before the next.

    """

    per_day: int = 4
    canary: str = "1"
    soak_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.per_day < 1:
            raise ConfigError(f"promotion.per_day {self.per_day} is below 1")
        if not self.canary.removesuffix("%").isdigit():
            raise ConfigError(f"promotion.canary {self.canary!r} is not a size like 1 or 5%")
        if self.soak_seconds < 0:
            raise ConfigError(f"promotion.soak_seconds {self.soak_seconds} is below 0")
