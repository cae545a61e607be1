"""The beginning of the event log in files: what was archived is still one chain."""

import gzip
from pathlib import Path

import pytest

from fleet.errors import RegistryError
from fleet.registry.archive import BEFORE_THE_FIRST, chained, read_archive
from fleet.registry.sqlite import Registry, open_registry
from tests.small_fleet import NOW, new_registry

FROZEN = Path(__file__).parents[1] / "fixtures"


def a_log(tmp_path, entries: int = 9) -> Registry:
    registry = new_registry(tmp_path)
    for number in range(entries):
        registry.events.record("a.kind", "s", {"n": number, "ö": [1.5]}, at_ms=NOW + number)
    return registry


def test_the_chain_holds_over_archives_and_what_is_left(tmp_path):
    registry, folder = a_log(tmp_path), tmp_path / "archive"
    head = registry.events.head()

    first = registry.events.archive(4, folder, at_ms=NOW)
    second = registry.events.archive(3, folder, at_ms=NOW)

    assert (first.first, first.last, second.first, second.last) == (1, 4, 5, 7)
    assert registry.events.archives() == [first, second]
    assert [e.number for e in registry.events.read()] == [8, 9]
    assert registry.events.verify_chain(folder) == 0
    assert registry.events.head() == head
    assert (folder / first.name).stat().st_mode & 0o077 == 0
    registry.close()
    reopened = open_registry(registry.path, create=False)
    assert reopened.events.record("a.kind", "s", {}, at_ms=NOW) == 10
    reopened.events.verify_chain(folder)


def test_a_log_that_is_archived_to_its_end_goes_on_where_it_was(tmp_path):
    registry, folder = a_log(tmp_path, 3), tmp_path / "archive"
    head = registry.events.head()

    registry.events.archive(3, folder, at_ms=NOW)

    assert registry.events.head() == head
    assert registry.events.record("a.kind", "s", {}, at_ms=NOW) == 4
    assert registry.events.verify_chain(folder) == 0


def test_an_archive_may_be_moved_away_but_not_changed(tmp_path):
    registry, folder = a_log(tmp_path), tmp_path / "archive"
    made = registry.events.archive(4, folder, at_ms=NOW)
    path = folder / made.name
    whole = path.read_bytes()
    text = gzip.decompress(whole).replace(b'"n\\":2', b'"n\\":7')
    assert text != gzip.decompress(whole)

    for content in (gzip.compress(text, mtime=0), whole[:-9], b""):
        path.write_bytes(content)
        with pytest.raises(RegistryError, match="is not the one that was written"):
            registry.events.verify_chain(folder)
    path.unlink()
    assert registry.events.verify_chain(folder) == 1


def test_only_what_is_archived_may_leave_the_log_and_the_list_stays(tmp_path):
    registry, folder = a_log(tmp_path), tmp_path / "archive"
    registry.events.archive(4, folder, at_ms=NOW)

    for sql in (
        "DELETE FROM events WHERE number = 5",
        "DELETE FROM events",
        "UPDATE events SET body = '{}'",
        "DELETE FROM event_archives",
        "UPDATE event_archives SET last = 9",
    ):
        with pytest.raises(RegistryError, match="append-only"):
            registry._database.write(sql)
    registry.events.verify_chain(folder)


def test_a_log_that_does_not_hold_is_not_archived(tmp_path):
    registry, folder = a_log(tmp_path), tmp_path / "archive"
    registry._database.write("DROP TRIGGER events_no_update")
    registry._database.write("UPDATE events SET body = '{}' WHERE number = 3")

    with pytest.raises(RegistryError, match="event 3 is not the one"):
        registry.events.archive(4, folder, at_ms=NOW)

    assert [e.number for e in registry.events.read()] == list(range(1, 10))
    assert registry.events.archives() == []


def test_a_crash_between_file_and_registry_costs_only_another_try(tmp_path):
    registry, folder = a_log(tmp_path), tmp_path / "archive"

    def cut_short():
        with registry.transaction():
            registry.events.archive(3, folder, at_ms=NOW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert len(list(folder.iterdir())) == 1
    assert registry.events.verify_chain(folder) == 0

    made = registry.events.archive(5, folder, at_ms=NOW)

    assert [path.name for path in folder.iterdir()] == [made.name]
    assert registry.events.verify_chain(folder) == 0


def test_a_disk_that_refuses_leaves_the_log_whole(tmp_path):
    registry = a_log(tmp_path)
    (tmp_path / "archive").write_text("a file where a folder should be")

    with pytest.raises(RegistryError, match="archive"):
        registry.events.archive(4, tmp_path / "archive", at_ms=NOW)

    assert len(registry.events.read()) == 9


def test_the_first_young_entry_ends_what_is_old(tmp_path):
    registry = a_log(tmp_path)
    registry.events.record("a.kind", "s", {}, at_ms=NOW - 5)  # the clock was put back

    assert registry.events.older(NOW + 4, limit=100) == 4
    assert registry.events.older(NOW + 4, limit=3) == 3
    assert registry.events.older(NOW + 100, limit=100) == 10
    assert registry.events.older(NOW, limit=100) == 0


def test_the_frozen_archive_of_version_1_is_read_for_ever(tmp_path):
    path = FROZEN / "events-archive-v1.jsonl.gz"

    entries = list(read_archive(path.read_bytes(), path))

    assert [entry[0] for entry, _ in entries] == [1, 2, 3]
    digest = BEFORE_THE_FIRST
    for entry, told in entries:
        digest = chained(digest, entry)
        assert digest == told


@pytest.mark.parametrize(
    ("head", "words"),
    [
        pytest.param(b'{"v":2,"first":1,"last":1,"before":""}', "has form 2", id="newer"),
        pytest.param(b'{"v":1}', "cannot be read", id="torn"),
    ],
)
def test_an_archive_of_another_form_is_refused(tmp_path, head, words):
    with pytest.raises(RegistryError, match=words):
        list(read_archive(gzip.compress(head + b"\n"), tmp_path / "x"))
    with pytest.raises(RegistryError, match="cannot be read"):
        list(read_archive(b"no gzip", tmp_path / "x"))


def test_a_list_of_archives_with_a_hole_is_named(tmp_path):
    registry, folder = a_log(tmp_path), tmp_path / "archive"
    registry.events.archive(2, folder, at_ms=NOW)
    registry.events.archive(2, folder, at_ms=NOW)
    registry._database.write("DROP TRIGGER event_archives_no_delete")
    registry._database.write("DELETE FROM event_archives WHERE first = 1")

    with pytest.raises(RegistryError, match="begins with event 1 is missing"):
        registry.events.verify_chain(folder)
