"""What is asked of a device in a federated round, and what it answers.

Rule 1: both travel as parcels: a short text, and a Flower message that only its digest is
        known of here.
Rule 2: large arrays travel beside their message: those of the global model in chunks, the
        same for every device; those of a reply in chunks that the manager asks for.
Rule 3: a device may decline or put off; figures of its own windows are all that it tells.
"""

from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.app_bundle import WantedApp
from agent.contract.codec import Versioned
from agent.contract.limits import (
    MAX_CHUNKS_PER_REQUEST,
    MAX_FLOWER_BYTES,
    MAX_SHARED_RECORDS,
)
from agent.contract.manifest import Artifact, Digest, Name, Text
from agent.contract.messages import Count, Quality

Size = Annotated[int, Meta(ge=0, le=MAX_FLOWER_BYTES)]
Updates = Annotated[
    str, Meta(pattern=r"^(f32|f16|int8|int4|topk:(0\.[0-9]{1,6}|1))$(?!\n)", max_length=16)
]
"""How a device sends what it learned: losslessly, or as a coarser difference."""


class SharedRecord(Struct, frozen=True, kw_only=True):
    """A record of arrays that is the same for many devices.

    Attributes:
        at: Where its bytes begin in the whole message.
        artifact: Its digest and size; what travels are its sources, whose kinds are forms of
            ``contract.updates``, one of them without a base.

    """

    at: Size
    artifact: Artifact


class SentRecord(Struct, frozen=True, kw_only=True):
    """A record of arrays of a reply, coded against one that the device was sent.

    Attributes:
        at: Where its bytes begin in the whole message.
        size: How many they are there.
        form: How they are coded, see ``contract.updates``.
        base: SHA-256 of the record that a difference is against, or None.
        length: Its bytes in the attachment, where it stands after those of the one before.

    """

    at: Size
    size: Size
    form: Text
    base: Digest | None = None
    length: Size


class Task(Versioned, frozen=True, kw_only=True):
    """One piece of work of a federated round; its attachment is a Flower message.

    Attributes:
        run, task: Names; a task is answered once.
        kind: ``train`` or ``evaluate``.
        backbone: Manifest digest of the release whose embedding is used.
        digest: SHA-256 of the attachment.
        lasts_seconds: How long the answer is wanted.
        spread_seconds: An answer is sent at a random moment of so many seconds from when it
            is ready, so that ten thousand devices do not answer at once.
        shared: Records that were cut out of the attachment; ``digest`` is that of the whole.
        updates: How the arrays of a reply to ``train`` are to be sent.
        app: The ClientApp that answers it; without one the built-in trainer of heads does.

    """

    device: Name
    run: Name
    task: Name
    kind: Annotated[str, Meta(pattern=r"^(train|evaluate)$(?!\n)")]
    backbone: Digest
    digest: Digest
    lasts_seconds: Annotated[int, Meta(ge=1, le=86_400)]
    spread_seconds: Annotated[int, Meta(ge=0, le=86_400)] = 0
    shared: Annotated[tuple[SharedRecord, ...], Meta(max_length=MAX_SHARED_RECORDS)] = ()
    updates: Updates = "f32"
    app: WantedApp | None = None


class TaskAnswer(Versioned, frozen=True, kw_only=True):
    """``outcome`` is done (attachment holds the reply), declined, deferred or failed.

    ``decide`` and ``withheld`` are the quality of the head that the task carries on the
    device's own windows; the ``_running`` pair is that of the running head beside it,
    set by an ``evaluate`` task.

    Attributes:
        digest: SHA-256 of the attachment.
        sent: Records that were cut out of the Flower message, which begins the attachment.
        upload: The attachment as chunks, where it is too large for one message.

    """

    run: Name
    task: Name
    outcome: Annotated[str, Meta(pattern=r"^(done|declined|deferred|failed)$(?!\n)")]
    why: Text = ""
    digest: Digest | None = None
    decide: Quality | None = None
    withheld: Quality | None = None
    decide_running: Quality | None = None
    withheld_running: Quality | None = None
    sent: Annotated[tuple[SentRecord, ...], Meta(max_length=MAX_SHARED_RECORDS)] = ()
    upload: Artifact | None = None


class UploadRequest(Versioned, frozen=True, kw_only=True):
    """Leave to send chunks: ranges ``(first, count)`` of the attachment of an answer.

    Attributes:
        task: Which answer.
        a: SHA-256 of its attachment.
        r: Each chunk of these may be sent once.

    """

    task: Name
    a: Digest
    r: Annotated[
        tuple[tuple[Count, Annotated[int, Meta(ge=1, le=MAX_CHUNKS_PER_REQUEST)]], ...],
        Meta(min_length=1, max_length=MAX_CHUNKS_PER_REQUEST),
    ]
