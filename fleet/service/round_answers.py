"""Answers of devices to rounds: whole ones go to their run, large ones are fetched first."""

import time

from agent.contract.frames import Piece
from agent.contract.rounds import TaskAnswer
from agent.errors import UnsignedError
from fleet.ingest.uploads import Uploaded
from fleet.service import membership, runs
from fleet.service.desk import Desk
from fleet.service.round_traffic import whole_answer


def take(desk: Desk, device: str, answer: TaskAnswer, attachment: bytes) -> None:
    """Take a device's answer to a task.

    Raises:
        RefusedError: It is larger than an answer may be, or the disk refuses.

    """
    announced = answer.upload is not None and answer.outcome == "done"
    if announced and desk.uploads.wants(device, answer):
        desk.uploads.offer(device, answer)
        fetch(desk)
        return
    if answer.sent and answer.upload is None:
        answer, attachment = whole_answer(desk.records, answer, attachment)
    runs.answered(desk, device, answer, attachment)


def take_chunk(desk: Desk, device: str, payload: bytes) -> None:
    """Take a chunk of an answer that was asked for.

    Raises:
        MalformedError: It is none.
        UnsignedError: Of an unknown device.
        RefusedError: The disk refuses.

    """
    if membership.key_of(desk, device) is None:
        raise UnsignedError(f"{device} is not an enrolled device of this fleet")
    desk.uploads.take(device, Piece.decode(payload), time.monotonic())
    fetch(desk)


def fetch(desk: Desk) -> None:
    """Ask for what is due of large answers, and hand over those that are whole.

    Raises:
        RefusedError: The disk refuses.

    """
    _ask(desk)
    for uploaded in desk.uploads.finished():
        _hand_over(desk, uploaded)
        _ask(desk)


def _ask(desk: Desk) -> None:
    for address, payload in desk.uploads.due(time.monotonic()):
        desk.send(address, payload)


def _hand_over(desk: Desk, uploaded: Uploaded) -> None:
    answer, message = whole_answer(desk.records, uploaded.answer, uploaded.attachment)
    if runs.answered(desk, uploaded.device, answer, message) != "early":
        desk.uploads.done(uploaded)  # an early one stays: it is offered again soon
