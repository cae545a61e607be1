"""What a durable operation leaves to the medium, in the order in which it is promised."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.disk import Disk
from agent.errors import DiskFullError, StoreError
from tests.faulty_disk import FaultyDisk, PowerCutError

Done = tuple[str, str, bytes | None]


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Done]:
    """Every sync and rename below a disk: what it was, of which name, and its content then."""
    told: list[Done] = []
    sync, rename = os.fsync, Path.replace

    def note(what: str, path: Path) -> None:
        name = "." if path == tmp_path else str(path.relative_to(tmp_path))
        told.append((what, name, None if path.is_dir() else path.read_bytes()))

    def fsync(handle: int) -> None:
        note("sync", Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    def replace(path: Path, target: Path) -> Path:
        note("rename", path)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return told


def test_a_replaced_file_is_on_the_medium_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, done: list[Done]
):
    Disk(tmp_path).replace("slots/motion.json", b"new")
    assert done == [
        ("sync", ".", None),  # the folder that was made for it
        ("sync", "slots/motion.json.new", b"new"),
        ("rename", "slots/motion.json.new", b"new"),
        ("sync", "slots", None),
    ]


def test_an_appended_report_is_on_the_medium_when_it_returns(tmp_path: Path, done: list[Done]):
    disk = Disk(tmp_path)
    disk.append("reports", b"one")
    assert done == [("sync", "reports", b"one"), ("sync", ".", None)]
    done.clear()
    disk.append("reports", b"two")
    assert done == [("sync", "reports", b"onetwo")]


def test_patches_are_on_the_medium_after_sync(tmp_path: Path, done: list[Done]):
    disk = Disk(tmp_path)
    disk.patch("part", 3, b"def")
    disk.patch("part", 0, b"abc")
    assert done == []
    disk.sync("part")
    assert done == [("sync", "part", b"abcdef")]


def test_what_was_cut_off_or_removed_does_not_come_back(tmp_path: Path, done: list[Done]):
    disk = Disk(tmp_path)
    disk.write("a", b"whole and torn")
    done.clear()
    disk.truncate("a", 5)
    assert done == [("sync", "a", b"whole")]
    done.clear()
    disk.remove("a")
    assert done == [("sync", ".", None)]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("write", "file"),
    [
        pytest.param(lambda disk: disk.write("new/a", b"x"), "new/a", id="write"),
        pytest.param(lambda disk: disk.replace("new/a", b"x"), "new/a", id="replace"),
        pytest.param(lambda disk: disk.append("new/a", b"x"), "new/a", id="append"),
        pytest.param(lambda disk: disk.patch("new/a", 0, b"x"), "new/a", id="patch"),
    ],
)
def test_nobody_else_reads_what_the_agent_writes(
    tmp_path: Path, write: Callable[[Disk], None], file: str
):
    before = os.umask(0)
    try:
        write(Disk(tmp_path))
    finally:
        os.umask(before)
    assert (tmp_path / file).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / file).parent.stat().st_mode & 0o777 == 0o700


def test_a_full_medium_and_a_refused_write_have_different_errors(tmp_path: Path):
    with pytest.raises(DiskFullError, match="free some"):
        Disk(Path("/dev")).append("full", b"x")
    (tmp_path / "a").mkdir()
    with pytest.raises(StoreError, match=r"^a: "):
        Disk(tmp_path).write("a", b"x")


def test_the_faulty_disk_loses_patches_that_were_not_synced(tmp_path: Path):
    disk = FaultyDisk(tmp_path, good=4)
    disk.patch("part", 0, b"kept")
    disk.sync("part")
    disk.patch("part", 4, b"lost")
    disk.rename("part", "whole")
    with pytest.raises(PowerCutError):
        disk.write("other", b"x")
    assert (tmp_path / "whole").read_bytes() == b"kept\0\0\0\0"
