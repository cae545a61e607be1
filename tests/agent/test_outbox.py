"""The outbox loses nothing that it promised, and counts everything once."""

import shutil
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from agent.contract.codec import decode
from agent.contract.envelope import Boot, check_report, stamp_report
from agent.contract.messages import Event
from agent.contract.topics import EVENT, PRESENCE, TELEMETRY
from agent.disk import Disk
from agent.errors import DiskFullError, NewerStateError, StoreError
from agent.link.ledger import read_totals
from agent.link.outbox import Outbox, Record
from agent.link.segments import MAX_QUARANTINED
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import Record as Record_
from tests.power_cuts import count_cuts

KEY = SigningKey(bytes(32))
FIXTURE = Path(__file__).parents[1] / "fixtures" / "outbox-v1"


def boot(counter: int) -> Boot:
    return Boot(counter, f"{counter:016x}")


def sign(topic: str, life: Boot, sequence: int, payload: bytes) -> bytes:
    return stamp_report(KEY, topic, life, sequence, payload).signature


def outbox(disk: Disk, life: int = 1, quota_bytes: int = 1 << 20) -> Outbox:
    return Outbox(
        disk,
        device="d-one",
        boot=boot(life),
        sign=sign,
        moment=lambda: (1_700_000_000_000, 5),
        quota_bytes=quota_bytes,
    )


def fill(box: Outbox, count: int, size_bytes: int = 200) -> list[Record]:
    return [
        box.append(TELEMETRY, "windows", f"{n:06d}".encode() + bytes(size_bytes))
        for n in range(count)
    ]


def numbers(records: tuple[Record, ...]) -> list[tuple[int, int]]:
    return [(r.stamp.boot.counter, r.stamp.sequence) for r in records]


def everything(box: Outbox) -> tuple[Record, ...]:
    return box.pending(limit_bytes=1 << 30)


def test_reports_are_numbered_from_one_signed_and_sent_in_order(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path))
    made = fill(box, 3)
    due = box.due(100.0)
    assert numbers(due) == [(1, 1), (1, 2), (1, 3)]
    assert list(due) == made
    for record in due:
        check_report(KEY.verify_key, record.address.logical, record.stamp, record.payload)


def test_a_report_is_sent_again_after_a_time_or_a_reconnect(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path))
    first, second = fill(box, 2)
    box.sent(first, 100.0)
    assert box.due(100.0) == (second,)
    assert box.next_due(100.0) == 0
    box.sent(second, 110.0)
    assert box.due(129.9) == ()
    assert box.next_due(120.0) == pytest.approx(10.0)
    assert box.due(130.0) == (first,)
    box.reconnected()
    assert box.due(111.0) == (first, second)


def test_an_acknowledgement_is_cumulative_and_one_too_high_is_ignored(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path))
    fill(box, 5)
    assert box.acknowledge(boot(1), 6) == 0
    assert box.acknowledge(boot(9), 1) == 0
    assert box.acknowledge(boot(1), 3) == 3
    assert box.acknowledge(boot(1), 2) == 0
    assert numbers(everything(box)) == [(1, 4), (1, 5)]
    assert box.acknowledge(boot(1), 5) == 2
    assert box.next_due(0.0) is None


def test_a_restart_keeps_numbers_and_signatures_of_earlier_boots(tmp_path: Path) -> None:
    made = fill(outbox(Disk(tmp_path)), 3)
    again = outbox(Disk(tmp_path), life=2)
    again.append(EVENT, "alarm", b"{}")
    assert numbers(everything(again)) == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert list(everything(again)[:3]) == made
    again.acknowledge(boot(1), 3)
    assert numbers(everything(again)) == [(2, 1)]


def test_totals_survive_restarts_and_add_up(tmp_path: Path) -> None:
    for life in range(1, 6):
        box = outbox(Disk(tmp_path), life)
        fill(box, 10)
        for earlier in range(1, life):
            box.acknowledge(boot(earlier), 10)
        box.acknowledge(boot(life), 7)
        box.flush()
        totals = box.totals()
        assert totals == read_totals(Disk(tmp_path))
        assert (totals.appended, totals.acknowledged) == (10 * life, 10 * life - 3)
        assert totals.appended == totals.acknowledged + totals.dropped + totals.pending


def test_acknowledged_segments_leave_the_disk(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path), quota_bytes=64 * 1024)
    for _ in range(20):
        fill(box, 50)
        box.acknowledge(boot(1), box.totals().appended)
    assert len(list((tmp_path / "outbox").glob("*.seg"))) <= 2
    assert box.totals().dropped == 0


