"""A manager's home in one file: made while it runs, put back whole or not at all."""

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from agent.contract.codec import decode
from fleet.config import FleetConfig, RetentionConfig
from fleet.errors import (
    ConfigError,
    ConflictError,
    DiskFullError,
    NewerStateError,
    RefusedError,
    RegistryError,
)
from fleet.registry.copying import copy_registry
from fleet.registry.sqlite import open_registry
from fleet.service import backup
from fleet.service.backup import back_up, restore
from fleet.service.backup_list import BackupList
from fleet.service.desk import open_desk
from tests.manager_home import ROOT, join, make_desk, make_home
from tests.small_fleet import NOW


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetConfig]:
    desk = make_desk(tmp_path_factory.mktemp("fleet"))
    join(desk)
    desk.artifacts.put(b"an artifact" * 1000)
    desk.registry.events.record("a.last", "thing", {}, at_ms=NOW)
    desk.registry.events.archive(2, desk.config.archive, at_ms=NOW)
    (desk.config.home / "broker" / "data").mkdir(parents=True)
    yield desk.config
    desk.registry.close()


@pytest.fixture(scope="module")
def file(home: FleetConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a home in which a manager works."""
    path = tmp_path_factory.mktemp("backups") / "first.tar"
    back_up(home, path)
    return path


def contents(home: Path) -> dict[str, bytes]:
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.name.startswith(("registry.db", "lock"))
    }


def test_a_home_comes_back_as_it_was(home: FleetConfig, file: Path, tmp_path: Path):
    into = tmp_path / "restored"

    view = restore(file, into)

    assert (view.fleet, view.files) == ("demo", len(contents(home.home)) + 1)
    assert contents(into) == contents(home.home)
    assert (into / "broker" / "data").is_dir()
    for path in (into, into / "keys", into / "registry.db", file):
        assert path.stat().st_mode & 0o077 == 0
    desk = open_desk(FleetConfig.load(into), "", lambda _run, _word: None)
    assert [d.state for d in desk.registry.devices.listing()] == ["enrolled"]
    assert desk.registry.events.head()[0] == view.last_event + 1  # it began anew
    assert desk.registry.events.verify_chain(desk.config.archive) == 0
    assert desk.repository.authority() == desk.repository.published().authority
    desk.registry.close()


def test_an_empty_folder_is_a_home_to_be(file: Path, tmp_path: Path):
    (tmp_path / "restored").mkdir()
    restore(file, tmp_path / "restored")
    assert (tmp_path / "restored" / "fleet.toml").exists()


def test_a_copy_made_while_somebody_writes_is_of_one_moment(tmp_path: Path):
    registry = open_registry(tmp_path / "registry.db", create=True)
    for number in range(300):
        registry.events.record("a.kind", "s", {"n": number}, at_ms=NOW)
    registry.close()
    stop, wrote = threading.Event(), []

    def write() -> None:
        busy = open_registry(tmp_path / "registry.db", create=False)
        while not stop.is_set():
            with busy.transaction():
                wrote.extend(
                    busy.events.record("a.kind", "s", {"n": "x" * 500}, at_ms=NOW) for _ in range(5)
                )
        busy.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        copied = [copy_registry(tmp_path / "registry.db", tmp_path / f"{n}.db") for n in range(15)]
    finally:
        stop.set()
        thread.join()

    assert copied == sorted(copied)
    assert copied[0] < copied[-1] <= wrote[-1], "nobody wrote meanwhile"
    for number, last in enumerate(copied):
        assert last % 5 == 0, "half a transaction"
        copy = open_registry(tmp_path / f"{number}.db", create=False)
        copy.events.verify_chain()
        assert copy.events.head()[0] == last
        copy.close()


def test_a_registry_whose_chain_does_not_hold_is_not_taken_for_a_backup(tmp_path: Path):
    registry = open_registry(tmp_path / "registry.db", create=True)
    for number in range(3):
        registry.events.record("a.kind", "s", {"n": number}, at_ms=NOW)
    registry._database.write("DROP TRIGGER events_no_update")
    registry._database.write("UPDATE events SET body = '{}' WHERE number = 2")

    with pytest.raises(RegistryError, match="event 2 is not the one"):
        copy_registry(registry.path, tmp_path / "copy.db")
    registry.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_registry_of_an_older_version_is_copied_as_it_is(tmp_path: Path, version: int):
    source = ROOT / "tests" / "fixtures" / f"registry-v{version}.db"
    before = source.read_bytes()

    copy_registry(source, tmp_path / "copy.db")

    assert source.read_bytes() == before
    open_registry(tmp_path / "copy.db", create=False).close()


def test_a_home_that_holds_something_is_never_touched(file: Path, tmp_path: Path):
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "a.txt").write_text("mine")
    for place in (tmp_path / "restored", tmp_path / "restored" / "a.txt"):
        with pytest.raises(ConflictError, match="is not empty"):
            restore(file, place)
    assert [p.name for p in tmp_path.rglob("*")] == ["restored", "a.txt"]


def changed(file: Path, into: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Return a copy of a backup with some of its members changed or left out."""
    with tarfile.open(file) as old, tarfile.open(into, "w") as new:
        for member in old.getmembers():
            content = change(member.name, old.extractfile(member).read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return into


def listing(change: Callable[[dict], object]) -> Callable[[str, bytes], bytes]:
    def apply(name: str, content: bytes) -> bytes:
        if name != backup.LIST:
            return content
        told = json.loads(content)
        change(told)
        return json.dumps(told).encode()

    return apply


def one_byte(of: str) -> Callable[[str, bytes], bytes]:
    return lambda name, content: content[:-1] + bytes([content[-1] ^ 1]) if name == of else content


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param(one_byte("registry.db"), RefusedError, "registry.db is not what", id="a bit"),
        pytest.param(
            lambda n, c: None if n == "fleet.toml" else c,
            RefusedError, "fleet.toml is missing", id="a file less",
        ),
        pytest.param(
            lambda n, c: c + b"\n" if n == "fleet.toml" else c,
            RefusedError, "fleet.toml is not what", id="a byte more",
        ),
        pytest.param(
            listing(lambda told: told["files"].pop("fleet.toml")),
            RefusedError, "fleet.toml is not what", id="a file that is not listed",
        ),
        pytest.param(
            lambda n, c: None if n == backup.LIST else c,
            RefusedError, "backup.json is missing", id="no list",
        ),
        pytest.param(listing(lambda t: t.update(v=2)), NewerStateError, "newer", id="newer"),
        pytest.param(listing(lambda t: t.pop("files")), RefusedError, "no whole", id="torn list"),
        pytest.param(
            listing(lambda t: t.update(folders=["../out"])), RefusedError, "of ours", id="a way out"
        ),
    ],
)  # fmt: skip
def test_a_backup_that_is_not_whole_leaves_no_home(
    file: Path, tmp_path: Path, change, error: type[Exception], words: str
):
    bad = changed(file, tmp_path / "bad.tar", change)

    with pytest.raises(error, match=words):
        restore(bad, tmp_path / "restored")

    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


