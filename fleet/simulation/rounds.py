"""A run in one process: the built-in strategies' own program, and devices behind a function.

Rule 1: what is simulated is who answers; what is asked, how a device trains, what is
        refused, how replies become a model and who receives it is the fleet's own code.
Rule 2: the same settings and seed give the same figures.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.contract.tensors import ArrayRecord, Failure, decode_message
from agent.errors import ContractError, ModelError
from agent.learn.samples import LabelledWindows, Split
from agent.learn.trainer import Answered, HeadTraining, LinearHead, count_right, train_head
from fleet.errors import RefusedError
from fleet.rounds.builtin import run_builtin
from fleet.rounds.cohort import better, cohorts_of, hold_back, judge_cohort
from fleet.rounds.events import RunPlan, Training
from fleet.rounds.heads import HeadArrays, begin_word, evaluation_message, read_final
from fleet.rounds.norms import too_long
from fleet.rounds.pipe import MAX_FRAME_BYTES, Push, Replies, Reply
from fleet.rounds.screen import screen_reply
from fleet.rounds.sends import node_of
from fleet.rounds.strategies import USUAL_MAX_NORM, Strategy
from fleet.rounds.usual import usual_training
from fleet.simulation.devices import SimulatedDevice
from fleet.simulation.figures import DeviceFigures, Part, RoundFigures, SimulatedRun

RUN: Final = "simulation"
MINIMUM_WINDOWS: Final = 20
PERSONAL: Final = HeadTraining(epochs=300, anchor=0.01)
"""How the global head becomes a device's own (Ditto, Li et al. 2021, arXiv 2012.04221)."""
_TOLD_REFUSALS: Final = 20
_STARTED_MS: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one simulated run is asked for.

    Attributes:
        drop: Share of devices, 0 to below 1, that each round loses.
        attackers: Share of the training devices, 0 to 1, that lie.
        guard: Names of devices that judge and do not train.
        minimum_windows: A device with fewer train windows only judges.
        max_norm: As of a run; None for no bound.

    """

    rounds: int = 3
    strategy: Strategy = field(default_factory=Strategy)
    training: Training = field(default_factory=usual_training)
    drop: float = 0.0
    attackers: float = 0.0
    guard: frozenset[str] = frozenset()
    minimum_windows: int = MINIMUM_WINDOWS
    max_norm: float | None = USUAL_MAX_NORM
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise RefusedError(f"a drop of {self.drop} is not from 0 to below 1")
        if not 0 <= self.attackers <= 1:
            raise RefusedError(f"a share of {self.attackers} attackers is not from 0 to 1")


def simulate(
    head: HeadArrays, windows: Mapping[str, LabelledWindows], settings: Settings
) -> SimulatedRun:
    """Return what a run gives; arguments and errors as of ``train``."""
    return train(head, windows, settings)[1]


def train(
    head: HeadArrays, windows: Mapping[str, LabelledWindows], settings: Settings
) -> tuple[HeadArrays, SimulatedRun]:
    """Return the head that a run ends with, and its figures.

    Args:
        head: The running release's.
        windows: Of each device, embedded (``devices.embedded``).
        settings: What is asked.

    Raises:
        RefusedError: Nobody can train, or the guard names a device that is not there.

    """
    world = _World(head, windows, settings)
    why = ""
    try:
        done = run_builtin(
            begin_word(world.plan, head, tuple(sorted(map(node_of, world.trainers)))),
            settings.strategy,
            world.hear_push,
            world.replies,
        )
        final = read_final(done.arrays, head)
    except RefusedError as failed:
        final, why = world.model, str(failed)
    if not why:
        world.note(final)
    return final, SimulatedRun(
        seed=settings.seed,
        rounds=tuple(world.rounds),
        devices=world.judged(final),
        refusals=tuple(world.refusals[:_TOLD_REFUSALS]),
        why=why,
    )


class _World:
    """The devices, and what is between them and the strategy's program."""

    def __init__(
        self, head: HeadArrays, windows: Mapping[str, LabelledWindows], settings: Settings
    ) -> None:
        unknown = sorted(settings.guard - windows.keys())
        if unknown:
            raise RefusedError(f"the guard names {unknown[0]!r}, and there is no such device")
        able = [
            name
            for name, w in windows.items()
            if w.count(Split.TRAIN) >= settings.minimum_windows and name not in settings.guard
        ]
        if not able:
            raise RefusedError(
                f"none of {len(windows)} devices has {settings.minimum_windows} train windows"
            )
        self.settings, self.running, self.model = settings, head, head
        self.chance = np.random.default_rng([settings.seed, 1])
        count = round(settings.attackers * len(able))
        lying = set(self.chance.choice(len(able), count, replace=False).tolist())
        self.attackers = {able[place] for place in lying}
        self.devices = {
            name: SimulatedDevice(
                name=name, samples=w, attack="sign-flip" if name in self.attackers else ""
            )
            for name, w in sorted(windows.items())
        }
        self.trainers = tuple(sorted(able))
        self.by_node = {node_of(name): name for name in self.trainers}
        self.plan = RunPlan(
            run=RUN,
            slot=RUN,
            backbone="0" * 64,
            rounds=settings.rounds,
            seed=settings.seed,
            started_ms=_STARTED_MS,
            minimum_replies=1,
            participants=self.trainers,
            evaluators=tuple(self.devices),
            training=settings.training,
            strategy=settings.strategy,
        )
        self.rounds: list[RoundFigures] = []
        self.refusals: list[str] = []
        self._answers: Replies | None = None
        self._counted = (0, 0)

    def hear_push(self, word: object) -> None:
        """Let every device that is there do its task of a push."""
        if not isinstance(word, Push):
            return
        asked = {i.node: i.content + word.shared for i in word.instructions}
        self.note(_head_in(next(iter(asked.values())), self.running))
        there = [node for node in sorted(asked) if self.chance.random() >= self.settings.drop]
        good: dict[int, bytes] = {}
        norms: dict[str, float] = {}
        refused = 0
        for node in there:
            name = self.by_node[node]
            try:
                reply = self.devices[name].answer(asked[node], "train").reply
                norms[name] = screen_reply(reply, asked[node]).norm or 0.0
            except (ContractError, ModelError) as why:
                refused += self._refuse(word.ordinal, name, str(why))
                continue
            good[node] = reply
        if self.settings.max_norm is not None:
            for name, sentence in too_long(norms, self.settings.max_norm).items():
                del good[node_of(name)]
                refused += self._refuse(word.ordinal, name, sentence)
        needed = self.settings.strategy.needed_replies
        if len(good) < needed:
            raise RefusedError(
                f"round {word.ordinal} has {len(good)} good replies; "
                f"{self.settings.strategy.name} needs {needed}"
            )
        self._counted = len(good), refused
        self._answers = Replies(
            ordinal=word.ordinal,
            replies=tuple(Reply(node=node, content=content) for node, content in good.items()),
        )

    def replies(self) -> Replies | None:
        """Return the good replies to the last push."""
        return self._answers

    def note(self, head: HeadArrays) -> None:
        """Write down how good a global model is."""
        self.model = head
        replies, refused = self._counted
        self.rounds.append(
            RoundFigures(
                round=len(self.rounds),
                decide=self._mean(head, Split.DECIDE),
                withheld=self._mean(head, Split.WITHHELD),
                replies=replies,
                refused=refused,
            )
        )

    def judged(self, final: HeadArrays) -> tuple[DeviceFigures, ...]:
        """Return every device's figures, and who would receive the candidate."""
        answers: dict[str, Answered] = {}
        for name, device in self.devices.items():
            message = evaluation_message(self.plan, "t-judge", name, final, self.running)
            answers[name] = device.answer(message, "evaluate")
        pairs = {
            name: (answer.decide_running, answer.decide)
            for name, answer in answers.items()
            if answer.decide_running is not None and answer.decide.windows
        }
        verdicts = [judge_cohort(c, pairs) for c in cohorts_of(pairs, self.trainers, {})]
        found = {j.device: j for j in hold_back(better(pairs), verdicts)}
        return tuple(
            _figures(
                self.devices[name],
                self._part(name),
                answer,
                personal=self._personal(name, final),
                receives=name in found and found[name].receives and name not in self.attackers,
                why=found[name].why if name in found else "it has no decide windows",
            )
            for name, answer in answers.items()
        )

    def _refuse(self, ordinal: int, name: str, why: str) -> int:
        self.refusals.append(f"round {ordinal}, {name}: {why}")
        return 1

    def _part(self, name: str) -> Part:
        if name in self.attackers:
            return "attacker"
        return "trained" if name in self.trainers else "guard"

    def _mean(self, head: HeadArrays, split: Split) -> float:
        linear, shares = _linear(head), []
        for name in self.trainers:
            samples = self.devices[name].samples
            if name not in self.attackers and samples.count(split):
                x, y = samples.of(split)
                shares.append(count_right(linear, x[:, :, 0], y).accuracy)
        return float(np.mean(shares)) if shares else 0.0

    def _personal(self, name: str, final: HeadArrays) -> LinearHead | None:
        if self._part(name) != "trained":
            return None
        x, y = self.devices[name].samples.of(Split.TRAIN)
        return train_head(_linear(final), x[:, :, 0], y, PERSONAL)


def _figures(
    device: SimulatedDevice,
    part: Part,
    answer: Answered,
    *,
    personal: LinearHead | None,
    receives: bool,
    why: str,
) -> DeviceFigures:
    x, y = device.samples.of(Split.WITHHELD)
    return DeviceFigures(
        device=device.name,
        part=part,
        train_windows=device.count(Split.TRAIN),
        decide_before=answer.decide_running or answer.decide,
        decide_after=answer.decide,
        withheld_before=answer.withheld_running or answer.withheld,
        withheld_after=answer.withheld,
        withheld_personal=count_right(personal, x[:, :, 0], y) if personal else None,
        receives=receives,
        why=why,
    )


def _head_in(message: bytes, like: HeadArrays) -> HeadArrays:
    content = decode_message(message, limit=MAX_FRAME_BYTES).content
    record = None if isinstance(content, Failure) else content.get("arrays")
    if not isinstance(record, ArrayRecord):
        raise RefusedError("a push without arrays")
    return HeadArrays(
        weight=record.items["weight"].reshape(like.weight.shape), bias=record.items["bias"]
    )


def _linear(head: HeadArrays) -> LinearHead:
    return LinearHead(weight=head.weight, bias=head.bias)
