"""What the manager calls kept is on the medium, bytes before names, and names in order."""

import os
from pathlib import Path

import pytest

from fleet.registry.artifacts import Artifacts
from fleet.signing import keys
from fleet.signing.published import write_whole
from tests.signed_fleet import SignedFleet, make_release

Done = tuple[str, str]


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Done]:
    """Every sync and rename, in order: what it was, and the last part of the name."""
    told: list[Done] = []
    sync, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        empty = path.is_file() and not path.stat().st_size
        told.append(("sync of nothing" if empty else "sync", path.name))
        sync(handle)

    def replace(path: Path, target: Path) -> Path:
        told.append(("rename", Path(target).name))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    return told


def test_a_published_file_is_on_the_medium_before_its_name_and_its_name_before_the_return(
    tmp_path: Path, done: list[Done]
):
    write_whole(tmp_path / "folder" / "timestamp.json", b"{}")
    assert done == [
        ("sync", "timestamp.json.new"),
        ("rename", "timestamp.json"),
        ("sync", "folder"),
    ]


def test_an_artifact_is_on_the_medium_before_its_name(tmp_path: Path, done: list[Done]):
    digest = Artifacts(tmp_path / "artifacts").put(b"a model")
    assert [what for what, _ in done] == ["sync", "rename", "sync"]
    assert done[1:] == [("rename", digest), ("sync", "artifacts")]


def test_a_new_key_is_on_the_medium_before_anybody_uses_it(tmp_path: Path, done: list[Done]):
    keys.create(tmp_path / "keys" / "one.json", "", dev=True)
    assert done == [("sync", "one.json"), ("sync", "keys")]


def test_the_timestamp_gets_its_name_last_because_it_puts_all_else_into_force(
    tmp_path: Path, done: list[Done]
):
    fleet = SignedFleet(tmp_path / "fleet")
    done.clear()
    fleet.publish_release(make_release())
    names = [name for what, name in done if what == "rename"]
    assert names[0].endswith(".v1.json")
    assert names[1:] == ["2.targets.json", "2.snapshot.json", "timestamp.json"]
