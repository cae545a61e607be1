"""The store keeps what is needed, verifies what it keeps, and evicts nothing else."""

from pathlib import Path

import pytest

from agent.disk import Disk
from agent.errors import CorruptError, DiskFullError, StoreError
from agent.update.store import Store, require_room
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.releases import Published

OLD, NEW = Published(1), Published(2)


def store_with(tmp_path: Path, *published: Published) -> Store:
    store = Store(Disk(tmp_path))
    for one in published:
        for digest, content in one.files.items():
            store.put(digest, content)
    return store


def test_what_is_put_is_there_under_its_digest(tmp_path: Path):
    store = store_with(tmp_path, OLD)
    assert store.has(OLD.digest)
    assert store.path(OLD.model.digest).read_bytes() == OLD.files[OLD.model.digest]
    assert store.read_manifest(OLD.digest) == OLD.release
    assert store.missing(OLD.release.artifacts) == ()
    assert store.missing(NEW.release.artifacts) == (NEW.model,), "the golden file is shared"


def test_bytes_of_another_digest_are_not_kept(tmp_path: Path):
    store = store_with(tmp_path)
    with pytest.raises(CorruptError, match=OLD.digest[:16]):
        store.put(OLD.digest, NEW.manifest)
    assert not store.has(OLD.digest)


@pytest.mark.parametrize("digest", ["../identity.json", "", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_a_name_that_is_no_digest_is_refused(tmp_path: Path, digest: str):
    with pytest.raises(StoreError, match="SHA-256"):
        store_with(tmp_path).path(digest)


def test_a_rotten_manifest_is_not_believed(tmp_path: Path):
    store = store_with(tmp_path, OLD)
    store.path(OLD.digest).write_bytes(OLD.manifest.replace(b'"v":1', b'"v":2'))
    with pytest.raises(CorruptError):
        store.read_manifest(OLD.digest)


def test_a_rotten_manifest_is_mended_by_putting_it_again(tmp_path: Path):
    store = store_with(tmp_path, OLD)
    store.path(OLD.digest).write_bytes(b"rotten")
    store.put(OLD.digest, OLD.manifest)
    assert store.read_manifest(OLD.digest) == OLD.release


def test_a_manifest_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(StoreError, match="not in the store"):
        store_with(tmp_path).read_manifest(OLD.digest)


def test_a_rotten_artifact_is_found_by_reading_it_and_can_be_fetched_again(tmp_path: Path):
    store = store_with(tmp_path, OLD)
    model = store.path(OLD.model.digest)
    model.write_bytes(bytes([model.read_bytes()[0] ^ 1]) + model.read_bytes()[1:])
    with pytest.raises(CorruptError, match="medium"):
        store.verify(OLD.model.digest)
    store.discard(OLD.model.digest)
    assert store.missing(OLD.release.artifacts) == (OLD.model,)
    with pytest.raises(StoreError):
        store.verify(OLD.model.digest)


def test_an_artifact_of_the_wrong_length_counts_as_missing(tmp_path: Path):
    store = store_with(tmp_path, OLD)
    store.path(OLD.model.digest).write_bytes(b"short")
    assert store.missing(OLD.release.artifacts) == (OLD.model,)


def test_eviction_keeps_kept_releases_with_everything_behind_them(tmp_path: Path):
    store = store_with(tmp_path, OLD, NEW)
    assert store.evict([OLD.digest]) == tuple(sorted([NEW.digest, NEW.model.digest]))
    assert store.missing(OLD.release.artifacts) == ()
    assert store.evict([OLD.digest]) == ()


def test_eviction_removes_what_unfinished_fetches_left_but_not_the_wanted_one(tmp_path: Path):
    store = store_with(tmp_path, OLD)
    store.put(NEW.digest, NEW.manifest)
    stale = [f"{'a' * 64}.part", f"{'a' * 64}.map", f"{OLD.model.digest}.part"]
    wanted = [f"{NEW.model.digest}.part", f"{NEW.model.digest}.map"]
    torn = [f"{NEW.model.digest}.map.new", f"{NEW.digest}.new"]
    for name in (*stale, *wanted, *torn):
        store.disk.write(f"store/{name}", b"x")
    removed = store.evict([OLD.digest, NEW.digest])
    assert set(stale) <= set(removed)
    assert not set(wanted) & set(removed)
    assert set(torn) <= set(removed)


def test_nothing_is_evicted_while_a_kept_manifest_cannot_be_read(tmp_path: Path):
    store = store_with(tmp_path, OLD, NEW)
    store.path(OLD.digest).write_bytes(b"rotten")
    assert store.evict([OLD.digest]) == ()
    assert store.has(OLD.model.digest)


def test_a_cut_while_putting_leaves_nothing_under_the_digest(tmp_path: Path):
    for good in range(2):
        store = Store(FaultyDisk(tmp_path, good=good))
        with pytest.raises(PowerCutError):
            store.put(OLD.digest, OLD.manifest)
        assert not store.has(OLD.digest)


def test_room_is_refused_with_the_figures(tmp_path: Path):
    disk = Disk(tmp_path)
    require_room(disk, 1, 1)
    with pytest.raises(DiskFullError, match=r"4611686018427387904 bytes .* 77, .* free"):
        require_room(disk, 2**62, 77)
