"""What is compared: each method says which head every wrist of a set ends up with.

Rule 1: a run is the fleet's own, by ``fleet.simulation``; what the fleet does not do is
        written here, and says so in its name.
Rule 2: nobody's *decide* or *withheld* window teaches. Local normalisation reads a wrist's
        *train* windows without their labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.learn.samples import LabelledWindows, Split
from agent.learn.trainer import HeadTraining, LinearHead, train_head
from fleet.rounds.events import AnchorTo, Training
from fleet.rounds.heads import HeadArrays
from fleet.simulation.rounds import PERSONAL, Settings, train
from scripts.study_program.wrists import KNOWN, Base, Wrists

Heads = Mapping[str, LinearHead]
Method = Callable[[Base, Wrists], Callable[[str, LabelledWindows], LinearHead]]
"""Base and training wrists in; the head of any wrist, by its name and windows, out."""
REHEARSING = KNOWN[:2]
_FLOOR = 1e-3


def rounds_of(
    rounds: int, anchor: float, anchor_to: AnchorTo, *, rehearsing: bool = False
) -> Method:
    """Return federated averaging of heads as the fleet does it."""

    def method(base: Base, trainers: Wrists) -> Callable[[str, LabelledWindows], LinearHead]:
        cohort = {**trainers, **base.of(REHEARSING)} if rehearsing else trainers
        made = linear(_run(base, cohort, rounds, anchor, anchor_to))
        return lambda _name, _windows: made

    return method


def halfway(rounds: int, anchor: float) -> Method:
    """Return the middle between the running head and a run's (Wortsman et al. 2022)."""

    def method(base: Base, trainers: Wrists) -> Callable[[str, LabelledWindows], LinearHead]:
        made = _run(base, trainers, rounds, anchor, "received")
        middle = LinearHead(
            weight=(made.weight + base.head.weight) / 2, bias=(made.bias + base.head.bias) / 2
        )
        return lambda _name, _windows: middle

    return method


def alone(base: Base, trainers: Wrists) -> Callable[[str, LabelledWindows], LinearHead]:
    """Each wrist by itself, from the running head; who does not train keeps that."""
    running = linear(base.head)
    return lambda name, windows: _taught(running, windows) if name in trainers else running


def ditto(rounds: int, anchor: float) -> Method:
    """Return a personal head with a pull towards the run's (Li et al. 2021)."""

    def method(base: Base, trainers: Wrists) -> Callable[[str, LabelledWindows], LinearHead]:
        shared = linear(_run(base, trainers, rounds, anchor, "running"))
        return lambda name, windows: _taught(shared, windows) if name in trainers else shared

    return method


def local_normalisation(rounds: int, anchor: float) -> Method:
    """Return FedBN over embeddings (Li et al. 2021): statistics stay at home, heads travel.

    A head is of standardised features; every wrist, trained or not, standardises by its own.
    With no rounds it is the running head over local statistics (AdaBN, Li et al. 2016).
    """

    def method(base: Base, trainers: Wrists) -> Callable[[str, LabelledWindows], LinearHead]:
        known = [w.of(Split.TRAIN)[0][:, :, 0] for w in base.of(KNOWN).values()]
        mean, deviation = _statistics(np.concatenate(known))
        weight, bias = base.head.weight * deviation, base.head.bias + base.head.weight @ mean
        start = np.column_stack([weight, bias]).astype(np.float64)
        shared = start
        for _ in range(rounds):
            made, counts = [], []
            for windows in trainers.values():
                x, y = windows.of(Split.TRAIN)
                made.append(_descend(shared, start, _standard(x[:, :, 0]), y, anchor))
                counts.append(len(y))
            shared = np.average(made, axis=0, weights=counts)

        def head(_name: str, windows: LabelledWindows) -> LinearHead:
            own_mean, own = _statistics(windows.of(Split.TRAIN)[0][:, :, 0])
            weight = shared[:, :-1] / own
            bias = shared[:, -1] - weight @ own_mean
            return LinearHead(weight=weight.astype(np.float32), bias=bias.astype(np.float32))

        return head

    return method


