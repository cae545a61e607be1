"""What is asked of a device in a federated round, and what it answers.

Rule 1: both travel as parcels: a short text, and a Flower message that only its digest is
        known of here.
Rule 2: a device may decline or put off; figures of its own windows are all that it tells.
"""

from typing import Annotated

from msgspec import Meta

from agent.contract.codec import Versioned
from agent.contract.manifest import Digest, Name, Text
from agent.contract.messages import Quality


class Task(Versioned, frozen=True, kw_only=True):
    """One piece of work of a federated round; its attachment is a Flower message.

    Attributes:
        run, task: Names; a task is answered once.
        kind: ``train`` or ``evaluate``.
        backbone: Manifest digest of the release whose embedding is used.
        digest: SHA-256 of the attachment.
        lasts_seconds: How long the answer is wanted.

    """

    device: Name
    run: Name
    task: Name
    kind: Annotated[str, Meta(pattern=r"^(train|evaluate)$(?!\n)")]
    backbone: Digest
    digest: Digest
    lasts_seconds: Annotated[int, Meta(ge=1, le=86_400)]


class TaskAnswer(Versioned, frozen=True, kw_only=True):
    """``outcome`` is done (attachment holds the reply), declined, deferred or failed.

    ``decide`` and ``withheld`` are the quality of the head that the task carries on the
    device's own windows; the ``_running`` pair is that of the running head beside it,
    set by an ``evaluate`` task.
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
