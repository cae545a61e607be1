"""``fieldfare-agent feedback``: an owner sees what is kept of her labels, and removes it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent import cli
from agent.disk import Disk
from agent.learn.keeping import KeptWindows
from agent.learn.kept import FOLDER, Kept, segment_name

NOW = 1_700_000_000_000


def keep(state: Path, *labels: str, slot: str = "motion") -> None:
    KeptWindows(Disk(state), quota_bytes=1 << 20, retention_ms=1 << 40).keep(
        [
            Kept(
                slot=slot,
                id=f"0011aabb-{number}",
                row=0,
                at_ms=NOW + number * 60_000,
                release="ab" * 32,
                label=label,
                split=number % 3,
                channels=1,
                samples=2,
                x=bytes(8),
            )
            for number, label in enumerate(labels)
        ],
        NOW,
    )


def run(*words: str | Path, answer: str = "") -> str:
    ended = CliRunner().invoke(cli.cli, ["feedback", *map(str, words)], input=answer)
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended.output


def test_what_is_kept_is_shown_by_slot_and_class(tmp_path):
    keep(tmp_path, "walk", "walk", "run", "walk")
    keep(tmp_path, "open", slot="door")
    shown = run("show", "--state-dir", tmp_path)
    assert shown.splitlines()[0].startswith("5 labelled windows, ")
    assert "from 2023-11-14 22:13 UTC to 2023-11-14 22:16 UTC" in shown
    assert "  motion: walk: 2 train, 1 decide, 0 withheld" in shown
    assert "  door: open: 1 train, 0 decide, 0 withheld" in shown
    told = json.loads(run("show", "--state-dir", tmp_path, "-o", "json"))
    assert (told["windows"], told["files"], told["unreadable_files"]) == (5, 1, 0)
    assert [label["label"] for label in told["labels"]] == ["open", "run", "walk"]


def test_a_file_with_a_torn_end_is_told(tmp_path):
    keep(tmp_path, "walk")
    Disk(tmp_path).append(segment_name(1), b"\x00\x00torn")
    assert "1 of the files end in the middle of a window" in run("show", "--state-dir", tmp_path)


def test_showing_changes_nothing_where_nothing_is_kept(tmp_path):
    assert run("show", "--state-dir", tmp_path) == "no labelled windows are kept\n"
    assert list(tmp_path.iterdir()) == []


def test_clearing_asks_first_and_removes_everything(tmp_path):
    keep(tmp_path, "walk", "run")
    assert "Aborted" in run("clear", "--state-dir", tmp_path, answer="n\n")
    assert Disk(tmp_path).names(FOLDER) == ["00000001.seg", "lock"]
    assert run("clear", "--state-dir", tmp_path, "--yes") == "removed 2 labelled windows\n"
    assert Disk(tmp_path).names(FOLDER) == ["lock"]
    assert run("clear", "--state-dir", tmp_path, "--yes") == "removed 0 labelled windows\n"


@pytest.mark.parametrize("word", ["show", "clear"])
def test_a_place_that_is_no_state_directory_is_named(tmp_path, monkeypatch, capsys, word):
    more = ["--yes"] if word == "clear" else []
    place = str(tmp_path / "none")
    monkeypatch.setattr(
        "sys.argv", ["fieldfare-agent", "feedback", word, *more, "--state-dir", place]
    )
    assert cli.main() == 3
    assert capsys.readouterr().err == (
        f"fieldfare-agent: {place} is no state directory of an agent\n"
    )