def linear(head: HeadArrays) -> LinearHead:
    """Return the head as the device's trainer knows it."""
    return LinearHead(weight=head.weight, bias=head.bias)


def _run(
    base: Base, trainers: Wrists, rounds: int, anchor: float, anchor_to: AnchorTo
) -> HeadArrays:
    training = Training(anchor=anchor, anchor_to=anchor_to)
    settings = Settings(rounds=rounds, training=training, seed=base.seed)
    return train(base.head, trainers, settings)[0]


def _taught(head: LinearHead, windows: LabelledWindows) -> LinearHead:
    x, y = windows.of(Split.TRAIN)
    return train_head(head, x[:, :, 0], y, PERSONAL)


def _statistics(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = x.astype(np.float64)
    return wide.mean(axis=0), wide.std(axis=0) + _FLOOR


def _standard(x: NDArray[np.float32]) -> NDArray[np.float64]:
    mean, deviation = _statistics(x)
    return np.column_stack([(x - mean) / deviation, np.ones(len(x))])


def _descend(
    head: NDArray[np.float64],
    towards: NDArray[np.float64],
    features: NDArray[np.float64],
    y: NDArray[np.int64],
    anchor: float,
) -> NDArray[np.float64]:
    usual, found = HeadTraining(), head.copy()
    wanted = np.eye(len(head))[y]
    for _ in range(usual.epochs):
        logits = features @ found.T
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope = (powers / powers.sum(axis=1, keepdims=True) - wanted).T @ features / len(y)
        found -= usual.learning_rate * (slope + anchor * (found - towards))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A method with its name in the tables.

    Attributes:
        key: In the JSON.
        rehearsing: People 1 and 2 take part, so that only 3 and 4 are a guard.
        in_fleet: Whether ``run start`` does it today.

    """

    key: str
    name: str
    method: Method
    rehearsing: bool = False
    in_fleet: bool = True


METHODS = (
    Named(key="loose-20", name="no anchor, 20 rounds", method=rounds_of(20, 0.0, "received")),
    Named(
        key="received-3",
        name="anchor at the head received (FedProx) 0.05, 3 rounds",
        method=rounds_of(3, 0.05, "received"),
    ),
    Named(
        key="received-20",
        name="anchor at the head received (FedProx) 0.05, 20 rounds",
        method=rounds_of(20, 0.05, "received"),
    ),
    Named(
        key="running-3",
        name="anchor at the running head 0.005, 3 rounds: usual",
        method=rounds_of(3, 0.005, "running"),
    ),
    Named(
        key="running-20",
        name="anchor at the running head 0.005, 20 rounds",
        method=rounds_of(20, 0.005, "running"),
    ),
    Named(
        key="tight-20",
        name="anchor at the running head 0.02, 20 rounds",
        method=rounds_of(20, 0.02, "running"),
    ),
    Named(
        key="rehearsal-20",
        name="anchor at the running head 0.005, 20 rounds, people 1 and 2 rehearse",
        method=rounds_of(20, 0.005, "running", rehearsing=True),
        rehearsing=True,
    ),
    Named(
        key="rehearsal-loose-20",
        name="anchor at the head received 0.05, 20 rounds, people 1 and 2 rehearse",
        method=rounds_of(20, 0.05, "received", rehearsing=True),
        rehearsing=True,
    ),
    Named(
        key="halfway-20",
        name="halfway to the head of 20 rounds, anchor at the head received",
        method=halfway(20, 0.05),
        in_fleet=False,
    ),
    Named(
        key="normalised-0",
        name="local normalisation, no training (AdaBN)",
        method=local_normalisation(0, 0.0),
        in_fleet=False,
    ),
    Named(
        key="normalised-20",
        name="local normalisation (FedBN), anchor 0.005, 20 rounds",
        method=local_normalisation(20, 0.005),
        in_fleet=False,
    ),
    Named(key="alone", name="personal heads, no rounds", method=alone, in_fleet=False),
    Named(
        key="personal",
        name="personal heads after 20 rounds (Ditto)",
        method=ditto(20, 0.005),
        in_fleet=False,
    ),
)
