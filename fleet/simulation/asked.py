"""From what is asked for to a report: reads the files, deals the windows, runs every seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from agent.learn.samples import LabelledWindows
from fleet.errors import AdmissionError, ConfigError, RefusedError
from fleet.release.build import find_head
from fleet.release.candidate import read_head
from fleet.release.embeddings import embed_windows
from fleet.rounds.events import Training
from fleet.rounds.heads import HeadArrays
from fleet.rounds.strategies import USUAL_MAX_NORM, Strategy
from fleet.rounds.usual import training_of
from fleet.simulation.devices import deal, embedded, read_devices
from fleet.simulation.figures import SimulatedRun, Summary, summarise
from fleet.simulation.rounds import Settings, simulate

SCHEMA_VERSION = 1
USUAL_ALPHA, USUAL_DEVICES = 0.5, 10
MAX_BOUND = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for; ``alpha`` is None of a natural split."""

    model: Path
    samples: tuple[Path, ...]
    alpha: float | None
    devices: int | None
    settings: Settings
    seeds: int = 1


class Report(Struct, frozen=True, kw_only=True):
    """What came of it; the JSON of ``run simulate``."""

    v: int = SCHEMA_VERSION
    title: str
    model: str
    model_digest: str
    split: str
    alpha: float | None
    guard: tuple[str, ...]
    drop: float
    attackers: float
    max_norm: float | None
    rounds: int
    strategy: Strategy
    training: Training
    summary: Summary
    runs: tuple[SimulatedRun, ...]


def wish_of(asked: Mapping[str, Any]) -> Wish:
    """Return what options of the command line ask for.

    Raises:
        RefusedError: Two of them do not go together, or one is out of its range.

    """
    dealt = asked["split"] == "dirichlet"
    if asked["alpha"] is not None and not dealt:
        raise RefusedError("--alpha belongs to --split dirichlet")
    names = frozenset(name.strip() for name in asked["guard"].split(",") if name.strip())
    if names and dealt:
        raise RefusedError("--guard names devices of the files; --split dirichlet has others")
    strategy = Strategy(
        name=asked["strategy"] or "fedavg",
        server_learning_rate=asked["server_learning_rate"],
        momentum=asked["momentum"],
        trim=asked["trim"],
        byzantine=asked["byzantine"],
    )
    settings = Settings(
        rounds=asked["rounds"],
        strategy=strategy,
        training=training_of(
            learning_rate=asked["learning_rate"],
            epochs=asked["epochs"],
            anchor=asked["anchor"],
            anchor_to=asked["anchor_to"],
            strategy=strategy,
        ),
        drop=asked["drop"],
        attackers=asked["attackers"],
        guard=names,
        max_norm=_bound(asked["max_norm"]),
        seed=asked["seed"],
    )
    return Wish(
        model=asked["model"],
        samples=asked["samples"],
        alpha=(asked["alpha"] or USUAL_ALPHA) if dealt else None,
        devices=asked["devices"] or (USUAL_DEVICES if dealt else None),
        settings=settings,
        seeds=asked["seeds"],
    )


def report_of(wish: Wish) -> Report:
    """Do what is asked for.

    Raises:
        AdmissionError: The model has no head that can be trained, or does not take the windows.
        ConfigError: A file of windows is not one, or the model cannot be read.
        RefusedError: Nobody can train.

    """
    try:
        model = wish.model.read_bytes()
    except OSError as why:
        raise ConfigError(f"{wish.model} cannot be read: {why.strerror or why}") from why
    place = find_head(model, wish.model.name)
    if place is None:
        raise AdmissionError(
            f"{wish.model} has no head that rounds could train: an ONNX file needs an output "
            "'embedding' and initialisers 'head.weight' and 'head.bias'"
        )
    weight, bias = read_head(model, place)
    head = HeadArrays(weight=weight, bias=bias)
    parts = {
        name: embedded(windows, embed_windows(model, place, windows.x))
        for name, windows in read_devices(wish.samples).items()
    }
    _check_labels(parts, len(bias))
    runs = tuple(
        simulate(head, dealt_for(wish, parts, seed), replace(wish.settings, seed=seed))
        for seed in range(wish.settings.seed, wish.settings.seed + wish.seeds)
    )
    return _report(wish, sha256(model).hexdigest(), runs)


def dealt_for(
    wish: Wish, parts: Mapping[str, LabelledWindows], seed: int
) -> Mapping[str, LabelledWindows]:
    """Return who has which windows with one seed."""
    if wish.alpha is not None:
        return deal(parts, devices=wish.devices or USUAL_DEVICES, alpha=wish.alpha, seed=seed)
    trainers = sorted(parts.keys() - wish.settings.guard)
    if wish.devices is None or wish.devices >= len(trainers):
        return parts
    chosen = np.random.default_rng(seed).choice(len(trainers), wish.devices, replace=False)
    kept = {trainers[i] for i in chosen} | wish.settings.guard
    return {name: windows for name, windows in parts.items() if name in kept}


def written(report: Report) -> bytes:
    """Return a report as JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def _bound(asked: float | None) -> float | None:
    if asked is None:
        return USUAL_MAX_NORM
    if asked and not 1 <= asked <= MAX_BOUND:
        raise RefusedError(f"--max-norm {asked:g} is not 1 to {MAX_BOUND:.0f}; 0 sets no bound")
    return asked or None


def _check_labels(parts: Mapping[str, LabelledWindows], classes: int) -> None:
    for name, windows in parts.items():
        if windows.y.max() >= classes:
            raise ConfigError(
                f"{name} has windows of class {windows.y.max()}; the model knows 0 to {classes - 1}"
            )


def _report(wish: Wish, digest: str, runs: Sequence[SimulatedRun]) -> Report:
    settings = wish.settings
    split = "natural split" if wish.alpha is None else f"Dirichlet split, alpha {wish.alpha:g}"
    extras = [f"{settings.drop:.0%} drop out"] if settings.drop else []
    extras += [f"{settings.attackers:.0%} attackers"] if settings.attackers else []
    devices = len(runs[0].devices)
    title = (
        f"{wish.model.name}: {settings.strategy.name}, {settings.rounds} rounds, "
        f"{devices} devices, {split}" + "".join(f", {e}" for e in extras)
    )
    return Report(
        title=title,
        model=str(wish.model),
        model_digest=digest,
        split="natural" if wish.alpha is None else "dirichlet",
        alpha=wish.alpha,
        guard=tuple(sorted(settings.guard)),
        drop=settings.drop,
        attackers=settings.attackers,
        max_norm=settings.max_norm,
        rounds=settings.rounds,
        strategy=settings.strategy,
        training=settings.training,
        summary=summarise(runs),
        runs=tuple(runs),
    )
