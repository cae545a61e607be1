"""Labelled windows are kept durably, within their quota and age, and can be learned from."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.disk import Disk
from agent.errors import ConfigError, DiskFullError, NewerStateError, StoreError
from agent.learn import keeping, kept
from agent.learn.keeping import KeptWindows, clear
from agent.learn.kept import (
    BLOCK_MS,
    FOLDER,
    Kept,
    join,
    load_kept,
    scan,
    segment_name,
    split_of,
)
from agent.learn.samples import LabelledWindows, Split
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import Record, count_cuts

FIXTURE = Path(__file__).parents[1] / "fixtures" / "labelled-v1"
CLASSES = ("still", "walk", "run")
SHAPE = (3, 8)
NOW = 1_700_000_000_000
DAY_MS = 86_400_000


def a_window(number: int, **changes: object) -> Kept:
    x = np.full(SHAPE, number, np.float32)
    known: dict[str, object] = {
        "slot": "motion",
        "id": f"0011aabb-{number}",
        "row": 0,
        "at_ms": NOW + number,
        "release": "ab" * 32,
        "label": CLASSES[number % 3],
        "split": number % 3,
        "channels": 3,
        "samples": 8,
        "x": x.astype("<f4").tobytes(),
    }
    return Kept(**(known | changes))


def store(disk: Disk, quota_bytes: int = 1 << 20, days: int = 90) -> KeptWindows:
    return KeptWindows(disk, quota_bytes=quota_bytes, retention_ms=days * DAY_MS)


def names(disk: Disk, slot: str = "motion") -> tuple[str, ...]:
    return load_kept(disk, slot, classes=CLASSES, shape=SHAPE)[1]


def test_what_was_kept_is_read_in_another_life_as_it_was(tmp_path: Path) -> None:
    store(Disk(tmp_path)).keep([a_window(n) for n in range(5)], NOW)
    windows, found = load_kept(Disk(tmp_path), "motion", classes=CLASSES, shape=SHAPE)
    assert found == tuple(f"0011aabb-{n}/0" for n in range(5))
    np.testing.assert_array_equal(windows.x[:, 0, 0], np.arange(5))
    assert windows.x.dtype == np.float32
    assert windows.y.tolist() == [0, 1, 2, 0, 1]
    assert windows.split.tolist() == [0, 1, 2, 0, 1]
    again = store(Disk(tmp_path))
    assert again.counts("motion") == {Split.TRAIN: 2, Split.DECIDE: 2, Split.WITHHELD: 1}
    assert again.counts("other") == dict.fromkeys(Split, 0)


def test_a_label_is_kept_by_its_name_because_classes_change_their_numbers(tmp_path: Path) -> None:
    store(Disk(tmp_path)).keep([a_window(n) for n in range(3)], NOW)
    windows, found = load_kept(Disk(tmp_path), "motion", classes=("run", "still"), shape=SHAPE)
    assert windows.y.tolist() == [1, 0]
    assert found == ("0011aabb-0/0", "0011aabb-2/0")


def test_windows_of_another_slot_or_shape_teach_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store(disk).keep([a_window(1), a_window(2, slot="other"), a_window(3)], NOW)
    assert names(disk) == ("0011aabb-1/0", "0011aabb-3/0")
    windows, found = load_kept(disk, "motion", classes=CLASSES, shape=(6, 4))
    assert (len(windows.x), windows.x.shape, found) == (0, (0, 6, 4), ())


def test_kept_windows_stand_behind_those_of_the_operators_file(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store(disk).keep([a_window(1), a_window(2)], NOW)
    windows, _ = load_kept(disk, "motion", classes=CLASSES, shape=SHAPE)
    x = np.zeros((1, *SHAPE), np.float32)
    file = LabelledWindows(x=x, y=np.array([0]), split=np.array([0], np.uint8))
    joined = join(file, windows)
    assert (joined.y.tolist(), joined.split.tolist()) == ([0, 1, 2], [0, 1, 2])
    assert joined.x[:, 0, 0].tolist() == [0, 1, 2]
    assert join(None, windows) is windows
    other = LabelledWindows(x=x.reshape(1, 8, 3), y=file.y, split=file.split)
    with pytest.raises(ConfigError, match=r"shape \(8, 3\), the release takes \(3, 8\)"):
        join(other, windows)
    none, _ = load_kept(disk, "other", classes=CLASSES, shape=SHAPE)
    assert join(other, none) is other


def test_only_the_newest_windows_of_a_split_are_used_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "NEWEST", {Split.TRAIN: 2, Split.DECIDE: 1, Split.WITHHELD: 0})
    disk = Disk(tmp_path)
    store(disk).keep([a_window(n) for n in range(9)], NOW)
    assert names(disk) == ("0011aabb-3/0", "0011aabb-6/0", "0011aabb-7/0")


def test_the_oldest_windows_make_room_for_new_ones(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk, quota_bytes=20_000)
    for number in range(200):
        keeper.keep([a_window(number)], NOW)
        size = sum(disk.path(f"{FOLDER}/{n}").stat().st_size for n in disk.names(FOLDER))
        assert size <= 20_000
    held = names(disk)
    assert held == tuple(f"0011aabb-{n}/0" for n in range(200 - len(held), 200))
    assert len(held) > 60
    assert sum(keeper.counts("motion").values()) == len(held)


def test_more_than_the_quota_at_once_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk, quota_bytes=20_000)
    keeper.keep([a_window(1)], NOW)
    with pytest.raises(DiskFullError, match=r"over feedback\.quota_bytes"):
        keeper.keep([a_window(n) for n in range(200)], NOW)
    assert names(disk) == ("0011aabb-1/0",)


def test_a_window_too_large_to_be_read_again_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (keeping, kept):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 200)
    disk = Disk(tmp_path)
    keeper = store(disk)
    with pytest.raises(StoreError, match="over the limit of 200"):
        keeper.keep([a_window(1), a_window(2, channels=6, x=bytes(192))], NOW)
    assert disk.names(FOLDER) == []


def test_windows_that_are_older_than_the_owner_wants_are_removed(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk, quota_bytes=1 << 14, days=1)
    for number in range(10):
        keeper.keep([a_window(number)], NOW)
    later = NOW + DAY_MS + 100
    keeper.keep([a_window(11, at_ms=later)], NOW)
    assert len(names(disk)) == 11
    keeper.expire(later)
    assert names(disk) == ("0011aabb-11/0",)


def test_no_window_is_kept_longer_than_the_owner_wants_however_rare_labels_are(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk, days=16)
    for day in range(60):
        at_ms = NOW + day * DAY_MS
        keeper.keep([a_window(day, at_ms=at_ms)], at_ms)
        held = names(disk)
        assert held == tuple(f"0011aabb-{n}/0" for n in range(day + 1 - len(held), day + 1))
        assert min(15, day + 1) <= len(held) <= 17


def test_a_window_that_a_wrong_clock_dated_takes_no_other_with_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk)
    for number, at_ms in enumerate((NOW, 60_000, NOW + 1, NOW + 2)):
        keeper.keep([a_window(number, at_ms=at_ms)], at_ms)
    keeper.expire(NOW + 10)
    assert names(disk) == ("0011aabb-0/0", "0011aabb-2/0", "0011aabb-3/0")


def test_a_torn_tail_costs_nothing_that_was_promised(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    store(disk).keep([a_window(1)], NOW)
    with disk.path(segment_name(1)).open("ab") as file:
        file.write(b"\x00\x00\x01\x00torn")
    store(disk).keep([a_window(2)], NOW)
    assert names(disk) == ("0011aabb-1/0", "0011aabb-2/0")
    assert [s.whole for s in scan(disk).values()] == [False, True]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 600), new=st.binary(max_size=4), cut=st.booleans())
def test_a_spoiled_file_costs_windows_and_never_the_reader(
    tmp_path: Path, *, at: int, new: bytes, cut: bool
) -> None:
    disk = Disk(tmp_path)
    clear_away(disk)
    store(disk).keep([a_window(n) for n in range(4)], NOW)
    path = disk.path(segment_name(1))
    content = path.read_bytes()
    path.write_bytes(content[:at] + new + (b"" if cut else content[at + len(new) :]))
    try:
        held = names(disk)
        again = store(disk)
    except NewerStateError:
        assert at <= 3
        return
    assert held == tuple(f"0011aabb-{n}/0" for n in range(len(held)))
    again.keep([a_window(9)], NOW)
    assert names(disk) == (*held, "0011aabb-9/0")
    again.expire(NOW)
    assert all(segment.counts for segment in scan(disk).values())


def clear_away(disk: Disk) -> None:
    for name in disk.names(FOLDER):
        disk.remove(f"{FOLDER}/{name}")


def test_a_full_disk_is_said_and_what_comes_later_is_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk)
    keeper.keep([a_window(1)], NOW)
    disk.path(segment_name(1)).unlink()
    disk.path(segment_name(1)).mkdir()
    with pytest.raises(StoreError):
        keeper.keep([a_window(2)], NOW)
    disk.path(segment_name(1)).rmdir()
    keeper.keep([a_window(3)], NOW)
    assert names(disk) == ("0011aabb-3/0",)


def test_an_owner_clears_what_is_kept_while_the_agent_goes_on_keeping(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk)
    keeper.keep([a_window(1), a_window(2)], NOW)
    assert clear(Disk(tmp_path)) == 2
    assert names(disk) == ()
    keeper.expire(NOW)
    assert sum(keeper.counts("motion").values()) == 0
    keeper.keep([a_window(3)], NOW)
    assert names(disk) == ("0011aabb-3/0",)
    assert keeper.counts("motion") == {Split.TRAIN: 1, Split.DECIDE: 0, Split.WITHHELD: 0}


def test_there_is_nothing_to_clear_where_nothing_was_kept(tmp_path: Path) -> None:
    assert clear(Disk(tmp_path)) == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_newer_agent_kept_is_left_untouched(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    newer = kept.HEADER[:3] + bytes([kept.HEADER[3] + 1]) + b"of another kind"
    disk.append(segment_name(1), newer)
    for act in (lambda: store(disk), lambda: clear(disk)):
        with pytest.raises(NewerStateError, match=r"has version 2; this program knows 1"):
            act()
    assert disk.read(segment_name(1)) == newer


def test_version_1_of_the_store_is_read_for_ever(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path / FOLDER)
    windows, found = load_kept(Disk(tmp_path), "motion", classes=CLASSES, shape=SHAPE)
    assert found == ("0011aabb-1/0", "0011aabb-2/0")
    assert (windows.y.tolist(), windows.split.tolist()) == ([1, 2], [1, 2])
    np.testing.assert_array_equal(windows.x[1], np.full(SHAPE, 2, np.float32))


def live(disk: FaultyDisk, promised: list[str]) -> None:
    keeper = store(disk, quota_bytes=3000)
    for number in range(0, 24, 2):
        keeper.keep([a_window(number), a_window(number + 1)], NOW)
        promised += [f"0011aabb-{number}/0", f"0011aabb-{number + 1}/0"]


def test_a_power_cut_at_any_durable_operation_loses_no_kept_window(
    tmp_path: Path, record_property: Record
) -> None:
    healthy = FaultyDisk(tmp_path / "healthy")
    live(healthy, [])
    cuts = count_cuts(record_property, healthy.log)
    assert cuts > 12
    for good in range(cuts):
        root = tmp_path / str(good)
        root.mkdir()
        promised: list[str] = []
        with pytest.raises(PowerCutError):
            live(FaultyDisk(root, good), promised)
        held = [name for name in names(Disk(root)) if name in promised]
        assert held == promised[len(promised) - len(held) :], good
        gone = len(promised) - len(held)
        assert gone == 0 or len(held) >= 6, good
        again = store(Disk(root), quota_bytes=3000)
        again.keep([a_window(99)], NOW)
        assert names(Disk(root))[-1] == "0011aabb-99/0"
        assert sum(again.counts("motion").values()) == len(names(Disk(root)))


def test_windows_that_share_samples_never_stand_in_two_splits() -> None:
    span_ms, hop_ms = 2560, 1280
    before, last_ms = None, -span_ms
    seen: Counter[Split] = Counter()
    for at_ms in range(0, 400 * BLOCK_MS, hop_ms):
        split = split_of("motion", at_ms, span_ms)
        if split is not None:
            seen[split] += 1
            assert before in (None, split) or at_ms - span_ms >= last_ms, at_ms
            before, last_ms = split, at_ms
    total = seen.total()
    assert 0.5 < seen[Split.TRAIN] / total < 0.7
    assert min(seen[Split.DECIDE], seen[Split.WITHHELD]) / total > 0.12


def test_two_processes_never_change_the_store_at_once(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    keeper = store(disk)
    keeper.keep([a_window(1)], NOW)
    program = (
        "import sys; from pathlib import Path; from agent.disk import Disk;"
        "from agent.learn.keeping import clear;"
        "print('begun', flush=True); clear(Disk(Path(sys.argv[1]))); print('cleared', flush=True)"
    )
    with keeping.alone(disk):
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        assert names(disk) == ("0011aabb-1/0",)
    assert child.stdout.readline() == "cleared\n"
    assert child.wait(10) == 0
    child.stdout.close()
    assert names(disk) == ()
