"""What a slow reader may lose and what never, and attempts that are spread."""

from random import Random

import pytest

from agent.link.inbox import Inbox, Lane
from agent.link.patience import Pace, Patience


def test_control_is_never_dropped_however_much_waits():
    inbox = Inbox(chunk_bytes=1000, local_items=2)
    for number in range(5):
        inbox.put(Lane.CHUNKS, number, size_bytes=400)
        inbox.put(Lane.LOCAL, number)
    for number in range(5000):
        assert inbox.put(Lane.CONTROL, number, size_bytes=10**6)
    assert [inbox.dropped(lane) for lane in (Lane.CONTROL, Lane.LOCAL, Lane.CHUNKS)] == [0, 3, 3]
    assert [inbox.get(0) for _ in range(5000)] == list(range(5000))


def test_control_is_served_first_then_local_then_chunks():
    inbox = Inbox()
    for lane in reversed(Lane):
        for number in range(2):
            inbox.put(lane, (lane, number), size_bytes=1)
    served = [
        (lane, number) for lane in (Lane.CONTROL, Lane.LOCAL, Lane.CHUNKS) for number in range(2)
    ]
    assert [inbox.get(0) for _ in served] == served
    assert inbox.get(0) is None


def test_a_chunk_that_was_read_makes_room_for_another():
    inbox = Inbox(chunk_bytes=1000)
    assert inbox.put(Lane.CHUNKS, "one", size_bytes=1000)
    assert not inbox.put(Lane.CHUNKS, "two", size_bytes=1)
    assert inbox.get(0) == "one"
    assert inbox.put(Lane.CHUNKS, "three", size_bytes=1000)


@pytest.mark.parametrize("failures", [1, 4, 30])
def test_devices_that_failed_together_do_not_come_back_together(failures: int):
    pace = Pace(shortest_seconds=1.0, longest_seconds=64.0)
    waits = []
    for seed in range(100):
        patience = Patience(pace, chance=Random(seed), failures=failures - 1)
        waits.append(patience.after_failure())
    ceiling = min(2.0 ** (failures - 1), 64.0)
    assert all(0.5 <= wait <= ceiling for wait in waits)
    for part in range(4):
        low = 0.5 + part * (ceiling - 0.5) / 4
        assert sum(low <= wait <= low + (ceiling - 0.5) / 4 for wait in waits) >= 10
