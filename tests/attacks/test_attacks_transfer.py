"""Rows 1 and 26: a sender of other bytes, and one that falls silent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.contract.frames import Piece
from agent.contract.manifest import describe_artifact
from agent.disk import Disk
from agent.errors import CorruptError
from agent.link.fetch import Fetch, Fetched, FetchFailed, Fetching
from agent.update.store import Store

CHUNK = 1024
BODY = bytes(range(256)) * 130  # 33 chunks, the last one short
ARTIFACT = describe_artifact(BODY, CHUNK)
Sender = Callable[[int], bytes | None]


def honest(index: int) -> bytes | None:
    return BODY[index * CHUNK : (index + 1) * CHUNK]


def carry(disk: Disk, sender: Sender, seconds: float = 10_000.0) -> object:
    """Serve a transfer until it ends; each exchange takes a tenth of a second."""
    now, name = 0.0, bytes.fromhex(ARTIFACT.digest[:16])
    fetch = Fetch(ARTIFACT, disk, now_seconds=now)
    progress: object = fetch.progress(now)
    while isinstance(progress, Fetching) and now < seconds:
        asked = [
            index
            for request in fetch.requests(now)
            for first, count in request.r
            for index in range(first, first + count)
        ]
        now += 0.1
        for index in asked:
            content = sender(index)
            if content is not None:
                piece = Piece(name=name, index=index, total=ARTIFACT.count, content=content)
                progress = fetch.take(piece, now)
        if not isinstance(progress, Fetching):
            break
        now += max(fetch.wait_seconds(now), 0.0)
        progress = fetch.progress(now)
    return progress


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda chunk: b"!" + chunk[1:], id="altered"),
        pytest.param(lambda chunk: chunk[:-1], id="truncated"),
        pytest.param(lambda chunk: chunk + b"\0", id="over-long"),
        pytest.param(lambda _chunk: b"", id="empty"),
    ],
)
def test_attack_01_an_artifact_of_other_bytes_is_never_stored(
    tmp_path: Path, lie: Callable[[bytes], bytes]
) -> None:
    ended = carry(Disk(tmp_path), lambda index: lie(honest(index) or b""))
    assert isinstance(ended, FetchFailed)
    assert ended.code == "chunk-corrupt"
    assert Disk(tmp_path).read(f"store/{ARTIFACT.digest}") is None


def test_attack_01_one_altered_chunk_is_asked_for_again(tmp_path: Path) -> None:
    spoiled: list[int] = []

    def sometimes(index: int) -> bytes | None:
        if index % 5 or index in spoiled:
            return honest(index)
        spoiled.append(index)
        return bytes(CHUNK)

    assert isinstance(carry(Disk(tmp_path), sometimes), Fetched)
    assert spoiled
    assert Disk(tmp_path).read(f"store/{ARTIFACT.digest}") == BODY


def test_attack_01_bytes_that_change_on_the_medium_are_not_loaded(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert isinstance(carry(disk, honest), Fetched)
    store = Store(disk)
    store.verify(ARTIFACT.digest)
    for other in (b"!" + BODY[1:], BODY[:-1], BODY + b"\0"):
        disk.replace(f"store/{ARTIFACT.digest}", other)
        with pytest.raises(CorruptError):
            store.verify(ARTIFACT.digest)


def test_attack_26_a_stalled_transfer_times_out_and_resumes(tmp_path: Path) -> None:
    asked: list[int] = []

    def falls_silent(index: int) -> bytes | None:
        asked.append(index)
        return honest(index) if index < 20 else None

    ended = carry(Disk(tmp_path), falls_silent)
    assert isinstance(ended, FetchFailed)
    assert (ended.code, ended.retryable) == ("stalled", True)
    again: list[int] = []

    def returns(index: int) -> bytes | None:
        again.append(index)
        return honest(index)

    assert isinstance(carry(Disk(tmp_path), returns), Fetched)
    assert Disk(tmp_path).read(f"store/{ARTIFACT.digest}") == BODY
    assert min(again) >= 20
