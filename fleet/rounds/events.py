"""What a federated run is asked for, and what can happen in it: the words of its journal.

Rule 1: a journalled event is a JSON object with the journal's version ``v``; a newer one
        is refused and left untouched.
Rule 2: times are wall clock, ms since 1970, as the manager saw them.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.contract.app_bundle import WantedApp
from agent.contract.codec import Versioned
from agent.contract.limits import MAX_ANCHOR, MAX_EPOCHS, MAX_LEARNING_RATE
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Count, Quality
from agent.contract.rounds import Updates
from fleet.errors import NewerStateError, RefusedError, RegistryError
from fleet.rounds.strategies import Strategy

JOURNAL_VERSION = 1
AnchorTo = Literal["received", "running"]
ANCHOR_TO = "anchor-to"
"""Setting of a run: ``running`` puts the head that it began with beside what is trained."""
MOST_OFFERS = 100_000
"""No manager offers more a second."""


class Training(Struct, frozen=True, kw_only=True):
    """How the built-in head trainer works; travels to the device in the message.

    ``anchor_to`` says which head the anchor pulls towards: the one that a round begins with,
    or the running release's. Runs of before there was a choice have the first.
    """

    learning_rate: float = 0.5
    epochs: int = 100
    anchor: float = 0.05
    anchor_to: AnchorTo = "received"

    def __post_init__(self) -> None:
        if not (0 < self.learning_rate <= MAX_LEARNING_RATE and 1 <= self.epochs <= MAX_EPOCHS):
            raise RefusedError(
                f"learning rate {self.learning_rate} and {self.epochs} epochs: devices take a "
                f"rate above 0 and up to {MAX_LEARNING_RATE}, and 1 to {MAX_EPOCHS} epochs"
            )
        if not 0 <= self.anchor <= MAX_ANCHOR:
            raise RefusedError(f"anchor {self.anchor}: devices take 0 to {MAX_ANCHOR}")
        if self.anchor_to not in {"received", "running"}:
            raise RefusedError(f"anchor_to is {self.anchor_to!r}, not received or running")


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
        clients: How many good answers a round of training waits for; 0 is all it asks.
        over_selection_percent: Of ``clients``, how many devices a round asks.
        offers_per_second: How fast offers go out, which lengthens deadlines; 0 is at once.
        buffer: How many good answers, of whichever version, make the next one; 0 is rounds.
        elsewhere: Devices left out at the start because they take part in another run.
        held_out: File of labelled windows of the operator's own, measured at the end.
        promote: ``auto`` where the manager makes a release of the candidate by itself.
        app: ``module:attribute`` of an operator's Flower ServerApp, or None for the
            built-in strategy over heads.
        app_folder: Where that module lies.
        app_seconds: How long the app may work between two sends.
        strategy: The built-in one; None beside an app, and in runs of before there was a
            choice, which Flower's own FedAvg averages.
        updates: How devices send what they learned, see ``contract.updates``.
        max_norm: An update this many times longer than the round's median one is left out;
            None for no bound.
        client_app: The signed app that devices train with; None for the built-in trainer.

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
    clients: Annotated[int, Meta(ge=0, le=100_000)] = 0
    over_selection_percent: Annotated[int, Meta(ge=100, le=1000)] = 100
    offers_per_second: Annotated[int, Meta(ge=0, le=MOST_OFFERS)] = 0
    buffer: Annotated[int, Meta(ge=0, le=10_000)] = 0
    elsewhere: Count = 0
    held_out: Text | None = None
    promote: Annotated[str, Meta(pattern=r"^(|auto)$")] = ""
    training: Training = Training()
    app: Text | None = None
    app_folder: Text | None = None
    app_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 3600
    strategy: Strategy | None = None
    max_norm: Annotated[float, Meta(ge=1, le=1e6)] | None = None
    updates: Updates = "f32"
    client_app: WantedApp | None = None


class Posted(Struct, frozen=True, kw_only=True):
    """One task of a send; ``digest`` is the SHA-256 of its Flower message."""

    task: Name
    device: Name
    kind: Annotated[str, Meta(pattern=r"^(train|evaluate)$")]
    digest: Digest


class Pushed(Struct, frozen=True, kw_only=True, tag="pushed"):
    """The Flower child asked for replies; ``ordinal`` counts its sends from 1.

    ``tasks`` are those that devices are asked for, of ``named`` that the program named.
    """

    ordinal: Annotated[int, Meta(ge=1)]
    tasks: tuple[Posted, ...]
    named: Count = 0
    at_ms: Count


class Answered(Struct, frozen=True, kw_only=True, tag="answered"):
    """A device answered a training task; a good answer is spooled under the task's name.

    ``norm`` is the length of the step that it makes, None where it trains nothing.
    """

    task: Name
    outcome: Annotated[str, Meta(pattern=r"^(done|declined|failed|refused)$")]
    why: Text = ""
    norm: float | None = None
    at_ms: Count


class Surplus(Struct, frozen=True, kw_only=True, tag="surplus"):
    """A device answered what counts no more: too ``late``, or ``again``; told once a task."""

    task: Name
    how: Annotated[str, Meta(pattern=r"^(late|again)$")]
    at_ms: Count


class TimedOut(Struct, frozen=True, kw_only=True, tag="timed-out"):
    """The deadline of a send passed."""

    ordinal: Annotated[int, Meta(ge=1)]
    at_ms: Count


class ChildFinished(Struct, frozen=True, kw_only=True, tag="child-finished"):
    """The Flower program ended; its arrays are spooled under ``FINAL``.

    ``judged`` says whether they are a head, which devices can judge; those of an app that
    trains a model of its own are none.
    """

    digest: Digest
    judged: bool = True
    at_ms: Count


class Evaluated(Struct, frozen=True, kw_only=True, tag="evaluated"):
    """A device judged candidate and running head on its own windows."""

    device: Name
    decide: Quality
    withheld: Quality
    decide_running: Quality
    withheld_running: Quality
    at_ms: Count


class NotEvaluated(Struct, frozen=True, kw_only=True, tag="not-evaluated"):
    """A device gave no figures; it does not receive the candidate."""

    device: Name
    why: Text
    at_ms: Count


class EvaluationClosed(Struct, frozen=True, kw_only=True, tag="evaluation-closed"):
    """The deadline of the evaluation passed."""

    at_ms: Count


class Paused(Struct, frozen=True, kw_only=True, tag="paused"):
    """An operator holds the run: nothing is offered, and deadlines stand still."""

    at_ms: Count


class Resumed(Struct, frozen=True, kw_only=True, tag="resumed"):
    """An operator lets a paused run go on."""

    at_ms: Count


class Stopped(Struct, frozen=True, kw_only=True, tag="stopped"):
    """An operator ended the run."""

    why: Text
    at_ms: Count


class Promoted(Struct, frozen=True, kw_only=True, tag="promoted"):
    """The manager promoted the candidate by itself, or could not; the run had ended."""

    release: Digest | None = None
    why: Text
    at_ms: Count


class HeldOut(Struct, frozen=True, kw_only=True, tag="held-out"):
    """Running release and candidate on labelled windows of the operator's own; it decides nothing.

    ``digest`` is the SHA-256 of the file. Without figures, ``why`` says why there are none.
    """

    digest: Digest | None = None
    running: Quality | None = None
    candidate: Quality | None = None
    why: Text = ""
    at_ms: Count


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The run cannot go on."""

    why: Text
    at_ms: Count


RunEvent = (
    Pushed
    | Answered
    | Surplus
    | TimedOut
    | ChildFinished
    | Evaluated
    | NotEvaluated
    | EvaluationClosed
    | Paused
    | Resumed
    | Stopped
    | Promoted
    | HeldOut
    | Failed
)
FINAL = "final"
"""Name under which the aggregated arrays are spooled."""


def encode_event(event: RunEvent) -> bytes:
    """Return an event as a JSON object with the journal's version."""
    return msgspec.json.encode({"v": JOURNAL_VERSION, **msgspec.to_builtins(event)})


def decode_event(content: bytes) -> RunEvent:
    """Read a journalled event.

    Raises:
        NewerStateError: A newer version wrote it.
        RegistryError: It is not an event.

    """
    try:
        version = msgspec.json.decode(content, type=Versioned).v
        if version > JOURNAL_VERSION:
            raise NewerStateError(
                f"a run's journal has version {version}; this program knows {JOURNAL_VERSION}"
            )
        event: RunEvent = msgspec.json.decode(content, type=RunEvent)
    except msgspec.MsgspecError as why:
        raise RegistryError(f"a run's journal holds no event: {why}") from why
    return event
