"""The drill holds on a sound program, and says so when the program is not."""

from pathlib import Path

import pytest

from agent.contract import marks
from agent.errors import RollbackError
from agent.update import refresh, walk
from agent.update.trust import NotRefreshed, Refreshed
from fleet.errors import SigningError
from fleet.service import drill
from tests.ceremonies import Person
from tests.signed_fleet import NOW

pytestmark = pytest.mark.slow


def test_the_drill_prints_each_step_and_holds(tmp_path, capsys):
    out = Person(tmp_path, capsys)("keys", "drill", "--root", 2, "--threshold", 1)
    assert "3. a thief signed" in out
    assert "root version 1 → 2" in out
    assert "the device is at timestamp 1000000" in out
    assert "it is at timestamp 2 again" in out
    assert "was signed by 0/1 keys" in out
    assert out.endswith("the drill held\n")


def test_a_fleet_that_could_never_sign_is_no_drill(tmp_path, capsys):
    status, _, err = Person(tmp_path, capsys).tries("keys", "drill", "--threshold", 4)
    assert status == 5
    assert "cannot sign" in err


def rehearse(folder: Path) -> list[drill.Step]:
    return list(drill.rehearse(folder, roots=1, threshold=1, now=NOW))


def test_a_device_that_never_forgets_a_raced_mark_fails_the_drill(tmp_path, monkeypatch):
    def advance(old: marks.Marks, new: marks.Marks) -> marks.Marks:
        for role, mark in new.items():
            if role in old and mark.version < old[role].version:
                raise RollbackError(f"{role} went back")
        return {**old, **new}

    monkeypatch.setattr(walk, "advance_marks", advance)
    with pytest.raises(SigningError, match="the drill failed, the device refuses"):
        rehearse(tmp_path)


def test_a_device_that_believes_everything_fails_the_drill(tmp_path, monkeypatch):
    def gullible(job):
        found = refresh.refresh(job)
        if isinstance(found, NotRefreshed):
            return Refreshed(state=job.state, targets={}, refused={})
        return found

    monkeypatch.setattr(drill, "refresh", gullible)
    with pytest.raises(SigningError, match="believes what it must refuse"):
        rehearse(tmp_path)
