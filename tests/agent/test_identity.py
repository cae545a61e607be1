"""The key that never leaves, the life that is counted, and the time that is believed."""

import stat
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from agent.contract.messages import Fresh
from agent.disk import Disk
from agent.errors import (
    DiskFullError,
    ExpiredError,
    NewerStateError,
    RollbackError,
    StoreError,
)
from agent.identity.clock import BUILD_MS, CLOCK, NONCE_SECONDS, TrustedClock
from agent.identity.device_key import (
    BOOT,
    IDENTITY,
    begin_life,
    find_key,
    load_or_create,
    next_boot,
)
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.signed_fleet import NOW_MS

FAR_MS = 4_000_000_000_000
EXPIRES_MS = NOW_MS + 365 * 86_400_000


class Hands:
    """The two clocks of a machine, moved by the test."""

    def __init__(self, wall_ms: int = NOW_MS) -> None:
        self.wall_ms = wall_ms
        self.elapsed = 5.0

    def clock(self, disk: Disk) -> TrustedClock:
        return TrustedClock(disk, lambda: self.elapsed, lambda: self.wall_ms / 1000)


def fresh(nonce: str, now_ms: int = NOW_MS) -> Fresh:
    return Fresh(
        device="d-1", nonce=nonce, director_epoch=1, sequence=1, digest=None, now_ms=now_ms
    )


def tell(clock: TrustedClock, now_ms: int, root_expires_ms: int = EXPIRES_MS) -> None:
    nonce = clock.new_nonce()
    clock.believe(fresh(nonce, now_ms), nonce, root_expires_ms=root_expires_ms)


def test_a_device_makes_its_key_once_and_keeps_it_private(tmp_path):
    disk = Disk(tmp_path / "state")
    assert find_key(disk) is None
    key = load_or_create(disk)
    assert load_or_create(disk).device == key.device
    assert key.device.startswith("d-")
    assert len(key.device) == 18
    assert stat.S_IMODE(disk.path(IDENTITY).stat().st_mode) == 0o600
    assert stat.S_IMODE(disk.root.stat().st_mode) == 0o700
    assert load_or_create(Disk(tmp_path / "other")).device != key.device


def test_an_identity_that_contradicts_its_key_is_refused(tmp_path):
    disk = Disk(tmp_path)
    load_or_create(disk)
    broken = msgspec.json.decode(disk.read(IDENTITY) or b"")
    disk.replace(IDENTITY, msgspec.json.encode({**broken, "device": "d-aaaaaaaaaaaaaaaa"}))
    with pytest.raises(StoreError, match="its key is of"):
        find_key(disk)


@pytest.mark.parametrize("broken", [b"", b"{}", b"nonsense", b'{"v":1,"seed":"00","device":"d"}'])
def test_an_emptied_identity_is_an_error_and_never_a_new_device(tmp_path, broken):
    disk = Disk(tmp_path)
    disk.replace(IDENTITY, broken)
    with pytest.raises(StoreError, match=r"identity\.json"):
        load_or_create(disk)
    assert disk.read(IDENTITY) == broken


@pytest.mark.parametrize("name", [IDENTITY, BOOT, CLOCK])
def test_newer_state_is_left_untouched(tmp_path, name):
    disk = Disk(tmp_path)
    content = b'{"v":2,"new":"shape"}'
    disk.replace(name, content)
    read = {
        IDENTITY: lambda: load_or_create(disk),
        BOOT: lambda: next_boot(disk),
        CLOCK: lambda: Hands().clock(disk),
    }
    with pytest.raises(NewerStateError, match="version 2"):
        read[name]()
    assert disk.read(name) == content


def test_every_life_has_a_number_of_its_own_even_across_power_cuts(tmp_path):
    seen = set()
    for good in range(8):
        with suppress(PowerCutError):
            seen.add(next_boot(FaultyDisk(tmp_path, good)).counter)
        boot = next_boot(Disk(tmp_path))
        assert boot.counter not in seen
        assert all(boot.counter > old for old in seen)
        seen.add(boot.counter)


def test_two_lives_of_a_cloned_card_differ_in_their_salt(tmp_path):
    one, two = next_boot(Disk(tmp_path / "a")), next_boot(Disk(tmp_path / "b"))
    assert one.counter == two.counter
    assert one.salt != two.salt


