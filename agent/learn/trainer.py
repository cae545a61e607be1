"""The built-in *head* trainer: a softmax layer on embeddings of the int8 backbone.

Rule 1: only *train* windows teach; quality is counted on *decide* and *withheld*.
Rule 2: an anchor pulls the head towards the one that was received, so that what a
        device learns costs people it has never seen as little as possible.
Rule 3: a reply holds the new head, a count and figures; never a window or an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.contract.messages import Quality
from agent.learn.samples import LabelledWindows

Embed = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Windows (n, channels, samples) float32 in, embeddings (n, width) float32 out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a task produced: the Flower reply and the figures that go into ``TaskAnswer``.

    ``decide`` and ``withheld`` are the quality of the head in the message (for a *train*
    task the one received, before training; for *evaluate* the candidate);
    the ``_running`` pair is that of the running head, when the message carries it.
    """

    reply: bytes
    decide: Quality
    withheld: Quality
    decide_running: Quality | None = None
    withheld_running: Quality | None = None


def answer_task(message: bytes, kind: str, embed: Embed, samples: LabelledWindows) -> Answered:
    """Do one task of a federated round and return its answer.

    Args:
        message: The Flower message that is the task's attachment.
        kind: ``train`` or ``evaluate``, as in the signed ``Task``.
        embed: The backbone; called once per split.
        samples: The device's own windows.

    Raises:
        ContractError: The message does not parse, or does not hold a head that fits.
        ModelError: Training produced weights that are not finite.

    """
    raise NotImplementedError