def test_what_was_acknowledged_is_not_missed_where_its_file_is_gone(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path), quota_bytes=32 * 1024)
    fill(box, 60)
    box.acknowledge(boot(1), 50)  # too few to be persisted for their own sake
    again = outbox(Disk(tmp_path), life=2, quota_bytes=32 * 1024)
    assert again.totals().dropped == 0
    assert again.totals().appended == 60
    assert numbers(everything(again))[-1] == (1, 60)


def test_over_the_quota_the_oldest_telemetry_goes_and_a_gap_names_it(tmp_path: Path) -> None:
    quota = 32 * 1024
    box = outbox(Disk(tmp_path), quota_bytes=quota)
    alarm = box.append(EVENT, "alarm", b"{}")
    fill(box, 400)
    kept = everything(box)
    assert alarm in kept
    assert box.totals().size_bytes <= quota + 4096
    gaps = [decode(Event, r.payload) for r in kept if r.address.name == "gap"]
    named = {n for gap in gaps for n in range(gap.first or 0, (gap.last or 0) + 1)}
    present = {r.stamp.sequence for r in kept}
    assert named
    assert not named & present
    assert named | present == set(range(1, box.totals().appended + 1))
    assert box.totals().dropped == len(named)
    again = outbox(Disk(tmp_path), life=2, quota_bytes=quota)
    assert numbers(everything(again)) == numbers(kept)
    assert again.totals() == box.totals() == read_totals(Disk(tmp_path))


def test_where_only_events_are_left_the_oldest_of_them_go(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path), quota_bytes=16 * 1024)
    for _ in range(200):
        box.append(EVENT, "alarm", bytes(200))
    kept = everything(box)
    assert box.totals().dropped > 0
    assert kept[-1].stamp.sequence == box.totals().appended or kept[-1].address.name == "gap"


def test_an_acknowledgement_passes_over_what_was_dropped(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path), quota_bytes=16 * 1024)
    fill(box, 200)
    last = box.totals().appended
    box.acknowledge(boot(1), last)
    totals = box.totals()
    assert totals.pending == 0
    assert totals.acknowledged + totals.dropped == totals.appended
    later = outbox(Disk(tmp_path), life=2, quota_bytes=16 * 1024)
    assert later.totals().appended == totals.appended
    assert later.totals().dropped == totals.dropped


def test_a_torn_tail_is_cut_and_the_next_report_stands(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path))
    fill(box, 3)
    path = next((tmp_path / "outbox").glob("*.seg"))
    path.write_bytes(path.read_bytes()[:-5])
    again = outbox(Disk(tmp_path), life=2)
    assert numbers(everything(again)) == [(1, 1), (1, 2)]
    fill(again, 1)
    assert numbers(everything(outbox(Disk(tmp_path), life=3))) == [(1, 1), (1, 2), (2, 1)]


