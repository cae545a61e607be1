"""The devices of the study: wrists, their windows as one base model's backbone sees them.

Rule 1: a device is one wrist of one person. People 5 to 8 are the fleet: eight devices of
        four people. Two wrists of a person are two recordings and two devices, and no two
        people.
Rule 2: people 1 to 4 taught the base model with all their windows. What a head costs them
        is a guard: whom the release serves already. Who is a stranger to both base and
        rounds is had by leaving one person out of a run (``methods``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.learn.samples import LabelledWindows
from fleet.release.build import find_head
from fleet.release.candidate import read_head
from fleet.release.embeddings import embed_windows
from fleet.rounds.heads import HeadArrays
from fleet.simulation.devices import embedded
from scripts.base_model.recordings import SIDES, labelled_windows, read_recordings

ROOT = Path(__file__).resolve().parents[2]
FLEET, KNOWN = (5, 6, 7, 8), (1, 2, 3, 4)
Wrists = dict[str, LabelledWindows]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """One base model: its head, and every wrist's windows as its embeddings."""

    seed: int
    head: HeadArrays
    wrists: Wrists

    def of(self, people: Iterable[int]) -> Wrists:
        """Return the wrists of some people."""
        wanted = set(people)
        return {name: w for name, w in self.wrists.items() if person_of(name) in wanted}


def person_of(name: str) -> int:
    """Return whose wrist a name names: ``7-left`` is person 7's."""
    return int(name.partition("-")[0])


def model_of(seed: int) -> Path:
    """Return the base model of a seed; 0 is the demo's."""
    if seed == 0:
        return ROOT / "scripts" / "base_model" / "motion-int8.onnx"
    return ROOT / "scripts" / "study_program" / "bases" / f"motion-seed-{seed}.onnx"


def read_base(seed: int) -> Base:
    """Return a base model with all sixteen wrists."""
    model = model_of(seed).read_bytes()
    place = find_head(model)
    if place is None:
        raise ValueError(f"{model_of(seed)} has no head")
    weight, bias = read_head(model, place)
    recordings, wrists = read_recordings(), {}
    for person in KNOWN + FLEET:
        for side, name in enumerate(SIDES):
            own = [r for r in recordings if (r.person, r.side) == (person, side)]
            x, y, split = labelled_windows(own)
            plain = LabelledWindows(x=x, y=y, split=split)
            made = embed_windows(model, place, x)
            wrists[f"{person}-{name}"] = embedded(plain, made)
    head = HeadArrays(weight=np.array(weight), bias=np.array(bias))
    return Base(seed=seed, head=head, wrists=wrists)
