"""Files of a bundle reach the store whole or not at all, wherever the power is cut."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from agent.contract.bundle import BundleWriter, Place
from agent.contract.manifest import Source, describe_artifact
from agent.contract.sealing import seal_stream
from agent.contract.sources import PLAIN, SEALED
from agent.disk import Disk
from agent.errors import DiskFullError, StoreError
from agent.refusals import TruncatedBundleError, WrongArtifactError
from agent.update.rebuild import rebuild
from agent.update.store import Store
from agent.update.unpack import read, unpack
from tests.faulty_disk import FaultyDisk, PowerCutError

FILES = tuple(bytes([n]) * 300_000 for n in (1, 2))
KEY = b"k" * 32


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    out = BytesIO()
    writer = BundleWriter(out)
    writer.assignment("d-one", b"an assignment")
    for content in FILES:
        writer.file(sha256(content).hexdigest(), len(content), (content,))
    writer.end()
    path = tmp_path / "bundle"
    path.write_bytes(out.getvalue())
    return path


def whole(disk: Disk) -> list[str]:
    """Return the complete files in the store, each of which must be what its name says."""
    names = [name for name in disk.names("store") if "." not in name]
    for name in names:
        assert sha256(disk.path(f"store/{name}").read_bytes()).hexdigest() == name
    return names


def test_a_power_cut_at_any_operation_leaves_no_file_with_a_wrong_name(tmp_path, bundle):
    places = read(bundle, "d-one").files
    cut = 0
    while True:
        home = tmp_path / f"cut-{cut}"
        home.mkdir()
        try:
            unpack(Store(FaultyDisk(home, good=cut)), bundle, places.items())
        except PowerCutError:
            whole(Disk(home))
            sealed = unpack(Store(Disk(home)), bundle, places.items())
            assert sorted(whole(Disk(home))) == sorted(places) == sorted(d for d, _ in sealed)
            cut += 1
            continue
        break
    assert cut >= 10


def test_a_power_cut_while_a_stream_is_opened_leaves_no_file_with_a_wrong_name(tmp_path):
    content = b"weights " * 100_000
    stream = seal_stream(content, KEY)
    described = describe_artifact(stream)
    source = Source(
        digest=described.digest, size=described.size, chunks=described.chunks, kind=SEALED + PLAIN
    )
    plain = describe_artifact(content)
    cut = 0
    while True:
        home = tmp_path / f"cut-{cut}"
        Disk(home.parent).write(f"{home.name}/store/{source.digest}", stream)
        try:
            rebuild(Store(FaultyDisk(home, good=cut)), plain, source, KEY)
        except PowerCutError:
            assert whole(Disk(home)) in ([source.digest], sorted((source.digest, plain.digest)))
            rebuild(Store(Disk(home)), plain, source, KEY)
            assert plain.digest in whole(Disk(home))
            cut += 1
            continue
        break
    assert cut >= 5


def test_a_place_that_holds_other_bytes_or_too_few_is_refused(tmp_path, bundle):
    (digest, place), _ = read(bundle, "d-one").files.items()
    (tmp_path / "state").mkdir()
    store = Store(Disk(tmp_path / "state"))
    with pytest.raises(WrongArtifactError):
        unpack(store, bundle, [(digest, Place(place.at + 1, place.size))])
    with pytest.raises(TruncatedBundleError):
        unpack(store, bundle, [(digest, Place(place.at, 10**7))])
    assert store.disk.names("store") == []


def test_a_disk_without_room_is_told_before_a_byte_is_written(tmp_path, bundle, monkeypatch):
    store = Store(Disk(tmp_path / "state"))
    monkeypatch.setattr(store.disk, "free_bytes", lambda: 1000)
    with pytest.raises(DiskFullError):
        unpack(store, bundle, read(bundle, "d-one").files.items())
    assert not (tmp_path / "state").exists()


def test_a_bundle_that_is_gone_is_told(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        read(tmp_path / "nowhere", "d-one")
    with pytest.raises(StoreError, match="cannot be unpacked"):
        unpack(Store(Disk(tmp_path)), tmp_path / "nowhere", [("ab" * 32, Place(0, 1))])
