"""Large answers of rounds, fetched from devices chunk by chunk."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from agent.contract.codec import decode
from agent.contract.frames import Piece
from agent.contract.limits import CHUNK_BYTES, MAX_FLOWER_BYTES
from agent.contract.manifest import Artifact
from agent.contract.rounds import TaskAnswer, UploadRequest
from agent.contract.shared_arrays import in_chunks
from fleet.errors import RefusedError
from fleet.ingest import uploads
from fleet.ingest.uploads import Uploads

CONTENT = np.random.default_rng(0).bytes(40 * CHUNK_BYTES - 7)


def answer(task: str = "t1", content: bytes = CONTENT) -> TaskAnswer:
    return TaskAnswer(run="run-1", task=task, outcome="done", upload=in_chunks(content))


def asked(found) -> dict[str, list[int]]:
    """Return the chunks that each device was asked for."""
    requests = {address.who: decode(UploadRequest, payload) for address, payload in found}
    return {
        who: [i for first, count in request.r for i in range(first, first + count)]
        for who, request in requests.items()
    }


def piece(index: int, content: bytes = CONTENT) -> Piece:
    told = in_chunks(content)
    chunk = content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
    name = bytes.fromhex(told.digest[:16])
    return Piece(name=name, index=index, total=told.count, content=chunk)


def fetch(made: Uploads, device: str, now: float = 0.0) -> None:
    """Answer everything that is asked of one device."""
    while indexes := asked(made.due(now)).get(device):
        for index in indexes:
            made.take(device, piece(index), now)


def always(_device: str, _answer: TaskAnswer) -> bool:
    return True


def test_an_answer_is_asked_for_in_windows_and_handed_over_whole(tmp_path: Path):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    first = asked(made.due(0.0))["d-one"]
    assert first == list(range(uploads.WINDOW_CHUNKS))
    assert made.due(0.1) == []
    for index in first:
        made.take("d-one", piece(index), 0.2)
    fetch(made, "d-one")
    (uploaded,) = made.finished()
    assert (uploaded.device, uploaded.attachment) == ("d-one", CONTENT)
    made.done(uploaded)
    assert list(tmp_path.iterdir()) == []


def test_few_devices_upload_at_once_and_the_next_follows(tmp_path: Path):
    made = Uploads(tmp_path, always)
    for number in range(7):
        made.offer(f"d-{number}", answer(f"t{number}"))
    assert list(asked(made.due(0.0))) == ["d-0", "d-1", "d-2", "d-3"]
    assert len(list(tmp_path.iterdir())) == uploads.AT_ONCE
    for index in range(uploads.WINDOW_CHUNKS):
        made.take("d-0", piece(index), 0.0)
    fetch(made, "d-0")
    assert [u.device for u in made.finished()] == ["d-0"]
    assert "d-4" in asked(made.due(0.0))


def test_what_does_not_come_is_asked_for_again(tmp_path: Path):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    made.due(0.0)
    made.take("d-one", piece(3), 0.5)
    again = asked(made.due(uploads.AGAIN_SECONDS))["d-one"]
    assert 3 not in again
    assert {0, 1, 2, 4} <= set(again)


def test_a_silent_device_loses_its_turn_and_at_last_its_place(tmp_path: Path):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    now, turns = 0.0, 0
    while made.due(now):
        turns += 1
        now += uploads.STALL_SECONDS
    assert turns == uploads.MAX_TURNS
    made.offer("d-one", answer())
    assert asked(made.due(now))["d-one"]


def test_after_a_restart_only_what_is_missing_is_asked_for(tmp_path: Path):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    made.due(0.0)
    for index in (0, 1, 5):
        made.take("d-one", piece(index), 0.0)
    again = Uploads(tmp_path, always)
    again.offer("d-one", answer())
    assert not {0, 1, 5} & set(asked(again.due(0.0))["d-one"])
    for index in range(uploads.WINDOW_CHUNKS + 3):
        again.take("d-one", piece(index), 0.0)
    fetch(again, "d-one")
    assert next(again.finished()).attachment == CONTENT


@pytest.mark.parametrize(
    ("device", "came"),
    [
        pytest.param("d-two", piece(0), id="of another device"),
        pytest.param("d-one", piece(30), id="not asked for"),
        pytest.param("d-one", piece(0, b"x" * 70), id="of another answer"),
    ],
)
def test_a_chunk_that_was_not_asked_of_this_device_changes_nothing(tmp_path: Path, device, came):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    made.due(0.0)
    made.take(device, came, 0.0)
    assert len(asked(made.due(uploads.AGAIN_SECONDS))["d-one"]) == uploads.WINDOW_CHUNKS


def test_other_bytes_than_the_answer_names_are_asked_for_again(tmp_path: Path):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    made.due(0.0)
    wrong = Piece(name=piece(0).name, index=0, total=40, content=b"x" * CHUNK_BYTES)
    made.take("d-one", wrong, 0.0)
    assert 0 in asked(made.due(uploads.AGAIN_SECONDS))["d-one"]


def test_what_is_not_wanted_any_more_is_asked_of_nobody_and_leaves_no_file(tmp_path: Path):
    open_tasks = {"t1"}
    made = Uploads(tmp_path, lambda _device, said: said.task in open_tasks)
    made.offer("d-one", answer())
    made.offer("d-two", answer("t2"))
    assert list(asked(made.due(0.0))) == ["d-one"]
    open_tasks.clear()
    assert made.due(uploads.AGAIN_SECONDS) == []
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_another_one_made_needless_is_not_handed_over(tmp_path: Path):
    """A round closes with the answers that it wants; others may be whole at that moment."""
    wanted = {"d-one", "d-two"}
    made = Uploads(tmp_path, lambda device, _said: device in wanted)
    for device in sorted(wanted):
        made.offer(device, answer())
    for device in sorted(wanted):
        fetch(made, device)
    handed = []
    for uploaded in made.finished():
        handed.append(uploaded.device)
        wanted.clear()
        made.done(uploaded)
        made.due(0.0)
    assert handed == ["d-one"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "claimed",
    [
        pytest.param(None, id="no upload"),
        pytest.param(
            Artifact(
                digest="ab" * 32,
                size=MAX_FLOWER_BYTES + 1,
                chunks="00" * 16 * (MAX_FLOWER_BYTES // CHUNK_BYTES + 1),
            ),
            id="more than an answer may be",
        ),
    ],
)
def test_an_upload_that_cannot_be_is_refused_before_anything_is_kept(tmp_path: Path, claimed):
    made = Uploads(tmp_path / "new", always)
    with pytest.raises(RefusedError, match="upload"):
        made.offer("d-one", replace(answer(), upload=claimed))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_costs_one_answer_its_turn_and_nothing_else(tmp_path: Path):
    made = Uploads(tmp_path, always, reserve_bytes=2**62)
    made.offer("d-one", answer())
    with pytest.raises(RefusedError, match="reserve"):
        made.due(0.0)
    assert made.due(0.0) == []
    assert list(tmp_path.iterdir()) == []


def test_parts_that_nobody_goes_on_with_are_removed_after_days(tmp_path: Path):
    made = Uploads(tmp_path, always)
    made.offer("d-one", answer())
    made.due(0.0)
    left = tmp_path / "d-old.part"
    left.write_bytes(b"x")
    now_ms = int(left.stat().st_mtime * 1000)
    made.tidy(now_ms)
    assert left.exists()
    made.tidy(now_ms + 3 * 86_400_000)
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 1
