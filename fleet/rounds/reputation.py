"""How far a device's updates are to be trusted, told from what became of the earlier ones.

Rule 1: old verdicts fade: each new one takes a tenth off those before, so that a device is
        judged by its last ten or so.
Rule 2: left out is who had more refused than accepted, and two refused at the least; a
        device without a past has two accepted ones to lose.
Rule 3: a refusal that says nothing about the device (it declined, was late, or its app
        failed) is none.
"""

from dataclasses import dataclass
from typing import Final

FADING: Final = 0.9
CREDIT: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reputation:
    """Faded counts of a device's updates.

    Attributes:
        accepted, refused: The counts.
        why: Of the last refusal.

    """

    accepted: float = 0.0
    refused: float = 0.0
    why: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether the device is to be left out of learning."""
        return self.refused > self.accepted + CREDIT


def after(reputation: Reputation, refusal: str | None) -> Reputation:
    """Return the reputation after one more update.

    Args:
        reputation: That of before.
        refusal: Why the update was refused; None where it counted.

    """
    return Reputation(
        accepted=FADING * reputation.accepted + (refusal is None),
        refused=FADING * reputation.refused + (refusal is not None),
        why=reputation.why if refusal is None else refusal,
    )
