"""What callers say of predictions, and what they are answered: JSON both ways.

    {"id": "1f0a2b3c-17", "label": "walking"}            one, by the name of its class
    {"id": "1f0a2b3c-17", "class": 3, "row": 1}          by its number; of a row of a batch
    [{…}, {…}]                                           several; each stands for itself

HTTP and MQTT carry the same bytes; HTTP says the status beside. Several are answered with
``results`` in their order, and with the status of the first that was refused.

Rule 1: limits before parsing; an unknown member is an error, because a misspelled ``label``
        must not be taken for nothing.
Rule 2: what was refused says why in ``error``, as the Open Inference Protocol has it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from agent.errors import AgentError, UnknownModelError
from agent.refusals import (
    LabelConflictError,
    LabelRefusedError,
    NoFeedbackError,
    OversizedError,
    UnknownPredictionError,
)

MAX_FEEDBACK_BYTES = 64 * 1024
MAX_OPINIONS = 500
OK, REFUSED, NOT_FOUND, CONFLICT, TOO_LARGE = 200, 400, 404, 409, 413


class Opinion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody says is right of one answer.

    Attributes:
        id: Of the prediction.
        label: Name of the right class, or
        place: its number, ``class`` in JSON.
        row: Of a batch.

    """

    id: Annotated[str, Meta(min_length=1, max_length=64)]
    label: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    place: Annotated[int, Meta(ge=0, le=65_535)] | None = field(default=None, name="class")
    row: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    def __post_init__(self) -> None:
        if (self.label is None) == (self.place is None):
            raise ValueError("a prediction is labelled by `label` or by `class`, by one of them")


class Taken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one label.

    Attributes:
        id, row: Of the answer.
        release: Manifest digest of the release that predicted.
        label, predicted: What is right, and what was said.
        right: Whether these are the same.
        again: The answer bore this label already; it counts once, and nothing more is kept.
        kept: Whether the window is kept for training, and if not,
        why_not_kept: why, where windows are kept at all.
        error, code: Why it was refused.

    """

    id: str
    row: int = 0
    release: str = ""
    label: str = ""
    predicted: str = ""
    right: bool | None = None
    again: bool = False
    kept: bool = False
    why_not_kept: str = ""
    error: str = ""
    code: str = ""


class _Several(Struct, frozen=True, kw_only=True, omit_defaults=True):
    error: str = ""
    code: str = ""
    results: tuple[Taken, ...]


class _Refused(Struct, frozen=True, kw_only=True):
    error: str
    code: str


class Feedback(Struct, frozen=True, kw_only=True):
    """What was said: one opinion, or several."""

    opinions: tuple[Opinion, ...]
    several: bool


def read_feedback(body: bytes) -> Feedback:
    """Read what a caller says.

    Raises:
        OversizedError: More bytes, or more labels, than are taken at once.
        LabelRefusedError: It is not one opinion or a list of them.

    """
    if len(body) > MAX_FEEDBACK_BYTES:
        raise OversizedError(
            f"feedback of {len(body)} bytes is over the limit of {MAX_FEEDBACK_BYTES}"
        )
    try:
        found = msgspec.json.decode(body, type=Opinion | tuple[Opinion, ...])
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise LabelRefusedError(f"this is no feedback: {why}") from why
    opinions = (found,) if isinstance(found, Opinion) else found
    if not opinions:
        raise LabelRefusedError("this is no feedback: the list of labels is empty")
    if len(opinions) > MAX_OPINIONS:
        raise OversizedError(f"{len(opinions)} labels came at once; at most {MAX_OPINIONS} may")
    return Feedback(opinions=opinions, several=not isinstance(found, Opinion))


def write_results(results: tuple[Taken, ...], worst: AgentError | None, *, several: bool) -> bytes:
    """Return the answer to feedback; ``worst`` is the first refusal, if any."""
    if not several:
        return msgspec.json.encode(results[0])
    error, code = (str(worst), worst.code) if worst else ("", "")
    return msgspec.json.encode(_Several(error=error, code=code, results=results))


def write_refusal(why: AgentError) -> bytes:
    """Return the answer to what could not be read at all."""
    return msgspec.json.encode(_Refused(error=str(why), code=why.code))


def status_of(why: AgentError | None) -> int:
    """Return the HTTP status for the first refusal, 200 where there is none."""
    match why:
        case None:
            return OK
        case UnknownPredictionError() | UnknownModelError() | NoFeedbackError():
            return NOT_FOUND
        case LabelConflictError():
            return CONFLICT
        case OversizedError():
            return TOO_LARGE
        case _:
            return REFUSED
