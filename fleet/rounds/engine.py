"""A federated run as a pure step over journalled events.

    training ──ChildFinished──▶ evaluating ──all Evaluated or deadline──▶ finished
        └──────── Stopped, Failed ─────┴──────────────────────────────▶ stopped, failed

Rule 1: every transition is written in ``step``; it does no I/O and reads no clock.
Rule 2: an event is journalled before its effects are performed; effects are safe to
        repeat, and ``resume`` names those that a crash may have swallowed.
Rule 3: Flower's program keeps its state in memory, so it is started again from the
        beginning; each of its sends is known by its ordinal and answered from the
        journal. Other bytes under a known ordinal end the run: it has diverged.
Rule 4: a device that is silent, late or refused costs its own reply and nothing else.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Count, Quality


class Training(Struct, frozen=True, kw_only=True):
    """How the built-in head trainer works; travels to the device in the message."""

    learning_rate: float = 0.5
    epochs: int = 30
    anchor: float = 0.05


class RunPlan(Versioned, frozen=True, kw_only=True):
    """What was asked for; fixed when the run starts.

    Attributes:
        run, slot: Names.
        backbone: Manifest digest of the release that the run starts from.
        rounds: Rounds of training.
        seed: Fixes every random choice of the Flower program.
        started_ms: Wall clock at the start, ms since 1970.
        deadline_seconds: How long each send waits for answers.
        minimum_replies: Fewer good answers to a send end the run.
        participants: Device ids that train, frozen at the start.
        evaluators: Device ids that judge the candidate: participants and bystanders.
        app: ``module:attribute`` of an operator's Flower ServerApp, or None for the
            built-in FedAvg over heads.
        app_folder: Where that module lies.
    """

    run: Name
    slot: Name
    backbone: Digest
    rounds: Annotated[int, Meta(ge=1, le=10_000)] = 3
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 1
    started_ms: Count
    deadline_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 120
    minimum_replies: Annotated[int, Meta(ge=1, le=10_000)] = 2
    participants: Annotated[tuple[Name, ...], Meta(min_length=1)]
    evaluators: tuple[Name, ...] = ()
    training: Training = Training()
    app: Text | None = None
    app_folder: Text | None = None
