"""An artifact arrives whole, resumes where it was cut, and is never anything else."""

import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest

from agent.contract.frames import Piece, split_file
from agent.contract.limits import MAX_CHUNKS_PER_REQUEST, MAX_OUTSTANDING_BYTES
from agent.contract.manifest import Artifact, describe_artifact
from agent.contract.messages import ChunkRequest
from agent.disk import Disk
from agent.errors import DiskFullError, NewerStateError
from agent.link.chunk_map import read_map, write_map
from agent.link.fetch import Fetch, Fetched, FetchFailed, Fetching, Progress
from agent.link.part_file import MAX_UNPERSISTED_CHUNKS, PERSIST_CHUNKS
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import count_cuts

CHUNK = 1024
SLOW = 100_000.0  # bytes a second: 64 chunks take longer than half a second
FIXTURE = Path(__file__).parents[1] / "fixtures" / "fetch-v1"


def content(chunks: int, chunk_bytes: int = CHUNK) -> bytes:
    size = chunks * chunk_bytes - 7
    return b"".join(blake2b(n.to_bytes(4, "big")).digest() for n in range(-(-size // 64)))[:size]


@dataclass
class Link:
    """A manager behind a slow, lossy path; time is simulated.

    Attributes:
        rate: Bytes per second.
        delay: Seconds each way.
        spoil: Changes what a piece holds.

    """

    body: bytes
    artifact: Artifact
    rate: float = 1e9
    delay: float = 0.01
    loss: float = 0.0
    spoil: Callable[[int, bytes], bytes] = lambda _index, chunk: chunk
    chance: Random = field(default_factory=lambda: Random(7))
    now: float = 0.0
    free_at: float = 0.0
    flying: deque[tuple[float, Piece]] = field(default_factory=deque)
    asked: list[int] = field(default_factory=list)
    longest_queue: float = 0.0
    most_flying: int = 0

    def ask(self, request: ChunkRequest) -> None:
        for first, count in request.r:
            for index in range(first, first + count):
                self.asked.append(index)
                if self.chance.random() >= self.loss:
                    self._send(index)
        self.most_flying = max(self.most_flying, len(self.flying))

    def _send(self, index: int) -> None:
        size = self.artifact.chunk_size
        chunk = self.spoil(index, self.body[index * size : (index + 1) * size])
        start = max(self.free_at, self.now + self.delay)
        self.longest_queue = max(self.longest_queue, start - self.now - self.delay)
        self.free_at = start + len(chunk) / self.rate
        name = bytes.fromhex(self.artifact.digest[:16])
        piece = Piece(name=name, index=index, total=self.artifact.count, content=chunk)
        self.flying.append((self.free_at + self.delay, piece))

    def carry(self, fetch: Fetch, *, pieces: int = 10**9) -> Progress:
        """Run until the transfer ends, or so many pieces have come."""
        progress = fetch.progress(self.now)
        while isinstance(progress, Fetching) and pieces:
            for request in fetch.requests(self.now):
                self.ask(request)
            wake = self.now + fetch.wait_seconds(self.now) + 1e-3
            if self.flying and self.flying[0][0] <= wake:
                self.now, piece = self.flying.popleft()
                progress = fetch.take(piece, self.now)
                pieces -= 1
            else:
                self.now = wake
                progress = fetch.progress(self.now)
        return progress


def link(chunks: int, **more: object) -> Link:
    body = content(chunks)
    return Link(body, describe_artifact(body, CHUNK), **more)  # type: ignore[arg-type]  # a builder


def fetch(disk: Disk, path: Link) -> Fetch:
    return Fetch(path.artifact, disk, now_seconds=path.now)


def stored(root: Path, path: Link) -> bytes | None:
    return Disk(root).read(f"store/{path.artifact.digest}")


@pytest.mark.parametrize("chunks", [1, 2, 63, 64, 65, 200])
def test_an_artifact_arrives_whole_and_leaves_only_itself(tmp_path: Path, chunks: int) -> None:
    path = link(chunks)
    assert path.carry(fetch(Disk(tmp_path), path)) == Fetched(digest=path.artifact.digest)
    assert stored(tmp_path, path) == path.body
    assert Disk(tmp_path).names("store") == [path.artifact.digest]
    assert sorted(path.asked) == list(range(chunks)), "each chunk is asked for once"


def test_what_is_already_stored_is_not_fetched(tmp_path: Path) -> None:
    path = link(3)
    Disk(tmp_path).write(f"store/{path.artifact.digest}", path.body)
    again = fetch(Disk(tmp_path), path)
    assert again.progress(0.0) == Fetched(digest=path.artifact.digest)
    assert again.requests(0.0) == ()


@pytest.mark.parametrize("loss", [0.05, 0.3])
def test_lost_chunks_are_asked_for_again(tmp_path: Path, loss: float) -> None:
    path = link(150, loss=loss)
    assert isinstance(path.carry(fetch(Disk(tmp_path), path)), Fetched)
    assert stored(tmp_path, path) == path.body
    assert len(path.asked) < 150 * (1 + 3 * loss)


def test_no_more_is_on_its_way_than_the_limits_allow(tmp_path: Path) -> None:
    body = content(100, 64 * 1024)
    path = Link(body, describe_artifact(body), rate=1e8)
    assert isinstance(path.carry(fetch(Disk(tmp_path), path)), Fetched)
    assert 8 < path.most_flying <= MAX_CHUNKS_PER_REQUEST
    assert path.most_flying * 64 * 1024 <= MAX_OUTSTANDING_BYTES


def test_on_a_slow_link_commands_wait_little_behind_chunks(tmp_path: Path) -> None:
    """2 Mbit/s: one 64 KiB chunk takes 0.26 s, a full 2 MB window would queue 8 s."""
    body = content(120, 64 * 1024)
    path = Link(body, describe_artifact(body), rate=250_000, delay=0.03)
    assert isinstance(path.carry(fetch(Disk(tmp_path), path)), Fetched)
    assert path.longest_queue < 1.1
    assert path.now < 1.15 * len(body) / 250_000, "the link is kept busy"


def test_a_changed_chunk_is_refused_and_asked_for_again(tmp_path: Path) -> None:
    spoiled: set[int] = set()

    def once(index: int, chunk: bytes) -> bytes:
        if index % 10 or index in spoiled:
            return chunk
        spoiled.add(index)
        return b"!" + chunk[1:]

    path = link(50, spoil=once)
    assert isinstance(path.carry(fetch(Disk(tmp_path), path)), Fetched)
    assert stored(tmp_path, path) == path.body


def test_a_chunk_that_is_not_the_signed_one_is_never_written(tmp_path: Path) -> None:
    path, disk = link(5), FaultyDisk(tmp_path)
    one = fetch(disk, path)
    name = bytes.fromhex(path.artifact.digest[:16])
    for wrong in (bytes(CHUNK), path.body[CHUNK : 2 * CHUNK], b""):
        progress = one.take(Piece(name=name, index=0, total=5, content=wrong), 0.0)
        assert progress == Fetching(digest=path.artifact.digest, chunks=0, of=5)
    assert disk.log == []


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _i, c: bytes(len(c)), id="other bytes"),
        pytest.param(lambda _i, c: c[:-1], id="too short"),
        pytest.param(lambda _i, c: c + b"\0", id="too long"),
    ],
)
def test_a_sender_of_other_bytes_is_given_up(
    tmp_path: Path, spoil: Callable[[int, bytes], bytes]
) -> None:
    path = link(20, spoil=spoil)
    failed = path.carry(fetch(Disk(tmp_path), path))
    assert isinstance(failed, FetchFailed)
    assert (failed.code, failed.retryable) == ("chunk-corrupt", True)
    assert stored(tmp_path, path) is None


