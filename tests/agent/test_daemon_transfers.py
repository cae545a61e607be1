"""Transfers of several slots: what a full disk refuses one does not stop the next."""

from pathlib import Path

import pytest

from agent.contract.frames import split_file
from agent.contract.messages import ChunkRequest
from agent.daemon.agenda import Agenda
from agent.daemon.transfers import Surroundings, Transfers
from agent.disk import Disk
from agent.errors import StoreError
from tests.releases import Published

ONE, OTHER = Published(1, model_bytes=900), Published(2, model_bytes=900)


def test_an_order_whose_end_the_disk_refuses_leaves_the_next_one_running(tmp_path: Path):
    agenda, asked, done = Agenda(), list[ChunkRequest](), list[str]()
    now = 0.0

    def finished(slot: str, _: str) -> None:
        done.append(slot)
        if slot == "first":
            raise StoreError("no space left for the journal")

    around = Surroundings(
        ask=lambda request: bool(asked.append(request) or True),
        done=finished,
        failed=lambda *_: None,
        monotonic=lambda: now,
    )
    disk = Disk(tmp_path)
    disk.write(f"store/{ONE.model.digest}", ONE.files[ONE.model.digest])
    transfers = Transfers(disk, agenda, around, stall_seconds=60.0)
    transfers.begin("first", ONE.digest, (ONE.model,))
    transfers.begin("second", OTHER.digest, (OTHER.model,))
    with pytest.raises(StoreError):
        agenda.due(now)[0]()
    now += 5.0
    for action in agenda.due(now):
        action()
    assert [request.a for request in asked] == [OTHER.model.digest]
    content = OTHER.files[OTHER.model.digest]
    for piece in split_file(bytes.fromhex(OTHER.model.digest[:16]), content, 1024):
        transfers.take(piece)
    assert done == ["first", "second"]


def test_what_was_brought_by_hand_does_not_wait_for_what_the_network_does_not_bring(
    tmp_path: Path,
):
    agenda, asked, done = Agenda(), list[str](), list[str]()
    around = Surroundings(
        ask=lambda request: bool(asked.append(request.a) or True),
        done=lambda slot, _: done.append(slot),
        failed=lambda *_: None,
        monotonic=lambda: 0.0,
    )
    disk = Disk(tmp_path)
    transfers = Transfers(disk, agenda, around, stall_seconds=60.0)
    transfers.begin("slow", OTHER.digest, (OTHER.model,))
    agenda.due(0.0)[0]()
    assert asked == [OTHER.model.digest]
    disk.write(f"store/{ONE.model.digest}", ONE.files[ONE.model.digest])
    transfers.take_at_hand("carried", ONE.digest, (ONE.model,))
    agenda.due(0.0)[0]()
    assert done == ["carried"]
    assert asked == [OTHER.model.digest] * 2  # and goes on with the other one
    content = OTHER.files[OTHER.model.digest]
    for piece in split_file(bytes.fromhex(OTHER.model.digest[:16]), content, 1024):
        transfers.take(piece)
    assert done == ["carried", "slow"]