def test_a_backup_cut_anywhere_leaves_no_home(file: Path, tmp_path: Path):
    whole = file.read_bytes()
    for share in range(20):
        short = tmp_path / "short.tar"
        short.write_bytes(whole[: len(whole) * share // 20])
        with pytest.raises(RefusedError, match="no whole backup"):
            restore(short, tmp_path / "restored")
    assert [path.name for path in tmp_path.iterdir()] == ["short.tar"]


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "keys/../../escaped"])
def test_an_archive_that_leads_out_of_the_home_is_refused(file: Path, tmp_path: Path, name: str):
    content = b"out"
    listed = {"size": len(content), "sha256": sha256(content).hexdigest()}
    bad = changed(
        file, tmp_path / "bad.tar", listing(lambda told: told["files"].update({name: listed}))
    )
    with tarfile.open(bad, "a") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))

    with pytest.raises(RefusedError, match="no backup of ours"):
        restore(bad, tmp_path / "a" / "restored")

    assert not list(tmp_path.rglob("escaped"))


def test_a_link_in_an_archive_is_refused(file: Path, tmp_path: Path):
    bad = changed(file, tmp_path / "bad.tar", lambda n, c: None if n == "fleet.toml" else c)
    with tarfile.open(bad, "a") as archive:
        member = tarfile.TarInfo("fleet.toml")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)

    with pytest.raises(RefusedError, match=r"holds 'fleet\.toml'"):
        restore(bad, tmp_path / "restored")


