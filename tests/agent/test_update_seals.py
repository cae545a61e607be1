"""What was hashed lately is not hashed again, and whatever touches it is noticed."""

import os
from pathlib import Path

import pytest

from agent.contract.frames import split_file
from agent.daemon.agenda import Agenda
from agent.daemon.transfers import Surroundings, Transfers
from agent.disk import Disk
from agent.errors import CorruptError, StoreError
from agent.update.seals import LASTS_SECONDS, Seals, read_seal
from agent.update.store import Store
from tests.releases import Published

ONE = Published(1, model_bytes=9000)
DIGEST, CONTENT = ONE.model.digest, ONE.files[ONE.model.digest]


def sealed_store(tmp_path: Path, now: list[float] | None = None) -> Store:
    store = Store(Disk(tmp_path), Seals((lambda: now[0]) if now else lambda: 0.0))
    store.put(DIGEST, CONTENT)
    store.verify(DIGEST)
    return store


def rot_behind_the_seal(store: Store) -> None:
    """Change a byte so that only hashing can tell: the seal is of the changed file."""
    path = store.path(DIGEST)
    path.write_bytes(b"\0" + CONTENT[1:])
    store.seals.keep(DIGEST, read_seal(path))


def test_bytes_with_an_unbroken_seal_are_not_read_again(tmp_path: Path):
    store = sealed_store(tmp_path)
    rot_behind_the_seal(store)
    store.require(DIGEST)
    with pytest.raises(CorruptError):
        store.verify(DIGEST)


def test_a_seal_ends_by_itself(tmp_path: Path):
    now = [100.0]
    store = sealed_store(tmp_path, now)
    rot_behind_the_seal(store)
    now[0] += LASTS_SECONDS
    assert store.seals.fresh() == ()
    with pytest.raises(CorruptError):
        store.require(DIGEST)


def _same_size(path: Path) -> None:
    path.write_bytes(b"\0" + CONTENT[1:])


def _old_times(path: Path) -> None:
    was = path.stat()
    _same_size(path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def _replaced(path: Path) -> None:
    path.with_suffix(".other").write_bytes(b"\0" + CONTENT[1:])
    path.with_suffix(".other").replace(path)


def _shorter(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.parametrize("touch", [_same_size, _old_times, _replaced, _shorter])
def test_whoever_touches_the_file_breaks_its_seal(tmp_path: Path, touch):
    store = sealed_store(tmp_path)
    touch(store.path(DIGEST))
    with pytest.raises(CorruptError):
        store.require(DIGEST)


def test_a_file_that_is_gone_is_named_whatever_its_seal_says(tmp_path: Path):
    store = sealed_store(tmp_path)
    store.path(DIGEST).unlink()
    with pytest.raises(StoreError, match=DIGEST[:16]):
        store.require(DIGEST)


def test_a_file_that_was_never_hashed_here_is_hashed(tmp_path: Path):
    sealed_store(tmp_path)
    _same_size(tmp_path / "store" / DIGEST)
    with pytest.raises(CorruptError):
        Store(Disk(tmp_path)).require(DIGEST)


def _fetched(store: Store) -> None:
    agenda = Agenda()
    around = Surroundings(
        ask=lambda _: True,
        done=lambda *_: None,
        failed=lambda *_: None,
        monotonic=lambda: 0.0,
        hashed=store.seal,
    )
    transfers = Transfers(store.disk, agenda, around, stall_seconds=60.0)
    transfers.begin("motion", ONE.digest, (ONE.model,))
    for action in agenda.due(0.0):
        action()
    for piece in split_file(bytes.fromhex(DIGEST[:16]), CONTENT, ONE.model.chunk_size):
        transfers.take(piece)


def test_a_finished_transfer_seals_what_it_hashed(tmp_path: Path):
    store = Store(Disk(tmp_path))
    _fetched(store)
    assert [digest for digest, _ in store.seals.fresh()] == [DIGEST]
    assert store.seals.unbroken(DIGEST, store.path(DIGEST))


def test_a_transfer_that_found_the_file_there_seals_nothing(tmp_path: Path):
    store = Store(Disk(tmp_path))
    store.disk.write(f"store/{DIGEST}", b"\0" + CONTENT[1:])
    _fetched(store)
    assert store.seals.fresh() == ()
    with pytest.raises(CorruptError):
        store.require(DIGEST)
