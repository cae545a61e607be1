"""What lies on a device already is not fetched again, whatever became of it meanwhile."""

from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import pytest

from agent.contract.frames import split_file
from agent.contract.manifest import Release, Source, describe_artifact, encode_release
from agent.contract.messages import ChunkRequest
from agent.contract.sources import FULL
from agent.daemon import seeding
from agent.daemon.agenda import Agenda
from agent.daemon.seeding import Seeding
from agent.daemon.transfers import Surroundings, Transfers
from agent.disk import Disk
from agent.link.chunk_map import read_map
from agent.link.fetch import FetchFailed
from agent.update.store import Store
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.releases import Published

CHUNK = 1024
OLD = Random(1).randbytes(20 * CHUNK - 100)
NEW = OLD[: 17 * CHUNK] + Random(2).randbytes(2 * CHUNK) + OLD[19 * CHUNK :]
WANTED = describe_artifact(NEW, CHUNK)


def release_of(model: bytes) -> tuple[Release, bytes, str]:
    bare = Published(1).release
    variant = msgspec.structs.replace(bare.variants[0], model=describe_artifact(model, CHUNK))
    release = msgspec.structs.replace(bare, variants=(variant,))
    return release, *encode_release(release)


RELEASE, MANIFEST, DIGEST = release_of(OLD)
STORED = RELEASE.variants[0].model.digest


def store_with_old(disk: Disk) -> Store:
    store = Store(disk)
    store.put(DIGEST, MANIFEST)
    store.put(STORED, OLD)
    return store


def seeding_of(store: Store) -> Seeding:
    return Seeding(store, lambda: (DIGEST,))


def fetch(store: Store, artifact=WANTED) -> list[int]:
    """Return the indexes of the chunks that were asked for until the artifact was there."""
    agenda, asked, ended = Agenda(), list[int](), list[str]()
    requests: list[ChunkRequest] = []

    def failed(_slot: str, _release: str, failure: FetchFailed) -> None:
        raise AssertionError(failure.why)

    around = Surroundings(
        ask=lambda request: bool(requests.append(request) or True),
        done=lambda slot, _: ended.append(slot),
        failed=failed,
        monotonic=lambda: 0.0,
        rebuild=lambda *_: ended.append("rebuild"),
    )
    transfers = Transfers(store.disk, agenda, around, stall_seconds=60, seeding=seeding_of(store))
    transfers.begin("motion", "release", (artifact,))
    for action in agenda.due(0.0):
        action()
    pieces = tuple(split_file(bytes.fromhex(artifact.digest[:16]), NEW, CHUNK))
    while requests and not ended:
        request = requests.pop(0)
        assert request.a == artifact.digest
        for first, count in request.r:
            asked.extend(range(first, first + count))
            for piece in pieces[first : first + count]:
                transfers.take(piece)
    assert ended == ["motion"]
    assert sha256(store.path(artifact.digest).read_bytes()).hexdigest() == artifact.digest
    return asked


def test_only_the_chunks_that_are_not_here_are_asked_for(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    assert seeding_of(store).shared_bytes(WANTED) == len(NEW) - 2 * CHUNK
    assert fetch(store) == [17, 18]


def test_an_artifact_that_is_all_here_is_not_asked_for_at_all(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    other = describe_artifact(OLD[: 5 * CHUNK], CHUNK)
    assert seeding_of(store).seed(other) == 5
    assert store.disk.path(f"store/{other.digest}.part").read_bytes() == OLD[: 5 * CHUNK]


def test_what_rotted_in_the_store_is_fetched(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    path = store.path(STORED)
    path.write_bytes(OLD[: 3 * CHUNK] + b"\0" * CHUNK + OLD[4 * CHUNK : 10 * CHUNK])
    assert fetch(store) == [3, *range(10, 20)]


def test_what_arrived_before_is_kept_beside_what_is_copied(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    assert seeding_of(store).seed(WANTED) == 18
    name = f"store/{WANTED.digest}"
    before = read_map(store.disk, f"{name}.map", WANTED)
    assert before is not None
    assert sum(before) == 18
    assert seeding_of(store).seed(WANTED) == 0, "what is in the part file is not copied twice"
    assert fetch(store) == [17, 18]


def test_releases_that_are_not_kept_or_not_here_are_no_place_to_look(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    assert Seeding(store, lambda: ("ab" * 32,)).shared_bytes(WANTED) == 0
    assert Seeding(store, tuple).seed(WANTED) == 0
    store.path(STORED).unlink()
    assert seeding_of(store).seed(WANTED) == 0


def test_chunks_of_another_length_are_not_compared(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    assert seeding_of(store).shared_bytes(describe_artifact(NEW, 2 * CHUNK)) == 0


def test_the_look_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seeding, "MAX_INDEXED", 4)
    assert seeding_of(store_with_old(Disk(tmp_path))).shared_bytes(WANTED) == 4 * CHUNK


def test_a_source_that_is_larger_than_what_is_missing_is_left_alone(tmp_path: Path):
    store = store_with_old(Disk(tmp_path))
    described = msgspec.structs.asdict(describe_artifact(bytes(15 * CHUNK)))
    source = Source(**described, kind=FULL)
    assert fetch(store, msgspec.structs.replace(WANTED, sources=(source,))) == [17, 18]


def test_a_power_cut_while_copying_costs_nothing_that_is_not_copied_again(tmp_path: Path):
    healthy = FaultyDisk(tmp_path / "healthy")
    store = store_with_old(healthy)
    before = healthy.used
    seeding_of(store).seed(WANTED)
    cuts = range(healthy.used - before)
    assert len(cuts) > 18
    for cut in cuts:
        folder = tmp_path / str(cut)
        store_with_old(Disk(folder))
        with pytest.raises(PowerCutError):
            seeding_of(Store(FaultyDisk(folder, good=cut))).seed(WANTED)
        assert fetch(Store(Disk(folder))) == [17, 18]
