import msgspec
import pytest

from fleet.errors import ConflictError, NotFoundError
from tests.small_fleet import NOW, new_registry


def a_run(tmp_path):
    registry = new_registry(tmp_path)
    registry.runs.create("run-1", plan=b'{"rounds":3}', state=b"{}", status="new", at_ms=NOW)
    return registry


def test_a_run_journals_its_events_with_the_state_after_them(tmp_path):
    registry = a_run(tmp_path)
    runs = registry.runs
    events = [b'{"type":"Pushed","ordinal":0}', b'{"type":"Answered"}']

    runs.advance("run-1", events=events, state=b"[2]", status="busy", active=True, at_ms=NOW + 1)
    runs.save_state("run-1", b"[3]", status="done", active=False, at_ms=NOW + 2)

    row = runs.find("run-1")
    assert (row.plan, row.state, row.status, row.active) == (b'{"rounds":3}', b"[3]", "done", False)
    assert (row.created_ms, row.changed_ms) == (NOW, NOW + 2)
    assert [msgspec.json.decode(e) for e in runs.journal("run-1")] == [
        {"type": "Pushed", "ordinal": 0},
        {"type": "Answered"},
    ]
    assert runs.listing() == runs.listing(active=False) == [row]
    assert runs.listing(active=True) == []
    assert runs.find("run-2") is None
    assert runs.journal("run-2") == []


def test_a_journal_longer_than_a_page_comes_back_whole(tmp_path):
    registry = a_run(tmp_path)
    events = [f'{{"n":{n}}}'.encode() for n in range(2500)]

    registry.runs.advance("run-1", events=events, state=b"", status="x", active=True, at_ms=NOW)

    assert registry.runs.journal("run-1") == events


def test_a_run_that_does_not_exist_or_does_already_is_refused(tmp_path):
    runs = a_run(tmp_path).runs

    with pytest.raises(ConflictError, match="run run-1 exists already"):
        runs.create("run-1", plan=b"{}", state=b"{}", status="new", at_ms=NOW)
    with pytest.raises(NotFoundError, match="no run run-9"):
        runs.advance("run-9", events=[b"{}"], state=b"", status="x", active=True, at_ms=NOW)
    assert runs.journal("run-9") == [], "nothing of the refused step is left"


def test_other_bytes_of_a_run_are_kept_once_by_name(tmp_path):
    runs = a_run(tmp_path).runs

    assert runs.blob_keep("run-1", "weights", b"a" * 10**6, at_ms=NOW)
    assert not runs.blob_keep("run-1", "weights", b"b", at_ms=NOW)
    assert runs.blob("run-1", "weights") == b"a" * 10**6
    assert runs.blob("run-1", "nothing") is None
