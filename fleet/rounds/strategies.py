"""Which rule makes one model of a round's updates, and with which settings.

    means     fedavg, fedprox     weighted by examples (McMahan et al. 2017, arXiv 1602.05629;
                                  Li et al. 2020, arXiv 1812.06127: its pull is the device's)
              fedavgm             with momentum of the server (Hsu et al. 2019, arXiv 1909.06335)
              fedadam, fedyogi    with adaptive steps (Reddi et al. 2021, arXiv 2003.00295)
    robust    median, trimmed-mean  by coordinate (Yin et al. 2018, arXiv 1803.01498)
              krum, multi-krum    by distance (Blanchard et al. 2017, NeurIPS 30)

Rule 1: a setting that a rule does not use is refused, not ignored.
Rule 2: robust rules count every device once: its examples are its own word.
"""

from typing import Final, Literal

from msgspec import Struct

from fleet.errors import RefusedError

RuleName = Literal[
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
]
RULES: Final[tuple[RuleName, ...]] = (
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
)
ADAPTIVE: Final = frozenset({"fedadam", "fedyogi"})
WITH_MOMENTUM: Final = frozenset({"fedavgm", "fedadam", "fedyogi"})
BY_DISTANCE: Final = frozenset({"krum", "multi-krum"})
ROBUST: Final = BY_DISTANCE | {"median", "trimmed-mean"}
MAX_SERVER_RATE: Final = 10.0
MAX_BYZANTINE: Final = 1000
USUAL_RATE: Final = 1.0
USUAL_ADAPTIVE_RATE: Final = 0.1
USUAL_MOMENTUM: Final = 0.9
USUAL_TRIM: Final = 0.2
USUAL_BYZANTINE: Final = 1
USUAL_MAX_NORM: Final = 10.0


class Strategy(Struct, frozen=True, kw_only=True):
    """A rule of the list above; what is None is usual.

    Attributes:
        name: The rule.
        server_learning_rate: How far the model goes along the aggregate; above 0, up to
            10, usually 1, with adaptive steps 0.1.
        momentum: Of the server, from 0 to below 1, usually 0.9; fedavgm, fedadam, fedyogi.
        trim: Share that is cut from either end of each coordinate, above 0 and below
            0.5, usually 0.2; trimmed-mean.
        byzantine: How many devices may lie, 0 to 1000, usually 1; krum, multi-krum.

    """

    name: RuleName = "fedavg"
    server_learning_rate: float | None = None
    momentum: float | None = None
    trim: float | None = None
    byzantine: int | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise RefusedError(f"there is no strategy {self.name!r}; known are {', '.join(RULES)}")
        rate = self.rate
        if not 0 < rate <= MAX_SERVER_RATE:
            raise RefusedError(
                f"a server learning rate of {rate} is not above 0 and at most {MAX_SERVER_RATE}"
            )
        self._only("momentum", self.momentum is not None, WITH_MOMENTUM)
        self._only("trim", self.trim is not None, {"trimmed-mean"})
        self._only("byzantine", self.byzantine is not None, BY_DISTANCE)
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise RefusedError(f"a momentum of {self.momentum} is not from 0 to below 1")
        if self.trim is not None and not 0 < self.trim < 0.5:  # noqa: PLR2004 -- half from either end is all
            raise RefusedError(f"a trim of {self.trim} is not above 0 and below 0.5")
        if self.byzantine is not None and not 0 <= self.byzantine <= MAX_BYZANTINE:
            raise RefusedError(f"{self.byzantine} byzantine devices are not 0 to {MAX_BYZANTINE}")

    @property
    def rate(self) -> float:
        """The server's learning rate."""
        usual = USUAL_ADAPTIVE_RATE if self.name in ADAPTIVE else USUAL_RATE
        return usual if self.server_learning_rate is None else self.server_learning_rate

    @property
    def beta(self) -> float:
        """The server's momentum; 0 where the rule has none."""
        usual = USUAL_MOMENTUM if self.name in WITH_MOMENTUM else 0.0
        return usual if self.momentum is None else self.momentum

    @property
    def share(self) -> float:
        """What trimmed-mean cuts from either end."""
        return USUAL_TRIM if self.trim is None else self.trim

    @property
    def liars(self) -> int:
        """How many devices krum and multi-krum assume to lie."""
        return USUAL_BYZANTINE if self.byzantine is None else self.byzantine

    @property
    def needed_replies(self) -> int:
        """Fewer updates than this make no round of this rule.

        Krum needs ``2 f + 3`` (Blanchard et al. 2017); a median or a trimmed mean of two
        protects from nobody.
        """
        if self.name in BY_DISTANCE:
            return 2 * self.liars + 3
        if self.name == "trimmed-mean":  # the fewest of which one is cut from either end
            return max(3, next(n for n in range(3, 10_001) if int(self.share * n) >= 1))
        return 3 if self.name == "median" else 1

    def _only(self, setting: str, given: bool, rules: frozenset[str] | set[str]) -> None:  # noqa: FBT001 -- private
        if given and self.name not in rules:
            raise RefusedError(
                f"strategy {self.name} has no {setting}; it belongs to {', '.join(sorted(rules))}"
            )
