"""Large files travel in pieces between the CLI, the manager and its disk."""

import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from fleet.api import app as api
from fleet.api.socket import SocketServer
from fleet.cli.client import ManagerClient, RefusedByManagerError
from fleet.errors import ConfigError, DiskFullError, RegistryError
from fleet.registry.artifacts import Artifacts
from fleet.registry.room import require_room

PIECE = os.urandom(1024) * 1024


class Place:
    """The API in front of one folder of artifacts; nothing else of a manager."""

    def __init__(self, folder: Path, reserve_bytes: int = 0) -> None:
        self.artifacts = Artifacts(folder / "artifacts", reserve_bytes=reserve_bytes)
        self.folder, self.socket = folder, folder / "s.sock"
        self.door = SocketServer(self.socket, api.make_app(lambda use_case: use_case(self)))
        self.ended: list[str] = []

    def __enter__(self) -> Self:
        self.door.start(self.ended.append)
        return self

    def __exit__(self, *_: object) -> None:
        self.door.stop()

    def client(self) -> ManagerClient:
        return ManagerClient(self.socket, patience_seconds=5)

    def left(self) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted(path.name for path in (self.folder / "artifacts").iterdir())
        return []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place(tmp_path) as place:
        yield place


def big_file(folder: Path, pieces: int = 24) -> tuple[Path, str]:
    path, seen = folder / "big", sha256()
    with path.open("wb") as file:
        for number in range(pieces):
            piece = number.to_bytes(4, "big") + PIECE[4:]
            file.write(piece)
            seen.update(piece)
    return path, seen.hexdigest()


