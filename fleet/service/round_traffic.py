"""A round's large arrays, between whole Flower messages and what really travels.

Rule 1: a run knows whole messages only. What is cut out, coded, fetched and put together
        again happens here, and a device that cannot do that gets the whole message.
Rule 2: an answer that cannot be put together is a failed one of its device, with the reason.
"""

import logging
from hashlib import sha256

from msgspec.structs import replace

from agent.contract import updates
from agent.contract.limits import MAX_FLOWER_BYTES, MAX_PAYLOAD_BYTES
from agent.contract.rounds import Task, TaskAnswer
from agent.contract.shared_arrays import join_message
from agent.contract.topics import ROUND_OFFER
from agent.errors import ContractError
from fleet.errors import FleetError, RefusedError
from fleet.ingest.round_records import RoundRecords
from fleet.service.desk import Desk
from fleet.signing.assignment import sign_task

LOG = logging.getLogger(__name__)


def offer(desk: Desk, task: Task, message: bytes, *, updates_asked: str = updates.LOSSLESS) -> None:
    """Sign a task, which names its message's digest, and publish it, larger arrays beside it.

    A device whose agent is of before this, and takes no more than one message holds, is not
    asked for more: it is silent in this round.

    Raises:
        ContractError: It is not a Flower message.
        RegistryError: The disk refuses.

    """
    device = desk.registry.devices.require(task.device)
    frame = message
    if device.inventory is not None and device.inventory.shares:
        frame, shared = desk.records.share(task.run, message)
        coarse = updates_asked if task.kind == "train" else updates.LOSSLESS
        if coarse != updates.LOSSLESS:
            desk.records.keep(task.run, message)
        task = replace(task, shared=shared, updates=coarse)
    authority = desk.repository.authority()
    payload = sign_task(desk.keys.director, task, frame, authority=authority)
    if len(payload) > MAX_PAYLOAD_BYTES:
        LOG.warning(
            "unoffered device=%s run=%s bytes=%d why=%s",
            task.device,
            task.run,
            len(message),
            "its agent takes one message only: update it, or leave it out of the run",
        )
        return
    desk.send(ROUND_OFFER.at(task.device, task.run), payload)


def whole_answer(
    records: RoundRecords, answer: TaskAnswer, attachment: bytes
) -> tuple[TaskAnswer, bytes]:
    """Return an answer with its Flower message, or as failed with the reason why it has none."""
    try:
        message = _put_together(records, answer, attachment)
    except (ContractError, FleetError) as why:
        reason = f"its update cannot be read: {why}"[:500]
        bare = replace(answer, outcome="failed", why=reason, digest=None, sent=(), upload=None)
        return bare, b""
    digest = sha256(message).hexdigest()
    return replace(answer, digest=digest, sent=(), upload=None), message


def _put_together(records: RoundRecords, answer: TaskAnswer, attachment: bytes) -> bytes:
    if answer.upload is not None and sha256(attachment).hexdigest() != answer.upload.digest:
        raise RefusedError("the bytes that came are not those that the answer names")
    frame_bytes = len(attachment) - sum(sent.length for sent in answer.sent)
    if frame_bytes < 0 or sum(sent.size for sent in answer.sent) > MAX_FLOWER_BYTES:
        raise RefusedError(f"it claims more than it holds, or than {MAX_FLOWER_BYTES} bytes")
    view, at, cuts = memoryview(attachment), frame_bytes, []
    for sent in answer.sent:
        base = None if sent.base is None else records.read(sent.base)
        coded = view[at : at + sent.length]
        cuts.append((sent.at, updates.unpack(sent.form, coded, sent.size, base)))
        at += sent.length
    return join_message(attachment[:frame_bytes], cuts)
