import pytest

from agent.contract.envelope import Boot
from agent.contract.messages import Assigned
from fleet.errors import ConflictError, NotFoundError, RefusedError
from fleet.registry.devices import BootSeen, DeviceState, Signed
from fleet.registry.tokens import Approval
from tests.small_fleet import (
    BOOT,
    LATER,
    NOW,
    a_reported,
    add_device,
    an_inventory,
    device_id,
    new_registry,
)

D = device_id(0)
ONE = Assigned(target="models/motion/01.json", digest="01" * 32, counter=1)
TWO = Assigned(target="models/motion/02.json", digest="02" * 32, counter=2)
OTHER_LIFE = Boot(1, "ee" * 8)


def test_a_device_is_added_once_and_keeps_its_key(tmp_path):
    registry = new_registry(tmp_path, 1)
    before = registry.events.head()

    add_device(registry, 0, online=False)
    assert registry.events.head() == before
    with pytest.raises(ConflictError, match="another key"):
        registry.devices.add(
            D, key="ff" * 32, group="g", hardware="h", state=DeviceState.PENDING, at_ms=NOW
        )


def test_a_pending_device_is_approved_and_a_revoked_one_never_comes_back(tmp_path):
    devices = new_registry(tmp_path).devices
    devices.add(D, key="aa" * 32, group="g", hardware="h", state=DeviceState.PENDING, at_ms=NOW)

    assert devices.require(D).enrolled_ms is None
    assert devices.approve(D, at_ms=NOW + 1).enrolled_ms == NOW + 1
    assert devices.approve(D, at_ms=NOW + 2).enrolled_ms == NOW + 1
    assert [d.id for d in devices.listing(DeviceState.ENROLLED)] == [D]
    assert devices.revoke(D, at_ms=NOW).state is DeviceState.REVOKED
    with pytest.raises(ConflictError, match="revoked for good"):
        devices.approve(D, at_ms=NOW)
    for change in (devices.approve, devices.revoke):
        with pytest.raises(NotFoundError, match="no device d-nobody"):
            change("d-nobody", at_ms=NOW)


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        pytest.param((BOOT, 1, "online"), (BOOT, 1, "offline"), True, id="its own Will"),
        pytest.param((BOOT, 1, "online"), (BOOT, 2, "online"), True, id="a new connection"),
        pytest.param((BOOT, 2, "online"), (BOOT, 1, "offline"), False, id="an old Will"),
        pytest.param((BOOT, 1, "offline"), (BOOT, 1, "online"), False, id="a late birth"),
        pytest.param((BOOT, 1, "online"), (BOOT, 1, "online"), False, id="the same again"),
        pytest.param((BOOT, 9, "online"), (LATER, 1, "online"), True, id="a new boot"),
        pytest.param((LATER, 1, "online"), (BOOT, 9, "offline"), False, id="an old boot"),
        pytest.param((BOOT, 1, "online"), (OTHER_LIFE, 9, "offline"), False, id="a stranger's"),
        pytest.param((BOOT, 5, "offline"), (OTHER_LIFE, 1, "online"), True, id="state lost"),
    ],
)
def test_the_newest_presence_wins_in_any_order_of_arrival(tmp_path, first, second, taken):
    devices = new_registry(tmp_path, 0).devices
    devices.add(D, key="aa" * 32, group="g", hardware="h", state=DeviceState.ENROLLED, at_ms=NOW)
    assert devices.presence(D, *first, at_ms=NOW)

    assert devices.presence(D, *second, at_ms=NOW) is taken

    boot, epoch, s = second if taken else first
    device = devices.require(D)
    assert (device.presence_boot, device.presence_epoch, device.presence) == (boot, epoch, s)


def test_the_newest_state_wins_in_any_order_of_arrival(tmp_path):
    devices = new_registry(tmp_path, 1).devices

    assert devices.inventory(D, BOOT, an_inventory(7), at_ms=NOW)
    assert not devices.inventory(D, BOOT, an_inventory(7, arch="x"), at_ms=NOW)
    assert not devices.inventory(D, BOOT, an_inventory(6), at_ms=NOW)
    assert devices.inventory(D, LATER, an_inventory(1, arch="aarch64"), at_ms=NOW)
    assert not devices.inventory(D, BOOT, an_inventory(99), at_ms=NOW)
    assert devices.require(D).inventory.arch == "aarch64"
    assert devices.reported(D, BOOT, a_reported(3), at_ms=NOW)
    assert not devices.reported(D, BOOT, a_reported(2), at_ms=NOW)
    assert devices.reported(D, LATER, a_reported(1), at_ms=NOW)
    assert devices.require(D).reported.rev == 1
    assert not devices.inventory("d-nobody", BOOT, an_inventory(), at_ms=NOW)