def test_what_a_damaged_medium_lost_is_named_by_a_gap(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path), quota_bytes=64 * 1024)
    fill(box, 100)
    first = min((tmp_path / "outbox").glob("*.seg"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    first.write_bytes(bytes(damaged))
    again = outbox(Disk(tmp_path), life=2, quota_bytes=64 * 1024)
    gap = decode(Event, everything(again)[-1].payload)
    present = {n for b, n in numbers(everything(again)) if b == 1}
    assert present | set(range(gap.first or 0, (gap.last or 0) + 1)) == set(range(1, 101))


def test_a_refused_append_uses_no_number_and_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(Disk):
        full = False

        def append(self, name: str, content: bytes) -> None:
            if self.full:
                super().append(name, content[:7])
                raise DiskFullError("no space left")
            super().append(name, content)

    disk = FullDisk(tmp_path)
    box = outbox(disk)
    for before in (0, 2):
        assert len(everything(box)) == before
        disk.full = True
        for _ in range(2):
            with pytest.raises(DiskFullError):
                fill(box, 1)
        disk.full = False
        fill(box, 2)
    assert [n for _, n in numbers(everything(box))] == [1, 2, 3, 4]
    assert numbers(everything(outbox(Disk(tmp_path), 2))) == numbers(everything(box))


def test_newer_state_is_refused_and_left_untouched(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path))
    fill(box, 1)
    box.acknowledge(boot(1), 1)
    segment = next((tmp_path / "outbox").glob("*.seg"))
    state = tmp_path / "outbox" / "state.json"
    for path, newer in (
        (segment, b"FFO\x02 something new"),
        (state, b'{"v":2,"boots":{},"appended":"many"}'),
        (state, b'{"v":2,"boots":{}}'),
    ):
        old = path.read_bytes()
        path.write_bytes(newer)
        for read in (lambda: outbox(Disk(tmp_path), 2), lambda: read_totals(Disk(tmp_path))):
            with pytest.raises(NewerStateError):
                read()
        assert path.read_bytes() == newer
        path.write_bytes(old)


def test_damaged_counts_are_named_and_left_untouched(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "state.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="move it away"):
        outbox(Disk(tmp_path))


def test_only_telemetry_and_events_go_through_the_outbox(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="presence"):
        outbox(Disk(tmp_path)).append(PRESENCE, None, b"{}")


def test_the_first_schema_is_read_for_ever(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path / "outbox")
    box = outbox(Disk(tmp_path), life=9)
    assert numbers(everything(box)) == [(1, 3), (1, 4), (2, 1)]
    assert [r.address.name for r in everything(box)] == ["windows", "alarm", "windows"]
    assert (box.totals().appended, box.totals().acknowledged) == (5, 2)
    for record in everything(box):
        check_report(KEY.verify_key, record.address.logical, record.stamp, record.payload)


class Fleet:
    """What the manager has recorded, and which numbers it knows to be dropped."""

    def __init__(self) -> None:
        self.heard: dict[tuple[int, int], bytes] = {}
        self.gone: set[tuple[int, int]] = set()

    def hear(self, record: Record) -> None:
        key = (record.stamp.boot.counter, record.stamp.sequence)
        assert self.heard.setdefault(key, record.payload) == record.payload, "one number, two texts"
        if record.address.name == "gap":
            gap = decode(Event, record.payload)
            life = Boot.parse(gap.boot or "").counter
            self.gone |= {(life, n) for n in range(gap.first or 0, (gap.last or 0) + 1)}

    def acknowledges(self, life: int) -> int:
        number = 0
        while (life, number + 1) in self.heard or (life, number + 1) in self.gone:
            number += 1
        return number


def live(disk: FaultyDisk, life: int, promised: dict[tuple[int, int], bytes], fleet: Fleet) -> None:
    """One boot of a busy agent: append, send, hear acknowledgements, overflow, flush."""
    box = outbox(disk, life, quota_bytes=8 * 1024)
    for turn in range(30):
        text = f"{life} {turn}".encode() + bytes(300)
        record = box.append(*((EVENT, "alarm") if turn % 7 == 3 else (TELEMETRY, "windows")), text)
        promised[(life, record.stamp.sequence)] = text
        if turn % 9 == 8:
            for record in box.due(float(turn), limit_bytes=2000):
                fleet.hear(record)
                box.sent(record, float(turn))
            for earlier in range(1, life + 1):
                box.acknowledge(boot(earlier), fleet.acknowledges(earlier))
    box.flush()


def live_twice(disk: FaultyDisk, promised: dict[tuple[int, int], bytes], fleet: Fleet) -> None:
    for life in (1, 2):
        live(disk, life, promised, fleet)


def test_a_power_cut_at_every_operation_loses_no_promise_and_doubles_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record_
) -> None:
    # what is cut here is the order of operations; waiting for the medium adds only minutes
    monkeypatch.setattr("os.fsync", lambda _: None)
    healthy = FaultyDisk(tmp_path / "healthy")
    healthy.root.mkdir()
    live_twice(healthy, {}, Fleet())
    assert healthy.used > 60
    for good in range(healthy.used):
        root = tmp_path / str(good)
        root.mkdir()
        promised: dict[tuple[int, int], bytes] = {}
        fleet = Fleet()
        disk = FaultyDisk(root, good)
        with pytest.raises(PowerCutError):
            live_twice(disk, promised, fleet)
        box = outbox(Disk(root), 3, quota_bytes=8 * 1024)
        for record in everything(box):
            fleet.hear(record)
        for life in (1, 2, 3):
            box.acknowledge(boot(life), fleet.acknowledges(life))
        for key, text in promised.items():
            assert key in fleet.gone or fleet.heard.get(key) == text, f"cut at {disk.log[-1]}"
        assert everything(box) == (), f"cut at {disk.log[-1]}: acknowledgement stalls"
        totals = box.totals()
        assert totals.appended == totals.acknowledged + totals.dropped
        shutil.rmtree(root)
    count_cuts(record_property, healthy.log)
    record_property("measured", f"power cut: outbox, at each of {healthy.used} durable operations")


def test_an_append_costs_little(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path)
    box = outbox(disk)
    used = disk.used
    fill(box, 50)
    assert disk.used - used == 50, "one durable operation for each report"


def spoil(path: Path, number: int) -> None:
    """Change the bytes of one record under the feet of a running agent."""
    content = bytearray(path.read_bytes())
    at = content.index(f"{number:06d}".encode())
    content[at + 10] ^= 1
    path.write_bytes(bytes(content))


def test_a_report_that_rotted_under_a_running_agent_holds_up_no_other(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path))
    fill(box, 5)
    segment = next((tmp_path / "outbox").glob("*.seg"))
    spoil(segment, 2)
    assert numbers(box.due(100.0)) == [(1, 1), (1, 2), (1, 4), (1, 5)]
    kept = list((tmp_path / "outbox" / "rotten").iterdir())
    assert [path.name for path in kept] == [segment.name]
    gap = decode(Event, box.due(100.0)[-1].payload)
    assert (gap.type, gap.code, gap.first, gap.last) == ("gap", "outbox-rotten", 3, 3)
    assert "outbox/rotten" in gap.why
    fill(box, 1)
    assert numbers(everything(box)) == [(1, 1), (1, 2), (1, 4), (1, 5), (1, 6), (1, 7)]
    again = outbox(Disk(tmp_path), life=2)
    assert numbers(everything(again)) == numbers(everything(box))
    assert again.totals().dropped == 1
    assert again.acknowledge(boot(1), 7) == 6


