"""``fieldfare prune``, ``backup`` and ``restore`` as an operator uses them, beside a manager."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.__main__ import open_door
from fleet.cli.program import main
from fleet.config import FleetConfig
from fleet.registry.artifacts import Artifacts
from fleet.service import retention
from fleet.service.loop import RunningManager
from tests.manager_home import make_home, serving

OLD = (1_000_000_000, 1_000_000_000)


class Place:
    """A running manager, and the command line beside it."""

    def __init__(
        self, config: FleetConfig, manager: RunningManager, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.config, self.manager, self._capsys = config, manager, capsys

    def run(self, *words: str, home: Path | None = None) -> tuple[int, str, str]:
        try:
            main(open_door, [*words, "--home", str(home or self.config.home)])
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return status, out, err


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    config = make_home(tmp_path)
    with serving(config) as manager:
        yield Place(config, manager, capsys)


def test_prune_says_what_would_go_and_then_removes_it(place: Place):
    kept = Artifacts(place.config.artifacts)
    # The manager's own first pass is over when it answers.
    assert place.run("prune")[1].startswith("nothing may go\n")
    digest = kept.put(b"an upload that became nothing" * 1000)
    os.utime(place.config.artifacts / digest, OLD)

    said = place.run("prune", "--dry-run")
    assert said[1].startswith("1 artifacts of 0.0 MB would be removed\n")
    assert kept.has(digest)
    status, out, _ = place.run("prune", "-o", "json")
    assert (status, json.loads(out)["artifacts"]) == (0, [digest])
    assert not kept.has(digest)


def test_prune_goes_on_until_there_is_no_more(place: Place, monkeypatch):
    monkeypatch.setattr(retention, "EVENTS_AT_ONCE", 10)

    def a_long_past(desk: retention.Desk) -> None:
        later = desk.now_ms() + 400 * 86_400_000
        with desk.registry.transaction():
            for number in range(35):
                desk.registry.events.record("a.kind", "s", {"n": number}, at_ms=1000)
        desk.now_ms = lambda: later

    place.manager.ask(a_long_past)
    status, out, _ = place.run("prune")

    assert status == 0
    assert "events were moved to archive/" in out
    assert len(list(place.config.archive.iterdir())) >= 4
    away = place.manager.ask(lambda d: d.registry.events.verify_chain(d.config.archive))
    assert away == 0


def test_a_backup_of_a_running_manager_becomes_a_home(place: Place, tmp_path: Path):
    file, home = tmp_path / "b.tar", tmp_path / "second"

    status, out, _ = place.run("backup", str(file))
    assert (status, f"are in {file}" in out) == (0, True)
    assert place.run("backup", str(file))[0] == 4
    status, _, err = place.run("restore", str(file))
    assert (status, "is not empty" in err, err.count("\n")) == (4, True, 1)
    status, out, _ = place.run("restore", str(file), "-o", "json", home=home)
    assert (status, json.loads(out)["fleet"]) == (0, "demo")

    with serving(FleetConfig.load(home)):
        assert place.run("fleet", "status", home=home)[0] == 0


def test_what_is_no_backup_is_one_sentence(place: Place, tmp_path: Path):
    file = tmp_path / "b.tar"
    file.write_bytes(b"no archive")
    status, _, err = place.run("restore", str(file), home=tmp_path / "second")
    assert (status, err.count("\n"), "no whole backup" in err) == (4, 1, True)
    assert place.run("restore", str(tmp_path / "missing"), home=tmp_path / "second")[0] == 2
    assert not (tmp_path / "second").exists()


def test_a_registry_without_room_refuses_and_the_manager_goes_on_answering(
    place: Place, tmp_path: Path
):
    def full(desk: retention.Desk) -> None:
        pages = desk.registry._database.row("PRAGMA page_count")[0]
        desk.registry._database.row(f"PRAGMA max_page_count={pages}")  # as a disk of this size

    place.manager.ask(full)
    for number in range(200):
        status, _, err = place.run("token", "create", "--file", str(tmp_path / f"{number}.enrol"))
        if status:
            break

    assert (status, "disk is full" in err, "[disk-full]" in err) == (6, True, True)
    assert not (tmp_path / f"{number}.enrol").exists()
    assert place.run("fleet", "status")[0] == 0
    place.manager.ask(lambda desk: desk.registry.events.verify_chain())