def test_last_seen_is_the_last_word_even_when_the_clock_was_put_back(tmp_path):
    devices = new_registry(tmp_path, 1).devices

    devices.saw(D, NOW + 5)
    assert devices.last_seen() == {D: NOW + 5}
    devices.saw(D, NOW)

    assert devices.require(D).last_seen_ms == NOW
    assert devices.last_seen() == {D: NOW}


def test_a_boot_counter_that_does_not_grow_looks_like_a_clone_and_stays_so(tmp_path):
    registry = new_registry(tmp_path, 1)
    seen = [
        registry.devices.boot_seen(D, boot, at_ms=NOW)
        for boot in (BOOT, BOOT, LATER, OTHER_LIFE, BOOT, OTHER_LIFE)
    ]

    ok, bad = BootSeen.OK, BootSeen.REGRESSED
    assert seen == [ok, ok, ok, bad, ok, bad]
    (clone,) = registry.events.read(kinds=("device.boot_regressed",))
    assert clone.body == {"boot": str(OTHER_LIFE)}


def signed(sequence, slots, epoch=1, expires_ms=NOW + 1000):
    return Signed(
        director_epoch=epoch,
        sequence=sequence,
        payload=f"{epoch}.{sequence}".encode(),
        slots=slots,
        expires_ms=expires_ms,
    )


def test_a_device_is_unsigned_while_its_desired_state_is_not_the_signed_one(tmp_path):
    devices = new_registry(tmp_path, 2).devices
    assert devices.unsigned() == []

    assert devices.want(D, "motion", ONE, at_ms=NOW)
    assert not devices.want(D, "motion", ONE, at_ms=NOW)
    assert devices.unsigned() == [D]
    devices.keep_assignment(D, signed(1, {"motion": ONE}), at_ms=NOW)
    assert devices.unsigned() == []
    devices.want(D, "motion", TWO, at_ms=NOW)
    assert devices.unsigned() == [D]
    devices.want(D, "motion", ONE, at_ms=NOW)
    assert devices.unsigned() == []
    assert devices.want(D, "motion", None, at_ms=NOW)
    assert devices.unsigned() == [D]
    assert devices.desired(D) == {}
    devices.revoke(D, at_ms=NOW)
    assert devices.unsigned() == []
    with pytest.raises(NotFoundError):
        devices.want("d-nobody", "motion", ONE, at_ms=NOW)


def test_signed_assignments_only_grow_and_expire(tmp_path):
    devices = new_registry(tmp_path, 2).devices
    devices.keep_assignment(D, signed(5, {"motion": ONE}), at_ms=NOW)

    for old in (signed(5, {}), signed(4, {}), signed(9, {}, epoch=0)):
        with pytest.raises(ConflictError, match="not above"):
            devices.keep_assignment(D, old, at_ms=NOW)
    devices.keep_assignment(D, signed(1, {"motion": TWO}, epoch=2), at_ms=NOW)

    kept = devices.assignment(D)
    assert kept == signed(1, {"motion": TWO}, epoch=2)
    assert devices.expiring(NOW + 1000) == []
    assert devices.expiring(NOW + 1001) == [D]
    assert devices.assignment(device_id(1)) is None


def test_quarantine_is_lifted_with_none(tmp_path):
    devices = new_registry(tmp_path, 1).devices

    devices.quarantine(D, "a clone", at_ms=NOW)
    assert devices.require(D).quarantined_why == "a clone"
    devices.quarantine(D, None, at_ms=NOW)
    assert devices.require(D).quarantined_why is None


def test_a_token_is_good_for_so_many_devices_until_it_expires(tmp_path):
    tokens = new_registry(tmp_path).tokens
    key = "ab" * 32
    made = tokens.add(
        key, group="demo", uses=2, expires_ms=NOW + 100, approval=Approval.AUTO, at_ms=NOW
    )

    assert tokens.find(key) == made
    assert tokens.use(key, "d-1", at_ms=NOW)
    assert tokens.use(key, "d-1", at_ms=NOW), "a lost reply costs nothing"
    assert not tokens.use(key, "d-2", at_ms=NOW + 100), "expired"
    assert tokens.use(key, "d-2", at_ms=NOW + 99)
    assert not tokens.use(key, "d-3", at_ms=NOW), "used up"
    assert tokens.use(key, "d-1", at_ms=NOW + 500)
    assert not tokens.use("cd" * 32, "d-1", at_ms=NOW), "unknown"
    assert tokens.find(key).used_by == ("d-1", "d-2")
    with pytest.raises(ConflictError, match="exists already"):
        tokens.add(key, group="x", uses=1, expires_ms=NOW + 9, approval=Approval.AUTO, at_ms=NOW)
    for uses, expires_ms in ((0, NOW + 1), (1, NOW)):
        with pytest.raises(RefusedError, match="at least one use"):
            tokens.add(
                "ef" * 32,
                group="x",
                uses=uses,
                expires_ms=expires_ms,
                approval=Approval.MANUAL,
                at_ms=NOW,
            )