def test_rotten_reports_in_every_segment_keep_at_most_a_few_files(tmp_path: Path) -> None:
    box = outbox(Disk(tmp_path), quota_bytes=32 * 1024)
    fill(box, 100)
    segments = sorted((tmp_path / "outbox").glob("*.seg"))
    assert len(segments) > MAX_QUARANTINED
    for path in segments:
        content = bytearray(path.read_bytes())
        content[20] ^= 1
        path.write_bytes(bytes(content))
    before = len(everything(box))
    assert before == 100 - len(segments)
    assert len(list((tmp_path / "outbox" / "rotten").iterdir())) == MAX_QUARANTINED
    assert len(everything(box)) > before  # and the gaps that name them


def test_a_full_disk_keeps_no_rotten_report_from_being_skipped(tmp_path: Path) -> None:
    class FullDisk(Disk):
        full = False

        def write(self, name: str, content: bytes) -> None:
            if self.full:
                raise DiskFullError("no space left")
            super().write(name, content)

    disk = FullDisk(tmp_path)
    box = outbox(disk)
    fill(box, 3)
    spoil(next((tmp_path / "outbox").glob("*.seg")), 0)
    disk.full = True
    assert numbers(box.due(100.0)) == [(1, 2), (1, 3)]
    assert numbers(box.due(100.0)) == [(1, 2), (1, 3)]
    disk.full = False
    assert numbers(box.due(100.0)) == [(1, 2), (1, 3)]
    assert numbers(everything(box)) == [(1, 2), (1, 3), (1, 4)]


def test_nothing_is_stored_of_a_life_that_is_not_counted(tmp_path: Path) -> None:
    counted = False

    def ready() -> None:
        if not counted:
            raise DiskFullError("no space left to write boot.json")

    box = Outbox(
        Disk(tmp_path), device="d-one", boot=boot(1), sign=sign, moment=lambda: (1, 1), ready=ready
    )
    with pytest.raises(DiskFullError):
        fill(box, 1)
    assert everything(box) == ()
    assert not (tmp_path / "outbox").exists()
    counted = True
    assert numbers(tuple(fill(box, 1))) == [(1, 1)]


def test_a_full_disk_at_the_start_leaves_the_gaps_for_the_next_report(tmp_path: Path) -> None:
    class FullDisk(Disk):
        full = True

        def append(self, name: str, content: bytes) -> None:
            if self.full:
                raise DiskFullError("no space left")
            super().append(name, content)

    box = outbox(Disk(tmp_path), quota_bytes=64 * 1024)
    fill(box, 100)
    first = min((tmp_path / "outbox").glob("*.seg"))
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    first.write_bytes(bytes(damaged))
    disk = FullDisk(tmp_path)
    again = outbox(disk, life=2, quota_bytes=64 * 1024)
    assert len(everything(again)) < 100
    with pytest.raises(DiskFullError):
        fill(again, 1)
    disk.full = False
    fill(again, 1)
    gaps = [decode(Event, r.payload) for r in everything(again) if r.address.name == "gap"]
    assert gaps
    assert {gap.code for gap in gaps} == {"outbox-rotten"}


def test_a_segment_that_cannot_be_rewritten_is_still_read_where_its_reports_lie(
    tmp_path: Path,
) -> None:
    class FullDisk(Disk):
        def replace(self, name: str, content: bytes) -> None:
            if name.endswith(".seg"):
                raise DiskFullError("no space left")
            super().replace(name, content)

    box = outbox(FullDisk(tmp_path), quota_bytes=16 * 1024)
    events: list[Record] = []
    while not box.totals().dropped:
        fill(box, 1)
        events.append(box.append(EVENT, "alarm", f'{{"n":{len(events)}}}'.encode()))
    kept = everything(box)
    assert [event for event in events if event not in kept] == []
