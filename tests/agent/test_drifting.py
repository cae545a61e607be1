"""What drift remembers of a release, across restarts and ways back."""

from pathlib import Path

import pytest

from agent.contract.telemetry import Window
from agent.daemon.drifting import DRIFT, Drifting
from agent.disk import Disk
from agent.errors import NewerStateError

FIXTURE = Path(__file__).parents[1] / "fixtures" / "drift-v1.json"
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def drifting(disk: Disk) -> Drifting:
    return Drifting(disk, first=100, newest=50)


def window(*classes: int, release: str = ONE, slot: str = "motion") -> Window:
    return Window(slot=slot, release=release, number=0, opened_ms=1, closed_ms=2, classes=classes)


def test_there_is_no_figure_before_enough_was_answered(disk):
    drift = drifting(disk)
    assert [drift.add(window(30, 20)) for _ in range(2)] == [None, None]
    assert drift.add(window(12, 8)) is None
    assert drift.add(window(20, 10)) == 0.0
    assert drift.add(window(0, 50)) > 0.5


def test_only_the_newest_answers_count(disk):
    drift = drifting(disk)
    for _ in range(2):
        drift.add(window(30, 20))
    assert drift.add(window(0, 50)) > 0.5
    assert drift.add(window(30, 20)) == 0.0


def test_a_model_without_classes_has_no_drift(disk):
    assert drifting(disk).add(window()) is None


def test_the_first_answers_outlive_a_restart(disk):
    before = drifting(disk)
    for _ in range(2):
        before.add(window(30, 20))
    assert disk.read(DRIFT) is not None, "written as soon as they are complete"
    assert drifting(disk).add(window(0, 50)) > 0.5


def test_answers_that_are_not_complete_are_remembered_at_an_orderly_end(disk):
    before = drifting(disk)
    before.add(window(30, 20))
    assert disk.read(DRIFT) is None
    before.save()
    after = drifting(disk)
    after.add(window(30, 20))
    assert after.add(window(0, 50)) > 0.5


def test_a_release_that_is_gone_back_to_is_still_known_and_an_older_one_is_not(disk):
    drift = drifting(disk)
    for release in (ONE, TWO):
        for _ in range(2):
            drift.add(window(30, 20, release=release))
    assert drift.add(window(0, 50, release=ONE)) > 0.5
    for _ in range(2):
        drift.add(window(30, 20, release=THREE))
    assert drift.add(window(0, 50, release=ONE)) > 0.5, "it was the last one before"
    assert drift.add(window(0, 50, release=TWO)) is None


def test_version_1_of_the_file_is_read(disk):
    disk.replace(DRIFT, FIXTURE.read_bytes())
    assert drifting(disk).add(window(0, 50)) > 0.5


def test_a_file_of_a_newer_agent_is_left_alone(disk):
    newer = FIXTURE.read_bytes().replace(b'"v":1', b'"v":2')
    disk.replace(DRIFT, newer)
    with pytest.raises(NewerStateError):
        drifting(disk)
    assert disk.read(DRIFT) == newer


def test_a_file_that_rotted_costs_a_while_without_a_figure(disk):
    disk.replace(DRIFT, b"\xff{")
    drift = drifting(disk)
    for _ in range(2):
        assert drift.add(window(30, 20)) is None
    assert drift.add(window(30, 20)) == 0.0


def test_a_full_disk_costs_only_what_is_remembered(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / f"{DRIFT}.new").mkdir()  # nothing can be written there
    drift = drifting(Disk(folder))
    for _ in range(2):
        drift.add(window(30, 20))
    assert drift.add(window(0, 50)) > 0.5
