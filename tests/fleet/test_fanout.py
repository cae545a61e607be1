"""Chunks for many travel once, whoever joins when, and repairs travel alone."""

from fleet.ingest.fanout import (
    ABANDONED_SECONDS,
    AHEAD_CHUNKS,
    FORGET_SECONDS,
    REPAIR_SECONDS,
    SILENT_SECONDS,
    SLOWEST_SECONDS,
    Fanout,
)

DIGEST = "ab" * 32
TOTAL = 40


def ask(
    fanout: Fanout, device: str, *indexes: int, now: float = 0.0, heard: int | None = None
) -> list[int]:
    return fanout.take(device, DIGEST, list(indexes), TOTAL, now, heard=heard)


def started(now: float = 0.0) -> Fanout:
    fanout = Fanout()
    for device in ("d-1", "d-2", "d-3"):
        ask(fanout, device, 0, 1, now=now)
    return fanout


def cast(fanout: Fanout, now: float = 0.0, most: int = 1000) -> list[int]:
    found: list[int] = []
    while len(found) < most and (due := fanout.next(now)) is not None:
        found.append(due[1])
    return found


def test_two_devices_are_served_alone_and_the_third_starts_a_cast() -> None:
    fanout = Fanout()
    assert ask(fanout, "d-1", 0, 1) == [0, 1]
    assert ask(fanout, "d-2", 0, 1) == [0, 1]
    assert not fanout.waiting
    assert ask(fanout, "d-3", 0, 1) == []
    assert cast(fanout) == list(range(TOTAL))
    assert not fanout.waiting


def test_devices_that_ask_far_apart_are_served_alone() -> None:
    fanout = Fanout()
    for n in range(10):
        assert ask(fanout, f"d-{n}", 0, now=n * 3.0) == [0]


def test_what_will_be_cast_is_sent_to_nobody_alone() -> None:
    fanout = started()
    assert ask(fanout, "d-1", 5, 6, 7) == []
    cast(fanout, most=6)
    assert ask(fanout, "d-1", 5, 6, 7) == [], "5 was cast just now"


def test_who_joins_late_gets_what_it_missed_in_a_second_lap_with_the_others() -> None:
    fanout = started()
    assert cast(fanout, most=10) == list(range(10))
    assert ask(fanout, "d-late", 0, 1) == []
    assert ask(fanout, "d-later", 0, 1) == []
    assert cast(fanout, now=5.0) == [*range(10, TOTAL), *range(10)]


def test_who_has_the_beginning_already_does_not_make_it_travel_again() -> None:
    fanout = started()
    cast(fanout, most=10)
    ask(fanout, "d-resumed", 8, 9)
    assert cast(fanout) == [*range(10, TOTAL), 8, 9]


def test_a_repair_travels_alone_once_the_cast_of_it_is_over() -> None:
    fanout = started()
    cast(fanout, now=10.0)
    assert ask(fanout, "d-2", 3, now=10.5) == [], "it may still be on its way"
    assert ask(fanout, "d-2", 3, now=11.5) == [3]
    assert ask(fanout, "d-1", 4, now=11.5) == [4]
    assert ask(fanout, "d-3", 5, now=11.5) == [5], "members start no second cast"


def test_what_several_members_lack_at_the_same_time_is_cast_again() -> None:
    fanout = started()
    cast(fanout, now=10.0)
    assert ask(fanout, "d-1", 3, 4, now=20.0) == [3, 4]
    assert ask(fanout, "d-1", 3, 4, now=20.5) == [3, 4], "the same device twice is one"
    assert ask(fanout, "d-2", 3, now=20.6) == [3]
    assert ask(fanout, "d-3", 2, 3, now=20.7) == [2]
    assert cast(fanout, now=20.8) == [3]
    assert ask(fanout, "d-2", 4, now=22.9) == [4]
    assert ask(fanout, "d-3", 4, now=23.0) == [4], "the first of them asked too long ago"


