import sqlite3

import pytest

from fleet.errors import RegistryError
from fleet.registry.archive import chained
from tests.small_fleet import NOW, new_registry


def a_log(tmp_path, entries=5):
    registry = new_registry(tmp_path)
    for number in range(entries):
        kind = "even.number" if number % 2 else "odd.number"
        registry.events.record(kind, f"s-{number % 3}", {"n": number, "ö": [1.5]}, at_ms=NOW)
    return registry


def test_entries_are_read_back_by_kind_subject_and_position(tmp_path):
    events = a_log(tmp_path).events

    assert [e.number for e in events.read()] == [1, 2, 3, 4, 5]
    assert [e.number for e in events.read(after=2, limit=2)] == [3, 4]
    assert [e.number for e in events.read(kinds=("even.number",))] == [2, 4]
    assert [e.number for e in events.read(subject="s-0")] == [1, 4]
    assert events.read(subject="s-0")[1].body == {"n": 3, "ö": [1.5]}
    assert events.head() == (5, events.read()[-1].digest)


def test_the_chain_holds_over_more_than_one_page(tmp_path):
    registry = new_registry(tmp_path)
    with registry.transaction():
        for number in range(2100):
            registry.events.record("number", "s", {"n": number}, at_ms=NOW)

    registry.events.verify_chain()


def test_the_file_refuses_to_change_or_forget_an_entry(tmp_path):
    registry = a_log(tmp_path)

    for sql in ("UPDATE events SET kind = 'x'", "DELETE FROM events WHERE number = 5"):
        with pytest.raises(RegistryError, match="append-only"):
            registry._database.write(sql)


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("UPDATE events SET body = '{}' WHERE number = 3", "event 3"),
        ("UPDATE events SET at_ms = 0 WHERE number = 1", "event 1"),
        ("UPDATE events SET subject = 's-9' WHERE number = 5", "event 5"),
        ("DELETE FROM events WHERE number = 2", "event 2 is missing"),
        ("UPDATE events SET number = 9 WHERE number = 5", "event 5 is missing"),
    ],
)
def test_a_log_that_was_tampered_with_names_the_first_wrong_entry(tmp_path, sql, number):
    registry = a_log(tmp_path)
    registry.close()
    connection = sqlite3.connect(registry.path)
    connection.execute("DROP TRIGGER events_no_update")
    connection.execute("DROP TRIGGER events_no_delete")
    connection.execute(sql)
    connection.commit()
    connection.close()
    registry = type(registry)(type(registry._database)(registry.path))

    with pytest.raises(RegistryError, match=number):
        registry.events.verify_chain()
    registry.close()


def test_a_forger_of_one_entry_with_its_digest_is_found_at_the_next(tmp_path):
    registry = a_log(tmp_path)
    before = registry.events.read()[1].digest
    forged = chained(before, (3, "odd.number", "s-2", NOW, "{}"))
    for trigger in ("events_no_update", "events_no_delete"):
        registry._database.write(f"DROP TRIGGER {trigger}")
    registry._database.write("UPDATE events SET body = '{}', digest = ? WHERE number = 3", forged)

    with pytest.raises(RegistryError, match="event 4"):
        registry.events.verify_chain()
    registry.close()