def test_pieces_of_something_else_change_nothing(tmp_path: Path) -> None:
    path = link(5)
    one = fetch(Disk(tmp_path), path)
    before = one.progress(0.0)
    name = bytes.fromhex(path.artifact.digest[:16])
    for piece in (
        Piece(name=b"somebody", index=0, total=5, content=path.body[:CHUNK]),
        Piece(name=name, index=0, total=6, content=path.body[:CHUNK]),
        Piece(name=name, index=5, total=7, content=b""),
    ):
        assert one.take(piece, 0.0) == before


def test_a_stalled_transfer_fails_and_the_next_one_goes_on_from_there(tmp_path: Path) -> None:
    path = link(300)
    path.carry(fetch(Disk(tmp_path), path), pieces=150)
    silent = link(300, loss=1.0)
    stalled = fetch(Disk(tmp_path), silent)
    failed = silent.carry(stalled)
    assert isinstance(failed, FetchFailed)
    assert (failed.code, failed.retryable) == ("stalled", True)
    assert 60 <= silent.now < 61
    assert len(silent.asked) < 50, "silence makes the asking rarer"
    later = link(300)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert len(later.asked) <= 150 + PERSIST_CHUNKS
    assert stored(tmp_path, later) == later.body


def test_a_try_that_is_in_vain_ends_at_once_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = link(300)
    one = fetch(Disk(tmp_path), path)
    path.carry(one, pieces=100)
    failed = one.give_up("it was withdrawn")
    assert isinstance(failed, FetchFailed)
    assert (failed.code, failed.retryable) == ("unavailable", True)
    assert "it was withdrawn" in failed.why
    assert one.requests(path.now) == ()
    later = link(300)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert len(later.asked) == 200