def test_a_device_that_boots_in_1970_starts_at_the_build_and_then_believes_signed_time(tmp_path):
    hands = Hands(wall_ms=0)
    clock = hands.clock(Disk(tmp_path))
    assert (clock.now_ms(), clock.trusted_ms()) == (BUILD_MS, None)
    tell(clock, NOW_MS)
    hands.elapsed += 90
    assert clock.now_ms() == clock.trusted_ms() == NOW_MS + 90_000
    hands.wall_ms = FAR_MS
    assert clock.now_ms() == NOW_MS + 90_000


def test_a_device_that_boots_in_2099_recovers_and_never_persists_its_own_clock(tmp_path):
    disk = Disk(tmp_path)
    clock = Hands(wall_ms=FAR_MS).clock(disk)
    assert clock.now_ms() == FAR_MS
    assert disk.read(CLOCK) is None
    tell(clock, NOW_MS)
    assert clock.now_ms() == NOW_MS
    again = Hands(wall_ms=0).clock(disk)
    assert again.now_ms() == again.floor_ms == NOW_MS


def test_the_floor_only_rises_and_never_past_the_expiry_of_the_root(tmp_path):
    disk = Disk(tmp_path)
    clock = Hands().clock(disk)
    tell(clock, FAR_MS)
    assert Hands(wall_ms=0).clock(disk).floor_ms == EXPIRES_MS
    tell(clock, NOW_MS)
    assert clock.now_ms() == NOW_MS
    assert Hands(wall_ms=0).clock(disk).floor_ms == EXPIRES_MS


def test_a_nonce_is_believed_once_and_for_a_minute(tmp_path):
    hands = Hands()
    clock = hands.clock(Disk(tmp_path))
    nonce = clock.new_nonce()
    clock.believe(fresh(nonce), nonce, root_expires_ms=EXPIRES_MS)
    with pytest.raises(RollbackError):
        clock.believe(fresh(nonce, FAR_MS), nonce, root_expires_ms=EXPIRES_MS)
    with pytest.raises(RollbackError):
        clock.believe(fresh("00" * 16), "00" * 16, root_expires_ms=EXPIRES_MS)
    late = clock.new_nonce()
    hands.elapsed += NONCE_SECONDS + 1
    with pytest.raises(ExpiredError):
        clock.believe(fresh(late, FAR_MS), late, root_expires_ms=EXPIRES_MS)
    assert clock.now_ms() < FAR_MS


def test_open_nonces_are_bounded(tmp_path):
    clock = Hands().clock(Disk(tmp_path))
    first = clock.new_nonce()
    for _ in range(100):
        last = clock.new_nonce()
    with pytest.raises(RollbackError):
        clock.believe(fresh(first), first, root_expires_ms=EXPIRES_MS)
    clock.believe(fresh(last), last, root_expires_ms=EXPIRES_MS)


def test_the_floor_is_not_written_with_every_answer(tmp_path):
    disk = FaultyDisk(tmp_path)
    clock = Hands().clock(disk)
    for minute in range(20):
        tell(clock, NOW_MS + minute * 60_000)
    assert disk.used == 4  # two floors, each a write and a rename


def test_state_of_version_1_loads_for_ever(tmp_path):
    fixtures = Path(__file__).parents[1] / "fixtures"
    disk = Disk(tmp_path)
    for name in (IDENTITY, BOOT, CLOCK):
        frozen = fixtures / name.replace(".json", "-v1.json")
        disk.replace(name, frozen.read_bytes())
    key = find_key(disk)
    assert key is not None
    assert key.device == "d-j2in4obwr3baji2j"
    assert next_boot(disk).counter == 42
    assert Hands(wall_ms=0).clock(disk).floor_ms == 1_772_366_400_000


def test_a_life_that_a_full_disk_does_not_count_is_counted_later_once(tmp_path):
    class FullDisk(Disk):
        full = True

        def write(self, name: str, content: bytes) -> None:
            if self.full:
                raise DiskFullError(f"no space left to write {name}")
            super().write(name, content)

    disk = FullDisk(tmp_path)
    life = begin_life(disk)
    with pytest.raises(DiskFullError):
        life.count()
    assert begin_life(Disk(tmp_path)).boot.counter == life.boot.counter
    disk.full = False
    life.count()
    life.count()
    assert begin_life(Disk(tmp_path)).boot.counter == life.boot.counter + 1
