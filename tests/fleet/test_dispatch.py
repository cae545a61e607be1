from pathlib import Path

import msgspec

from agent.contract.messages import Assignment
from fleet.ingest import dispatch
from fleet.registry.sqlite import Registry
from tests.releases import Published
from tests.signed_fleet import NOW_MS
from tests.small_fleet import BOOT, LATER, a_reported, device_id, new_registry

LIFE_MS = 7 * 86_400_000
DEVICE = device_id(0)
WISH = Published(1).assigned


def sign(assignment: Assignment) -> bytes:
    return msgspec.json.encode(assignment)


def sign_next(registry: Registry, epoch: int = 1, now_ms: int = NOW_MS):
    return dispatch.sign_next(
        registry,
        registry.devices.require(DEVICE),
        fleet="demo",
        epoch=epoch,
        now_ms=now_ms,
        lifetime_ms=LIFE_MS,
        sign=sign,
    )


def due(registry: Registry, now_ms: int = NOW_MS, epoch: int = 1) -> list[str]:
    return dispatch.due(registry, epoch=epoch, now_ms=now_ms, lifetime_ms=LIFE_MS)


def test_a_changed_wish_is_signed_once(tmp_path: Path):
    registry = new_registry(tmp_path, 1)
    registry.devices.want(DEVICE, "motion", WISH, at_ms=NOW_MS)
    assert due(registry) == [DEVICE]
    assert sign_next(registry).slots == {"motion": WISH}
    assert due(registry) == []


def test_an_assignment_is_signed_again_when_half_of_its_life_is_over(tmp_path: Path):
    registry = new_registry(tmp_path, 1)
    registry.devices.want(DEVICE, "motion", WISH, at_ms=NOW_MS)
    sign_next(registry)
    assert due(registry, NOW_MS + LIFE_MS // 2 - 1) == []
    assert due(registry, NOW_MS + LIFE_MS // 2 + 1) == [DEVICE]


def test_an_assignment_of_another_director_epoch_is_signed_again(tmp_path: Path):
    registry = new_registry(tmp_path, 1)
    registry.devices.want(DEVICE, "motion", WISH, at_ms=NOW_MS)
    sign_next(registry)
    assert due(registry, epoch=2) == [DEVICE]
    sign_next(registry, epoch=2)
    assert due(registry, epoch=2) == []


def test_after_a_restore_the_order_continues_above_what_the_device_reports(tmp_path: Path):
    registry = new_registry(tmp_path, 1)
    registry.devices.want(DEVICE, "motion", WISH, at_ms=NOW_MS)
    reported = msgspec.structs.replace(a_reported(), director_epoch=1, sequence=41)
    registry.devices.reported(DEVICE, LATER, reported, at_ms=NOW_MS)
    assert sign_next(registry).sequence == 42


def test_a_new_director_epoch_begins_again_at_one(tmp_path: Path):
    registry = new_registry(tmp_path, 1)
    registry.devices.want(DEVICE, "motion", WISH, at_ms=NOW_MS)
    reported = msgspec.structs.replace(a_reported(), director_epoch=1, sequence=2**53)
    registry.devices.reported(DEVICE, BOOT, reported, at_ms=NOW_MS)
    signed = sign_next(registry, epoch=2)
    assert (signed.director_epoch, signed.sequence) == (2, 1)


def test_the_order_begins_anew_in_a_new_epoch_whatever_was_reported_of_the_old_one(tmp_path: Path):
    registry = new_registry(tmp_path, 1)
    registry.devices.want(DEVICE, "motion", WISH, at_ms=NOW_MS)
    reported = msgspec.structs.replace(a_reported(), director_epoch=1, sequence=41)
    registry.devices.reported(DEVICE, LATER, reported, at_ms=NOW_MS)
    assert [sign_next(registry).sequence for _ in range(2)] == [42, 43]
    assert [sign_next(registry, epoch=2).sequence for _ in range(2)] == [1, 2]