def test_a_full_disk_is_known_before_the_first_chunk(tmp_path: Path) -> None:
    class SmallDisk(Disk):
        def free_bytes(self) -> int:
            return 5 * 1024 * 1024

    with pytest.raises(DiskFullError, match="make room"):
        fetch(SmallDisk(tmp_path), link(1100))
    assert isinstance(fetch(SmallDisk(tmp_path), link(900)).progress(0.0), Fetching)


def test_a_disk_that_fills_up_on_the_way_is_a_value(tmp_path: Path) -> None:
    class FillingDisk(Disk):
        def patch(self, name: str, offset: int, content: bytes) -> None:
            if offset > 10 * CHUNK:
                raise DiskFullError("no space left")
            super().patch(name, offset, content)

    path = link(20)
    failed = path.carry(fetch(FillingDisk(tmp_path), path))
    assert isinstance(failed, FetchFailed)
    assert failed.code == "disk-full"


def test_what_the_medium_changed_is_found_and_fetched_again(tmp_path: Path) -> None:
    path = link(200)
    path.carry(fetch(Disk(tmp_path), path), pieces=PERSIST_CHUNKS)
    part = tmp_path / "store" / f"{path.artifact.digest}.part"
    rotten = bytearray(part.read_bytes())
    rotten[5 * CHUNK + 1] ^= 1
    part.write_bytes(bytes(rotten))
    later = link(200)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert stored(tmp_path, later) == later.body
    assert later.asked.count(5) == 1


def test_a_map_of_a_newer_version_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = link(3)
    newer = b'{"v":2,"runs":[]}'
    Disk(tmp_path).write(f"store/{path.artifact.digest}.map", newer)
    Disk(tmp_path).write(f"store/{path.artifact.digest}.part", b"")
    with pytest.raises(NewerStateError):
        fetch(Disk(tmp_path), path)
    assert Disk(tmp_path).read(f"store/{path.artifact.digest}.map") == newer


@pytest.mark.parametrize("there", [{0}, {99}, {3, 8, 64}, set(range(100))])
def test_a_map_names_every_chunk_that_is_on_the_medium(tmp_path: Path, there: set[int]) -> None:
    artifact = link(100).artifact
    have = bytearray(index in there for index in range(100))
    write_map(Disk(tmp_path), "one.map", artifact, have)
    assert read_map(Disk(tmp_path), "one.map", artifact) == have
    assert read_map(Disk(tmp_path), "one.map", link(99).artifact) is None
    assert read_map(Disk(tmp_path), "two.map", artifact) is None


@pytest.mark.parametrize("damaged", [b"", b"{", b'{"v":1}'])
def test_a_damaged_map_only_costs_time(tmp_path: Path, damaged: bytes) -> None:
    path = link(100)
    path.carry(fetch(Disk(tmp_path), path), pieces=70)
    Disk(tmp_path).write(f"store/{path.artifact.digest}.map", damaged)
    later = link(100)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert stored(tmp_path, later) == later.body


