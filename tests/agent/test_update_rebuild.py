"""An artifact made of fewer bytes: the right one under its name, or none."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard

from agent.contract.frames import split_file
from agent.contract.manifest import Artifact, Source, describe_artifact
from agent.contract.messages import ChunkRequest
from agent.contract.sources import FULL
from agent.daemon.agenda import Agenda
from agent.daemon.transfers import Surroundings, Transfers
from agent.disk import Disk
from agent.errors import AgentError, CorruptError, DiskFullError, PlatformError, StoreError
from agent.link.fetch import FetchFailed
from agent.update.rebuild import rebuild
from agent.update.store import Store
from agent.worker.jobs import RebuildAnswer
from fleet.release.delta import offer
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.releases import Published

RNG = np.random.default_rng(1)
BASE = RNG.integers(0, 64, 700_000, dtype=np.uint8).tobytes()
MOVED = BASE[100:] + b"a new head" * 10
NUDGED = (np.frombuffer(BASE, np.uint8) + RNG.integers(0, 2, len(BASE), np.uint8)).tobytes()


def digest_of(content: bytes) -> str:
    return sha256(content).hexdigest()


class Device:
    """A store with the base in it, and sources of one artifact that may be fetched."""

    def __init__(self, disk: Disk, content: bytes = MOVED) -> None:
        self.store = Store(disk)
        self.content = content
        self.offered = offer(content, [BASE])
        self.artifact: Artifact = self.offered.artifact
        self.full, self.delta = sorted(self.artifact.sources, key=lambda s: -s.size)

    def with_base(self) -> "Device":
        self.store.put(digest_of(BASE), BASE)
        return self

    def with_source(self, source: Source) -> "Device":
        self.store.put(source.digest, self.offered.files[source.digest])
        return self

    def names(self) -> set[str]:
        return set(self.store.disk.names("store"))


@pytest.mark.parametrize("content", [MOVED, NUDGED], ids=["patch", "subtract"])
def test_each_kind_of_source_makes_the_artifact(tmp_path: Path, content: bytes):
    device = Device(Disk(tmp_path), content).with_base()
    for source in (device.full, device.delta):
        device.with_source(source)
        seal = rebuild(device.store, device.artifact, source)
        assert device.store.read(device.artifact.digest) == content
        assert device.store.seals.fresh()[-1] == (device.artifact.digest, seal)
        device.store.discard(device.artifact.digest)


def lying(content: bytes) -> tuple[Source, bytes]:
    """Return a signed source that makes something else of the right length."""
    packed = zstandard.compress(content[::-1])
    described = msgspec.structs.asdict(describe_artifact(packed))
    return Source(**described, kind=FULL), packed


def test_a_signed_source_that_makes_other_bytes_leaves_nothing(tmp_path: Path):
    device = Device(Disk(tmp_path))
    source, packed = lying(device.content)
    device.store.put(source.digest, packed)
    with pytest.raises(CorruptError, match="what was made"):
        rebuild(device.store, device.artifact, source)
    assert device.names() == {source.digest}


def test_a_rotten_base_is_not_built_upon(tmp_path: Path):
    device = Device(Disk(tmp_path)).with_base()
    device.with_source(device.delta)
    device.store.path(digest_of(BASE)).write_bytes(b"\0" + BASE[1:])
    with pytest.raises(CorruptError, match="medium"):
        rebuild(device.store, device.artifact, device.delta)
    assert not device.store.has(device.artifact.digest)


def test_a_source_that_is_gone_is_named(tmp_path: Path):
    device = Device(Disk(tmp_path)).with_base()
    with pytest.raises(StoreError, match=device.delta.digest[:16]):
        rebuild(device.store, device.artifact, device.delta)


def test_without_room_for_the_whole_nothing_is_begun(tmp_path: Path):
    class Full(Disk):
        def free_bytes(self) -> int:
            return len(MOVED) - 1

    device = Device(Full(tmp_path)).with_base()
    device.with_source(device.delta)
    with pytest.raises(DiskFullError):
        rebuild(device.store, device.artifact, device.delta)
    assert device.names() == {digest_of(BASE), device.delta.digest}


def test_a_power_cut_anywhere_leaves_the_whole_artifact_or_none(tmp_path: Path):
    healthy = Device(FaultyDisk(tmp_path / "healthy")).with_base()
    healthy.with_source(healthy.delta)
    disk = healthy.store.disk
    assert isinstance(disk, FaultyDisk)
    before = disk.used
    rebuild(healthy.store, healthy.artifact, healthy.delta)
    cuts = range(disk.used - before)
    assert len(cuts) >= 5
    for cut in cuts:
        folder = tmp_path / str(cut)
        Device(Disk(folder)).with_base().with_source(healthy.delta)
        cutting = Device(FaultyDisk(folder, good=cut))
        with pytest.raises(PowerCutError):
            rebuild(cutting.store, cutting.artifact, cutting.delta)
        again = Device(Disk(folder))
        assert not again.store.has(again.artifact.digest)
        rebuild(again.store, again.artifact, again.delta)
        assert again.store.read(again.artifact.digest) == MOVED
        assert again.names() == {digest_of(BASE), again.delta.digest, again.artifact.digest}


def test_a_source_is_kept_until_its_artifact_is_made(tmp_path: Path):
    device = Device(Disk(tmp_path))
    bare = Published(1)
    variant = msgspec.structs.replace(bare.release.variants[0], model=device.artifact)
    manifest = msgspec.json.encode(msgspec.structs.replace(bare.release, variants=(variant,)))
    device.store.put(digest_of(manifest), manifest)
    device.with_source(device.delta)
    assert device.store.evict([digest_of(manifest)]) == ()
    device.store.put(device.artifact.digest, MOVED)
    assert device.store.evict([digest_of(manifest)]) == (device.delta.digest,)


class Room:
    """Transfers whose manager answers at once, and whose child is this process."""

    def __init__(self, tmp_path: Path, *, base: bool = True) -> None:
        self.device = Device(Disk(tmp_path))
        if base:
            self.device.with_base()
        self.agenda, self.now = Agenda(), 0.0
        self.asked: list[str] = []
        self.bytes_asked = 0
        self.ended: list[str] = []
        self.breaks: AgentError | None = None
        self.children: list[tuple[Artifact, Source]] = []
        self.transfers = Transfers(
            self.device.store.disk,
            self.agenda,
            Surroundings(
                ask=self._ask,
                done=lambda slot, _: self.ended.append(f"{slot} done"),
                failed=self._failed,
                monotonic=lambda: self.now,
                hashed=self.device.store.seal,
                rebuild=self._rebuild,
            ),
            stall_seconds=60.0,
        )
        self.served = dict(self.device.offered.files)
        self._requests: list[ChunkRequest] = []

    def run(self, *, child: bool = True, seconds: float = 200.0) -> None:
        """Let things happen until nothing more does."""
        end = self.now + seconds
        while self.now < end:
            for action in self.agenda.due(self.now):
                action()
            while self._requests or (child and self.children):
                for request in self._take_requests():
                    self._serve(request)
                while child and self.children:
                    self._finish(*self.children.pop())
            self.now += min(1.0, max(0.01, self.agenda.wait_seconds(self.now, 1.0)))

    def begin(self, slot: str = "motion") -> None:
        self.transfers.begin(slot, "release", (self.device.artifact,))

    def _take_requests(self) -> Iterator[ChunkRequest]:
        while self._requests:
            yield self._requests.pop(0)

    def _ask(self, request: ChunkRequest) -> bool:
        if request.a not in self.asked:
            self.asked.append(request.a)
        self._requests.append(request)
        return True

    def _failed(self, slot: str, _: str, failure: FetchFailed) -> None:
        self.ended.append(f"{slot} {failure.code}")

    def _serve(self, request: ChunkRequest) -> None:
        content = self.served.get(request.a)
        if content is None:
            return
        pieces = tuple(split_file(bytes.fromhex(request.a[:16]), content, 65536))
        for first, count in request.r:
            for piece in pieces[first : first + count]:
                self.bytes_asked += len(piece.content)
                self.transfers.take(piece)

    def _rebuild(self, artifact: Artifact, source: Source) -> None:
        if isinstance(self.breaks, PlatformError):
            raise self.breaks
        self.children.append((artifact, source))

    def _finish(self, artifact: Artifact, source: Source) -> None:
        answer: RebuildAnswer | AgentError
        try:
            if self.breaks:
                raise self.breaks
            answer = RebuildAnswer(seal=rebuild(self.device.store, artifact, source))
        except AgentError as why:
            answer = why
        self.transfers.rebuilt(artifact.digest, answer)


def test_only_the_delta_is_fetched_where_its_base_is_here(tmp_path: Path):
    room = Room(tmp_path)
    room.begin()
    room.run()
    assert room.ended == ["motion done"]
    assert room.asked == [room.device.delta.digest]
    assert room.bytes_asked < len(MOVED) // 100
    assert room.device.store.read(room.device.artifact.digest) == MOVED
    assert room.device.names() == {digest_of(BASE), room.device.artifact.digest}


def test_compressed_full_is_fetched_where_no_base_is_here(tmp_path: Path):
    room = Room(tmp_path, base=False)
    room.begin()
    room.run()
    assert room.ended == ["motion done"]
    assert room.asked == [room.device.full.digest]
    assert room.device.store.read(room.device.artifact.digest) == MOVED


@pytest.mark.parametrize(
    "breaks",
    [
        pytest.param(CorruptError("other bytes"), id="a result that is not the artifact"),
        pytest.param(AgentError("killed by SIGKILL"), id="a child that was killed"),
        pytest.param(PlatformError("no process"), id="a child that does not start"),
    ],
)
def test_a_source_that_fails_gives_way_to_the_whole_in_bounded_bytes(tmp_path: Path, breaks):
    room = Room(tmp_path)
    room.breaks = breaks
    room.begin()
    room.run()
    sources = {source.digest for source in room.device.artifact.sources}
    assert room.ended == ["motion done"]
    assert room.asked[-1] == room.device.artifact.digest
    assert set(room.asked[:-1]) <= sources
    assert room.bytes_asked <= len(MOVED) + sum(s.size for s in room.device.artifact.sources)
    assert room.device.store.read(room.device.artifact.digest) == MOVED
    assert not sources & room.device.names()


def test_a_source_that_the_manager_does_not_have_stalls_twice_at_most(tmp_path: Path):
    room = Room(tmp_path)
    for source in room.device.artifact.sources:
        del room.served[source.digest]
    tries = 0
    while "motion done" not in room.ended:
        room.begin()
        room.run(seconds=300)
        tries += 1
        assert tries <= 3
    assert room.ended.count("motion stalled") == 2
    assert room.device.store.read(room.device.artifact.digest) == MOVED


def test_a_slot_that_changes_its_mind_does_not_start_a_second_child_for_the_same(tmp_path: Path):
    room = Room(tmp_path)
    room.begin()
    room.run(child=False, seconds=5)
    assert len(room.children) == 1
    room.transfers.stop("motion")
    room.begin("other")
    room.run(child=False, seconds=5)
    assert len(room.children) == 1
    room.run()
    assert room.ended == ["other done"]


def test_what_a_child_made_for_nobody_is_kept_for_the_next_wish(tmp_path: Path):
    room = Room(tmp_path)
    room.begin()
    room.run(child=False, seconds=5)
    room.transfers.stop("motion")
    room.run()
    assert room.ended == []
    room.begin()
    room.run()
    assert room.ended == ["motion done"]
    assert room.asked == [room.device.delta.digest]


def test_a_source_that_arrived_before_a_restart_is_not_fetched_again(tmp_path: Path):
    first = Room(tmp_path)
    first.begin()
    first.run(child=False, seconds=5)
    again = Room(tmp_path)
    again.begin()
    again.run()
    assert again.ended == ["motion done"]
    assert again.asked == []