def test_a_backup_is_never_written_over_something_nor_into_the_home(home, file, tmp_path):
    before = file.read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        back_up(home, file)
    assert file.read_bytes() == before
    with pytest.raises(ConflictError, match="lies in the home"):
        back_up(home, home.home / "backup.tar")
    with pytest.raises(ConfigError, match="cannot be written"):
        back_up(home, tmp_path / "missing" / "backup.tar")
    full = replace(home, retention=RetentionConfig(reserve_mb=10**12))
    with pytest.raises(DiskFullError, match="stay in reserve"):
        back_up(full, tmp_path / "backup.tar")
    with pytest.raises(ConfigError, match="does not exist"):
        FleetConfig.load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_no_backup(home, tmp_path, monkeypatch):
    def torn(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", torn)
    with pytest.raises(DiskFullError, match="No space left"):
        back_up(home, tmp_path / "backup.tar")
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_is_pruned_meanwhile_is_left_out(home, tmp_path, monkeypatch):
    honest = backup._files

    def with_a_ghost(place: Path) -> Iterator[tuple[str, Path, int]]:
        yield from honest(place)
        yield "artifacts/gone", place / "artifacts" / "gone", 5
        yield "broker/accounts.new", place / "broker" / "accounts.new", 5

    monkeypatch.setattr(backup, "_files", with_a_ghost)
    view = back_up(home, tmp_path / "backup.tar")
    assert view.files == len(contents(home.home)) + 1


def test_a_file_that_is_gone_and_should_be_there_is_named(home, tmp_path, monkeypatch):
    missing = [("keys/gone", home.home / "keys" / "gone", 5)]
    monkeypatch.setattr(backup, "_files", lambda _: iter(missing))
    with pytest.raises(ConfigError, match="No such file"):
        back_up(home, tmp_path / "backup.tar")
    assert list(tmp_path.iterdir()) == []


def test_the_brokers_configuration_names_its_new_place(tmp_path: Path):
    config = make_home(tmp_path)
    conf = config.broker_folder / "mosquitto.conf"
    conf.parent.mkdir(exist_ok=True)
    conf.write_text(f"pid_file {config.broker_folder}/x.pid\ncafile {config.home}/broker/ca.pem\n")
    back_up(config, tmp_path / "backup.tar")

    restore(tmp_path / "backup.tar", tmp_path / "other")

    other = tmp_path / "other" / "broker"
    assert (
        other / "mosquitto.conf"
    ).read_text() == f"pid_file {other}/x.pid\ncafile {other}/ca.pem\n"


def test_the_frozen_list_of_version_1_is_read_for_ever():
    text = (ROOT / "tests" / "fixtures" / "backup-v1.json").read_bytes()
    listed = decode(BackupList, text)
    assert (listed.fleet, listed.last_event, list(listed.files)) == ("demo", 9, ["registry.db"])


def test_a_home_without_a_registry_is_no_home(tmp_path: Path):
    config = make_home(tmp_path)
    config.registry.unlink()
    with pytest.raises(ConfigError, match=r"registry\.db is missing"):
        back_up(config, tmp_path / "backup.tar")
    assert not (tmp_path / "backup.tar").exists()