def test_the_first_schema_of_the_map_is_read_for_ever(tmp_path: Path) -> None:
    path = link(100)
    shutil.copytree(FIXTURE, tmp_path / "store")
    Disk(tmp_path).write(f"store/{path.artifact.digest}.part", path.body[: 64 * CHUNK])
    assert isinstance(path.carry(fetch(Disk(tmp_path), path)), Fetched)
    assert sorted(path.asked) == list(range(64, 100))
    assert stored(tmp_path, path) == path.body


def test_a_killed_process_costs_only_what_was_on_its_way(tmp_path: Path) -> None:
    path = link(300)
    path.carry(fetch(Disk(tmp_path), path), pieces=200)
    assert not Disk(tmp_path).names("store")[1:], "on this link no map was due yet"
    later = link(300)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert len(later.asked) == 100


def test_a_killed_process_costs_nothing_where_chunks_came_from_the_end(tmp_path: Path) -> None:
    path = link(3 * MAX_UNPERSISTED_CHUNKS)
    begun = fetch(Disk(tmp_path), path)
    pieces = split_file(bytes.fromhex(path.artifact.digest[:16]), path.body, CHUNK)
    late = pieces[2 * MAX_UNPERSISTED_CHUNKS :]
    for piece in late[:-1]:  # others asked for them: they travel for everybody
        begun.take(piece, 0.0)
    later = link(3 * MAX_UNPERSISTED_CHUNKS)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert stored(tmp_path, later) == later.body
    assert len(later.asked) <= 2 * MAX_UNPERSISTED_CHUNKS + 1


def test_a_lost_map_costs_time_and_no_chunk(tmp_path: Path) -> None:
    path = link(2 * MAX_UNPERSISTED_CHUNKS)
    path.carry(fetch(Disk(tmp_path), path), pieces=2 * MAX_UNPERSISTED_CHUNKS - 5)
    for left in (tmp_path / "store").glob("*.map"):
        left.unlink()
    later = link(2 * MAX_UNPERSISTED_CHUNKS)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert len(later.asked) <= 5 + 1


def test_on_a_fast_link_the_map_is_still_written_every_so_many_chunks(tmp_path: Path) -> None:
    path = link(MAX_UNPERSISTED_CHUNKS + 10)
    path.carry(fetch(Disk(tmp_path), path), pieces=MAX_UNPERSISTED_CHUNKS)
    assert Disk(tmp_path).names("store")[0].endswith(".map")


def test_what_was_found_without_a_map_is_checked_first(tmp_path: Path) -> None:
    path = link(100)
    path.carry(fetch(Disk(tmp_path), path), pieces=80)
    part = tmp_path / "store" / f"{path.artifact.digest}.part"
    rotten = bytearray(part.read_bytes())
    rotten[7 * CHUNK] ^= 1
    part.write_bytes(bytes(rotten))
    later = link(100)
    assert isinstance(later.carry(fetch(Disk(tmp_path), later)), Fetched)
    assert sorted(later.asked) == [7, *range(80, 100)]


def test_a_power_cut_at_every_operation_costs_at_most_one_stretch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # its order is tested, not the medium
    healthy = FaultyDisk(tmp_path / "healthy")
    healthy.root.mkdir()
    path = link(150, rate=SLOW)
    path.carry(fetch(healthy, path))
    assert healthy.used > 150
    for good in range(healthy.used):
        root = tmp_path / str(good)
        root.mkdir()
        cut, path = FaultyDisk(root, good), link(150, rate=SLOW)
        with pytest.raises(PowerCutError):
            path.carry(fetch(cut, path))
        assert stored(root, path) in {None, path.body}, f"cut at {cut.log[-1]}"
        arrived = sum(1 for operation in cut.log if operation.startswith("patch")) - 1
        later = link(150)
        assert isinstance(later.carry(fetch(Disk(root), later)), Fetched)
        assert stored(root, later) == later.body
        assert Disk(root).names("store") == [later.artifact.digest], f"cut at {cut.log[-1]}"
        assert len(later.asked) <= 150 - arrived + PERSIST_CHUNKS + 1
        shutil.rmtree(root)
    count_cuts(record_property, healthy.log)
    record_property("measured", f"power cut: fetch, at each of {healthy.used} durable operations")