def peak_bytes(act) -> int:
    """Return how far the process grew over what it had, at most, while it did something."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew, proc(5)
    before = _status("VmRSS")
    act()
    return _status("VmHWM") - before


def _status(word: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(word))


def test_a_file_goes_up_and_comes_back_whole(place: Place):
    path, digest = big_file(place.folder)
    with place.client() as client:
        client.put(f"/artifacts/{digest}", path)
        client.put(f"/artifacts/{digest}", path)
        assert client.get_bytes(f"/artifacts/{digest}") == path.read_bytes()
    assert place.left() == [digest]


@pytest.mark.slow
def test_manager_and_client_hold_no_more_of_a_file_than_a_few_pieces(place: Place):
    path, digest = big_file(place.folder, pieces=160)
    with place.client() as client:
        client.put("/artifacts/" + sha256(b"warm").hexdigest(), b"warm")
        up = peak_bytes(lambda: client.put(f"/artifacts/{digest}", path))

        def down() -> None:
            with client._http.stream("GET", f"/api/v1/artifacts/{digest}") as answer:
                assert sum(map(len, answer.iter_bytes())) == 160 * len(PIECE)

        fetched = peak_bytes(down)
    print(f"160 MiB: {up >> 20} MiB up, {fetched >> 20} MiB down, of two ends in one process")
    assert max(up, fetched) < 32 * 1024 * 1024


def test_bytes_of_another_digest_leave_nothing(place: Place):
    path, _ = big_file(place.folder, pieces=3)
    with place.client() as client:
        with pytest.raises(RefusedByManagerError, match="have digest") as refused:
            client.put("/artifacts/" + "00" * 32, path)
        with pytest.raises(RefusedByManagerError, match="is no digest"):
            client.put("/artifacts/no-digest", b"x")
    assert refused.value.problem.code == "refused"
    assert place.left() == []


@pytest.mark.parametrize("told", [True, False], ids=["said before", "found on the way"])
def test_more_than_an_artifact_may_have_is_refused_on_the_way(place: Place, monkeypatch, told):
    monkeypatch.setattr(api, "MAX_ARTIFACT_BYTES", 2 * 1024 * 1024)
    path, digest = big_file(place.folder, pieces=8)
    with place.client() as client:
        if told:
            with pytest.raises(RefusedByManagerError, match="over 2097152 bytes"):
                client.put(f"/artifacts/{digest}", path)
        else:
            pieces = (PIECE for _ in range(8))
            answer = client._http.put(f"/api/v1/artifacts/{digest}", content=pieces)
            assert (answer.status_code, "over 2097152 bytes" in answer.text) == (422, True)
    assert place.left() == []


def test_an_upload_that_is_cut_off_leaves_nothing_and_stops_nobody(place: Place):
    path, digest = big_file(place.folder)

    def cut() -> Iterator[bytes]:
        yield path.read_bytes()[: 5 * len(PIECE)]
        raise KeyboardInterrupt

    with place.client() as client, pytest.raises(KeyboardInterrupt):
        client._http.put(f"/api/v1/artifacts/{digest}", content=cut())
    with place.client() as client:
        client.put(f"/artifacts/{digest}", path)
    assert place.left() == [digest]


def test_a_full_disk_refuses_an_upload_before_it_begins_and_names_what_helps(tmp_path: Path):
    path, digest = big_file(tmp_path, pieces=3)
    with Place(tmp_path, reserve_bytes=2**62) as place, place.client() as client:
        with pytest.raises(RefusedByManagerError, match="stay in reserve") as refused:
            client.put(f"/artifacts/{digest}", path)
        assert (refused.value.problem.code, refused.value.problem.exit_status) == ("disk-full", 6)
        assert client._http.put("/api/v1/artifacts/" + "0" * 64, content=b"").status_code == 507
    assert place.left() == []


def test_a_disk_that_fills_on_the_way_refuses_the_rest(tmp_path: Path, monkeypatch):
    free = [20 * len(PIECE), 12 * len(PIECE), 4 * len(PIECE)]  # somebody else writes as well
    told = SimpleNamespace(f_frsize=1)

    def statvfs(_: Path) -> SimpleNamespace:
        told.f_bavail = free.pop(0)
        return told

    monkeypatch.setattr(os, "statvfs", statvfs)
    artifacts = Artifacts(tmp_path / "artifacts", reserve_bytes=8 * len(PIECE))
    wrote = []

    def fill() -> None:
        with artifacts.receive("00" * 32) as upload:
            for number in range(40):
                upload.write(PIECE)
                wrote.append(number)

    with pytest.raises(DiskFullError, match="4 MB free"):
        fill()

    assert (len(wrote), list((tmp_path / "artifacts").iterdir())) == (17, [])


def test_room_is_asked_for_with_what_will_come(tmp_path: Path):
    later = tmp_path / "not" / "yet"
    require_room(later, 1000, 1000)
    with pytest.raises(DiskFullError, match="prune --dry-run"):
        require_room(later, 2**62, 0)


def test_a_damaged_artifact_is_not_sent(place: Place):
    digest = place.artifacts.put(b"what was promised")
    (place.folder / "artifacts" / digest).write_bytes(b"what is there now")
    with place.client() as client, pytest.raises(RefusedByManagerError, match="is damaged"):
        client.get_bytes(f"/artifacts/{digest}")
    with pytest.raises(RegistryError, match="damaged"):
        place.artifacts.check(digest)
    with place.client() as client, pytest.raises(RefusedByManagerError, match="not kept here"):
        client.get_bytes("/artifacts/" + "0" * 64)


def test_a_file_that_cannot_be_read_is_named(place: Place):
    with place.client() as client, pytest.raises(ConfigError, match="missing cannot be read"):
        client.put("/artifacts/" + "0" * 64, place.folder / "missing")


def test_only_old_files_may_go_also_what_a_crash_left(tmp_path: Path):
    artifacts = Artifacts(tmp_path)
    assert Artifacts(tmp_path / "none").older(10**15) == {}
    young, old = artifacts.put(b"young"), artifacts.put(b"old one")
    torn = tmp_path / ".new-torn"
    torn.write_bytes(b"12345")
    (tmp_path / "notes.txt").write_text("somebody's own")
    for path in (tmp_path / old, torn, tmp_path / "notes.txt"):
        os.utime(path, (1000, 1000))

    assert artifacts.older(1_000_001) == {old: 7, ".new-torn": 5}
    for name in (old, old, ".new-torn"):
        artifacts.remove(name)

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([young, "notes.txt"])
