"""How heads are trained where nobody says otherwise; docs/federated-study.md has the figures.

Rule 1: the anchor holds to the running release's head. One at the head that a round began
        with gives way from round to round: after 20 rounds those who took no part lose.
Rule 2: FedProx is defined by a pull towards the round's model, and an operator's app says
        itself what devices get: both have the anchor at the head received.
"""

from typing import Final

from fleet.rounds.events import AnchorTo, Training
from fleet.rounds.strategies import Strategy

ANCHORS: Final[dict[AnchorTo, float]] = {"running": 0.005, "received": 0.05}
"""The usual strength of each."""


def usual_training() -> Training:
    """Return how heads are trained under a built-in strategy where nothing is said."""
    return training_of(
        learning_rate=None, epochs=None, anchor=None, anchor_to=None, strategy=Strategy()
    )


def training_of(
    *,
    learning_rate: float | None,
    epochs: int | None,
    anchor: float | None,
    anchor_to: AnchorTo | None,
    strategy: Strategy | None,
) -> Training:
    """Return how heads are trained; what is None is usual.

    Args:
        learning_rate: As of ``Training``.
        epochs: As of ``Training``.
        anchor: As of ``Training``.
        anchor_to: What the anchor pulls towards.
        strategy: The built-in one; None beside an operator's app.

    Raises:
        RefusedError: A value is out of its range.

    """
    usual = Training()
    given = anchor_to or (
        "received" if strategy is None or strategy.name == "fedprox" else "running"
    )
    return Training(
        learning_rate=usual.learning_rate if learning_rate is None else learning_rate,
        epochs=usual.epochs if epochs is None else epochs,
        anchor=ANCHORS[given] if anchor is None else anchor,
        anchor_to=given,
    )