def test_a_device_that_has_come_to_its_end_starts_no_cast_for_others() -> None:
    fanout = Fanout()
    for device in ("d-1", "d-2", "d-3", "d-4"):
        for first in range(0, TOTAL, 10):
            asked = list(range(first, first + 10))
            assert ask(fanout, device, *asked) == asked
    assert not fanout.waiting


def test_newcomers_after_a_cast_start_another() -> None:
    fanout = started()
    cast(fanout, now=1.0)
    assert ask(fanout, "d-4", 0, now=9.0) == [0]
    assert ask(fanout, "d-5", 0, now=9.0) == [0]
    ask(fanout, "d-6", 0, now=9.0)
    assert cast(fanout, now=9.0) == list(range(TOTAL))


def test_two_artifacts_take_turns() -> None:
    fanout = started()
    for device in ("d-1", "d-2", "d-3"):
        fanout.take(device, "cd" * 32, [0], 3, 0.0)
    digests = [due[0] for _ in range(6) if (due := fanout.next(0.0))]
    assert digests == [DIGEST, "cd" * 32] * 3


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    fanout = started()
    cast(fanout, now=1.0)
    later = 2.0 + FORGET_SECONDS
    assert ask(fanout, "d-1", 7, now=later) == [7]
    assert ask(fanout, "d-2", 7, now=later) == [7]
    assert ask(fanout, "d-3", 7, now=later) == []
    assert fanout.waiting


def long_cast(now: float) -> Fanout:
    fanout = Fanout()
    for device in ("d-1", "d-2", "d-3"):
        fanout.take(device, DIGEST, [0], 1000, now)
    return fanout


def tell(fanout: Fanout, device: str, heard: int, now: float) -> None:
    assert fanout.take(device, DIGEST, [heard], 1000, now, heard=heard) == []


def test_a_cast_waits_for_the_slowest_of_its_members() -> None:
    fanout = long_cast(1.0)
    assert len(cast(fanout, now=1.0)) == AHEAD_CHUNKS
    for device in ("d-1", "d-2"):
        tell(fanout, device, 31, 1.01)
    assert cast(fanout, now=1.01) == []
    tell(fanout, "d-3", 15, 1.02)
    assert len(cast(fanout, now=1.02)) == 16


def test_what_a_member_asked_for_before_it_heard_the_cast_is_no_word_of_how_far_it_came() -> None:
    fanout = long_cast(1.0)
    assert len(cast(fanout, now=1.0)) == AHEAD_CHUNKS
    for device in ("d-1", "d-2", "d-3"):
        assert fanout.take(device, DIGEST, [1, 2], 1000, 1.01) == []
    assert cast(fanout, now=1.02) == []
    for device in ("d-1", "d-2", "d-3"):
        fanout.take(device, DIGEST, [1], 1000, 1.01 + REPAIR_SECONDS)
    assert len(cast(fanout, now=1.01 + REPAIR_SECONDS)) == AHEAD_CHUNKS, "now it waits for more"


def test_a_silent_member_is_not_waited_for() -> None:
    fanout = long_cast(1.0)
    cast(fanout, now=1.0)
    late = 1.01 + SILENT_SECONDS
    for device in ("d-1", "d-2"):
        tell(fanout, device, 47, late)
    assert len(cast(fanout, now=late)) == AHEAD_CHUNKS


def test_a_very_slow_member_holds_the_others_up_only_so_much() -> None:
    fanout = long_cast(1.0)
    cast(fanout, now=1.0)
    assert len(cast(fanout, now=1.0 + 1.01 * SLOWEST_SECONDS)) == 1


def test_a_cast_that_nobody_follows_any_more_ends() -> None:
    fanout = long_cast(1.0)
    cast(fanout, now=1.0)
    assert cast(fanout, now=1.1 + ABANDONED_SECONDS) == []
    assert not fanout.waiting
