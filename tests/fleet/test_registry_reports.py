import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import RefusedError
from fleet.registry.numbers import MAX_RANGES, Numbers
from fleet.registry.reports import STATE_SEQUENCES
from tests.small_fleet import BOOT, LATER, NOW, a_window, an_event, device_id, new_registry

D, E = device_id(0), device_id(1)


@given(
    ranges=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda p: (p[0], sum(p))))
)
def test_numbers_are_the_set_of_what_was_added(ranges):
    expected: set[int] = set()
    numbers = Numbers()
    for first, last in ranges:
        numbers = numbers.add(first, last)
        expected |= set(range(first, last + 1))

    assert {n for n in range(80) if n in numbers} == expected
    assert numbers.count == len(expected)
    assert numbers.up_to == next(n for n in range(80) if n + 1 not in expected)
    assert numbers.highest == max(expected, default=0)
    gaps = zip(numbers.ranges, numbers.ranges[1:], strict=False)
    assert all(left[1] + 1 < right[0] for left, right in gaps)
    assert Numbers.read(numbers.write()) == numbers
    assert Numbers().union(numbers) == numbers


def test_a_report_counts_once_in_any_order(tmp_path):
    reports = new_registry(tmp_path, 2).reports

    taken = [reports.accept(D, BOOT, n, "telemetry", at_ms=NOW) for n in (2, 1, 2, 5, 1)]

    assert taken == [True, True, False, True, False]
    assert reports.recorded_up_to(D, BOOT) == 2
    assert reports.accept(D, LATER, 1, "event", at_ms=NOW)
    assert reports.accept(E, BOOT, 1, "event", at_ms=NOW)
    assert [reports.recorded_up_to(D, boot) for boot in (BOOT, LATER)] == [2, 1]
    totals = reports.totals()
    assert (totals.accepted, totals.duplicates_ignored, totals.missing) == (5, 2, 2)
    assert totals.by_kind == {"event": 2, "telemetry": 3}
    assert reports.totals(E).accepted == 1
    assert reports.totals("d-nobody").accepted == 0


def test_a_gap_lets_the_acknowledgement_pass_and_a_late_report_counts_after_all(tmp_path):
    registry = new_registry(tmp_path, 1)
    reports = registry.reports
    for n in (1, 2, 7):
        reports.accept(D, BOOT, n, "telemetry", at_ms=NOW)

    assert reports.skip(D, BOOT, 2, 6, at_ms=NOW) == 4
    assert reports.skip(D, BOOT, 2, 6, at_ms=NOW) == 0
    assert reports.recorded_up_to(D, BOOT) == 7
    assert (reports.totals().skipped, reports.totals().missing) == (4, 0)
    assert reports.accept(D, BOOT, 4, "telemetry", at_ms=NOW)
    assert (reports.totals().skipped, reports.totals().accepted) == (3, 4)
    assert len(registry.events.read(kinds=("reports.dropped",))) == 1


@pytest.mark.parametrize(("first", "last"), [(0, 0), (-1, 1), (3, 2), (1, STATE_SEQUENCES)])
def test_numbers_that_no_outbox_has_are_refused(tmp_path, first, last):
    reports = new_registry(tmp_path, 1).reports

    with pytest.raises(RefusedError, match="no numbers of an outbox"):
        reports.skip(D, BOOT, first, last, at_ms=NOW)


def test_a_device_cannot_fill_the_registry_with_holes():
    numbers = Numbers(tuple((n, n) for n in range(1, 2 * MAX_RANGES, 2)))

    assert numbers.add(2, 2).count == MAX_RANGES + 1
    with pytest.raises(RefusedError, match="holes"):
        numbers.add(10**6, 10**6)


def test_windows_are_kept_once_and_found_by_device_slot_and_time(tmp_path):
    reports = new_registry(tmp_path, 2).reports
    windows = [a_window(n, NOW + n) for n in range(5)]

    assert reports.windows_add(D, BOOT, windows, at_ms=NOW) == 5
    assert reports.windows_add(D, BOOT, [*windows[3:], a_window(5, NOW + 5)], at_ms=NOW) == 1
    assert reports.windows_add(D, LATER, windows[:1], at_ms=NOW) == 1
    assert reports.windows_add(E, BOOT, [a_window(1, slot="vision")], at_ms=NOW) == 1
    assert reports.windows_add(E, BOOT, [], at_ms=NOW) == 0

    found = reports.windows(D, "motion", NOW + 2)
    assert [w.window.number for w in found] == [2, 3, 4, 5]
    assert found[0].window == windows[2]
    assert [w.window.number for w in reports.windows(limit=2)] == [4, 5]
    assert [w.device for w in reports.windows(slot="vision")] == [E]


def test_device_events_are_kept_once_by_device_and_id(tmp_path):
    registry = new_registry(tmp_path, 2)
    reports = registry.reports
    update = an_event(1, release="ab" * 32, outcome="succeeded")
    evaluation = an_event(2, "evaluation", release="cd" * 32)
    alarm = an_event(3, "alarm", code="unsigned", why="no")

    assert reports.update_add(D, update, at_ms=NOW)
    assert not reports.update_add(D, update, at_ms=NOW + 9)
    assert reports.update_add(E, update, at_ms=NOW + 1), "two devices may use one id"
    assert reports.evaluation_add(D, evaluation, at_ms=NOW)
    assert reports.alarm_add(D, alarm, at_ms=NOW)
    with pytest.raises(RefusedError, match="'alarm' is no update"):
        reports.update_add(D, alarm, at_ms=NOW)

    assert [(u.device, u.event) for u in reports.updates()] == [(D, update), (E, update)]
    assert [u.device for u in reports.updates(E, "ab" * 32)] == [E]
    assert reports.updates(release="00" * 32) == []
    assert [e.event for e in reports.evaluations("cd" * 32)] == [evaluation]
    assert [a.event.why for a in reports.alarms(D)] == ["no"]
    assert len(registry.events.read(kinds=("device.update",))) == 2


def test_the_newest_window_of_a_slot_is_found(tmp_path):
    reports = new_registry(tmp_path, 2).reports
    reports.windows_add(D, BOOT, [a_window(n, NOW + n) for n in (1, 3, 2)], at_ms=NOW)
    reports.windows_add(E, BOOT, [a_window(9, NOW + 9)], at_ms=NOW)
    newest = reports.newest_window(D, "motion")
    assert newest is not None
    assert newest.number == 3
    assert reports.newest_window(D, "pump") is None
