"""Rows 13 to 16 and 21 to 23: what a stolen manager, a replaying broker, a wrong clock and a
power cut can do to what a device believes and to what a fleet records.
"""

import msgspec
import pytest
from nacl.signing import SigningKey

from agent.contract.authority import PERMITS_TARGET, Authority, Permit, Permits
from agent.contract.belief import (
    Accepted,
    believe_ack,
    believe_assignment,
    believe_fresh,
    believe_permits,
    believe_release,
    is_permitted,
)
from agent.contract.codec import encode
from agent.contract.envelope import (
    Boot,
    Stamp,
    check_report,
    device_id,
    sign_document,
    stamp_report,
)
from agent.contract.manifest import encode_release
from agent.contract.messages import Ack, Fresh, Presence
from agent.contract.telemetry import Telemetry
from agent.contract.topics import ACK, ASSIGNMENT, EVENT, FRESH, INVENTORY, PRESENCE, TELEMETRY
from agent.disk import Disk
from agent.errors import (
    CorruptError,
    ExpiredError,
    MalformedError,
    MismatchError,
    RollbackError,
    UnsignedError,
)
from agent.identity.clock import BUILD_MS, TrustedClock
from agent.update import trust
from agent.update.refresh import refresh
from fleet.service import membership
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.manager_home import join, make_desk
from tests.signed_fleet import (
    NOW_MS,
    SignedFleet,
    advance,
    assign,
    make_assignment,
    make_release,
    pinned,
)
from tests.small_fleet import a_window

DIRECTOR, STRANGER = SigningKey(b"d" * 32), SigningKey(b"s" * 32)
KEY = SigningKey(b"k" * 32)
DEVICE, OTHER = device_id(KEY.verify_key), device_id(STRANGER.verify_key)
AUTHORITY = Authority(
    fleet="demo",
    director_epoch=1,
    director_keys=(bytes(DIRECTOR.verify_key).hex(),),
    enrolment_keys=("0" * 64,),
)
BOOT = Boot(3, "00112233445566ff")
NONCE = "ab" * 16
DAY_MS = 86_400_000


def signed(by=DIRECTOR, topic=ASSIGNMENT, at=DEVICE, **changes) -> bytes:
    said = msgspec.structs.replace(make_assignment(DEVICE, 5), **changes)
    return sign_document(by, topic.at(at).logical, said)


def judge(payload, accepted=None, now_ms=NOW_MS, device=DEVICE, fleet="demo"):
    return believe_assignment(
        payload,
        authority=AUTHORITY,
        fleet=fleet,
        device=device,
        accepted=accepted,
        now_ms=now_ms,
    )


ACCEPTED = judge(signed()).accepted


# 13: a stolen manager chooses badly


def judge_release(
    release, *, slot="motion", hardware="generic-linux", running=None, floor=0, permitted=False
):
    return believe_release(
        encode_release(release)[0],
        assign(release),
        slot=slot,
        hardware=hardware,
        running=running,
        running_digest=None if running is None else assign(running).digest,
        floor=floor,
        permitted=permitted,
    )


PLAIN = make_release(5)
PI_ONLY = make_release(
    6, variants=(msgspec.structs.replace(PLAIN.variants[0], hardware=("raspberry-pi-5",)),)
)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        pytest.param({"release": make_release(4), "floor": 5}, RollbackError, id="an older one"),
        pytest.param({"release": PI_ONLY}, MismatchError, id="for other hardware"),
        pytest.param({"release": PLAIN, "slot": "sound"}, MismatchError, id="for another slot"),
    ],
)
def test_attack_13_a_stolen_manager_assigns_the_wrong_release(call, reason):
    assert judge_release(PLAIN, floor=5) == PLAIN
    with pytest.raises(reason):
        judge_release(**call)


def test_attack_13_a_stolen_manager_assigns_an_unsigned_release(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    fleet.publish_release(PLAIN)
    evil = make_release(6)
    files = {**fleet.repository.bundle(0, [PLAIN.target]), evil.target: encode_release(evil)[0]}
    swapped = {**files, PLAIN.target: files[evil.target]}
    news = advance(pinned(fleet), files, (PLAIN.target, evil.target))
    assert news.refused[evil.target].code == "unpublished"
    assert set(news.targets) == {PLAIN.target}
    assert (
        advance(pinned(fleet), swapped, (PLAIN.target,)).refused[PLAIN.target].code
        == "target-corrupt"
    )
    with pytest.raises(CorruptError):
        believe_release(
            encode_release(evil)[0],
            assign(PLAIN),
            slot="motion",
            hardware="generic-linux",
            running=None,
            running_digest=None,
            floor=0,
        )


# 14: the way back


def test_attack_14_an_older_release_is_taken_where_the_running_one_permits_it():
    old, other = make_release(2), make_release(3)
    running = make_release(5, rollback_to=(assign(old).digest,))
    assert judge_release(old, running=running, floor=5) == old
    with pytest.raises(RollbackError):
        judge_release(other, running=running, floor=5)
    with pytest.raises(RollbackError):
        judge_release(old, running=make_release(5), floor=5)


def test_attack_14_an_older_release_is_taken_with_a_permit_of_the_offline_keys_only(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    old = make_release(2)
    digest = assign(old).digest
    permit = Permit(release=digest, slot="motion", devices=(DEVICE,), expires_ms=NOW_MS + DAY_MS)
    state = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    forged = encode(Permits(fleet="demo", permits=(permit,)))
    files = {**fleet.repository.bundle(1, ()), PERMITS_TARGET: forged}
    assert advance(state, files).state.permits is None
    fleet.publish({PERMITS_TARGET: forged})
    state = advance(state, fleet.repository.bundle(1, ())).state
    wider = encode(Permits(fleet="demo", permits=(msgspec.structs.replace(permit, devices=()),)))
    tampered = {**fleet.repository.bundle(0, ()), PERMITS_TARGET: wider}
    assert advance(pinned(fleet), tampered).state.permits is None
    permits = believe_permits(state.permits, fleet="demo")
    good = {"device": DEVICE, "slot": "motion", "digest": digest, "now_ms": NOW_MS}
    assert is_permitted(permits, **good)
    assert judge_release(old, floor=5, permitted=True) == old
    for other in (
        {"device": OTHER},
        {"slot": "sound"},
        {"digest": assign(make_release(3)).digest},
        {"now_ms": NOW_MS + DAY_MS},
    ):
        assert not is_permitted(permits, **{**good, **other})
    assert not is_permitted(believe_permits(state.permits, fleet="other"), **good)
    with pytest.raises(RollbackError):
        judge_release(old, floor=5, permitted=False)
    with pytest.raises(MismatchError):
        judge_release(old, floor=5, slot="sound", permitted=True)


# 15: assignments


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(signed(by=STRANGER, sequence=6), UnsignedError, id="forged"),
        pytest.param(signed(at=OTHER, sequence=6), UnsignedError, id="another device's"),
        pytest.param(signed(topic=FRESH, sequence=6), UnsignedError, id="another channel's"),
        pytest.param(signed(device=OTHER, sequence=6), MismatchError, id="of another device"),
        pytest.param(signed(fleet="other", sequence=6), MismatchError, id="of another fleet"),
        pytest.param(signed(sequence=4), RollbackError, id="replayed"),
        pytest.param(signed(issued_ms=1), RollbackError, id="the same number, other bytes"),
        pytest.param(signed(director_epoch=0, sequence=9), RollbackError, id="of an older epoch"),
        pytest.param(signed(director_epoch=2, sequence=9), MismatchError, id="of no known epoch"),
        pytest.param(signed(expires_ms=NOW_MS, sequence=6), ExpiredError, id="stale"),
    ],
)
def test_attack_15_an_assignment_that_is_not_for_us_now(payload, reason):
    with pytest.raises(reason):
        judge(payload, ACCEPTED)


def test_attack_15_a_stolen_directors_last_number_is_overtaken_by_a_new_epoch():
    stolen = Accepted(director_epoch=1, sequence=2**53, digest="0" * 64)
    newer = msgspec.structs.replace(AUTHORITY, director_epoch=2)
    believed = believe_assignment(
        signed(director_epoch=2, sequence=1),
        authority=newer,
        fleet="demo",
        device=DEVICE,
        accepted=stolen,
        now_ms=NOW_MS,
    )
    assert believed.accepted.order == (2, 1)


# 16: envelopes


def test_attack_16_a_report_on_another_topic_of_another_number_or_with_a_flipped_bit():
    topic, payload = EVENT.at(DEVICE, "alarm").logical, b'{"v":1}'
    good = stamp_report(KEY, topic, BOOT, 7, payload)
    check_report(KEY.verify_key, topic, good, payload)
    for key, where, stamp, said in (
        (STRANGER, topic, good, payload),
        (KEY, EVENT.at(DEVICE, "gap").logical, good, payload),
        (KEY, EVENT.at(OTHER, "alarm").logical, good, payload),
        (KEY, topic, Stamp(boot=BOOT, sequence=8, signature=good.signature), payload),
        (KEY, topic, Stamp(boot=Boot(4, BOOT.salt), sequence=7, signature=good.signature), payload),
        (KEY, topic, good, b'{"v":0}'),
        (KEY, topic, good, payload + b" "),
    ):
        with pytest.raises(UnsignedError):
            check_report(key.verify_key, where, stamp, said)
    with pytest.raises(UnsignedError, match="stripped"):
        Stamp.read(good.properties()[:2])


def test_attack_16_no_bit_of_a_document_may_flip():
    document = bytearray(signed(sequence=6))
    at = document.index(b"sequence")
    for bit in range(8 * 8):
        document[at + bit // 8] ^= 1 << bit % 8
        with pytest.raises((UnsignedError, MalformedError)):
            judge(bytes(document), ACCEPTED)
        document[at + bit // 8] ^= 1 << bit % 8
    assert judge(bytes(document), ACCEPTED).assignment.sequence == 6


def test_attack_16_a_replayed_report_is_counted_once(tmp_path):
    desk = make_desk(tmp_path)
    device = join(desk)
    address = TELEMETRY.at(device.id, "windows")
    body = Telemetry(ts=1, up=1, windows=(a_window(1),))
    message = device.says(desk, address, body, sequence=1)
    device.deliver(desk, message, message, message)
    view = membership.device(desk, device.id)
    assert (view.reports_accepted, view.reports_duplicates_ignored) == (1, 3)
    desk.registry.close()


def test_attack_16_a_will_of_an_earlier_connection_takes_nobody_offline(tmp_path):
    desk = make_desk(tmp_path)
    device = join(desk)
    address = PRESENCE.at(device.id)

    def says(word: str, epoch: int, sequence: int):
        body = Presence(s=word, boot=str(device.boot), epoch=epoch)
        return device.says(desk, address, body, sequence=2**40 + sequence)

    will = says("offline", 1, 0)
    says("online", 2, 1)
    device.deliver(desk, will)
    assert membership.device(desk, device.id).presence == "online"
    foreign = type(will)(
        topic=desk.topics.write(INVENTORY.at(device.id)),
        payload=will.payload,
        properties=will.properties,
    )
    device.deliver(desk, foreign)
    assert desk.registry.devices.require(device.id).inventory is None
    desk.registry.close()


def test_attack_16_acknowledgements_of_others_erase_no_outbox():
    said = Ack(device=DEVICE, boot=str(BOOT), sequence=9)
    good = sign_document(DIRECTOR, ACK.at(DEVICE).logical, said)
    assert believe_ack(good, authority=AUTHORITY, device=DEVICE) == said
    other = msgspec.structs.replace(said, device=OTHER)
    for bad, reason in (
        (sign_document(STRANGER, ACK.at(DEVICE).logical, said), UnsignedError),
        (sign_document(DIRECTOR, ACK.at(OTHER).logical, said), UnsignedError),
        (sign_document(DIRECTOR, ACK.at(DEVICE).logical, other), MismatchError),
    ):
        with pytest.raises(reason):
            believe_ack(bad, authority=AUTHORITY, device=DEVICE)


# 21: what a broker retained from before


def test_attack_21_a_retained_assignment_of_a_former_life():
    old = signed(sequence=900)
    reborn = device_id(SigningKey(b"r" * 32).verify_key)
    with pytest.raises(UnsignedError):
        judge(old, device=reborn)
    with pytest.raises(MismatchError):
        judge(old, fleet="other")
    with pytest.raises(ExpiredError):
        judge(old, now_ms=NOW_MS + 8 * DAY_MS)


# 22: wrong clocks


def at(disk: Disk, wall_ms: int) -> TrustedClock:
    return TrustedClock(disk, lambda: 50.0, lambda: wall_ms / 1000)


def fresh(clock: TrustedClock, now_ms: int, root_expires_ms: int) -> None:
    nonce = clock.new_nonce()
    said = Fresh(
        device=DEVICE, nonce=nonce, director_epoch=1, sequence=1, digest=None, now_ms=now_ms
    )
    payload = sign_document(DIRECTOR, FRESH.at(DEVICE).logical, said)
    believed = believe_fresh(payload, authority=AUTHORITY, device=DEVICE, nonce=nonce)
    clock.believe(believed, nonce, root_expires_ms=root_expires_ms)


@pytest.mark.parametrize("wall_ms", [0, 4_070_908_800_000], ids=["1970", "2099"])
def test_attack_22_a_wrong_clock_neither_expires_nor_revives_anything(tmp_path, wall_ms):
    fleet = SignedFleet(tmp_path / "fleet")
    disk, state = Disk(tmp_path), pinned(fleet)
    files = fleet.repository.bundle(0, ())
    clock = at(disk, wall_ms)
    assert (clock.now_ms() >= BUILD_MS, clock.trusted_ms()) == (True, None)
    fresh(clock, NOW_MS, state.root_expires_ms)
    job = trust.RefreshJob(state=state, files=files, now_ms=clock.now_ms())
    assert isinstance(refresh(job), trust.Refreshed)
    fresh(clock, NOW_MS + 30 * DAY_MS, state.root_expires_ms)
    reborn = at(disk, 0).now_ms()
    assert reborn == NOW_MS + 30 * DAY_MS
    late = refresh(msgspec.structs.replace(job, now_ms=reborn))
    assert isinstance(late, trust.NotRefreshed)
    assert late.refusal.code == "metadata-expired"
    with pytest.raises(ExpiredError):
        judge(signed(), now_ms=reborn)


def test_attack_22_no_manager_pushes_the_floor_past_the_root(tmp_path):
    clock = at(Disk(tmp_path), 0)
    fresh(clock, 4_070_908_800_000, NOW_MS)
    assert at(Disk(tmp_path), 0).now_ms() == NOW_MS


def test_attack_22_signed_time_is_believed_once_and_soon(tmp_path):
    now = [0.0]
    clock = TrustedClock(Disk(tmp_path), lambda: now[0], lambda: 0.0)
    nonce = clock.new_nonce()
    said = Fresh(
        device=DEVICE, nonce=nonce, director_epoch=1, sequence=1, digest=None, now_ms=NOW_MS
    )
    clock.believe(said, nonce, root_expires_ms=NOW_MS)
    with pytest.raises(RollbackError):
        clock.believe(said, nonce, root_expires_ms=NOW_MS)
    late = clock.new_nonce()
    now[0] = 61.0
    with pytest.raises(ExpiredError):
        clock.believe(msgspec.structs.replace(said, nonce=late), late, root_expires_ms=NOW_MS)


# 23: power cuts at trust; the whole life of an update is in tests/agent/test_power_cut.py


def test_attack_23_a_power_cut_at_every_operation_leaves_old_trust_or_new(tmp_path):
    fleet = SignedFleet(tmp_path / "fleet")
    old = advance(pinned(fleet), fleet.repository.bundle(0, ())).state
    fleet.publish_release(PLAIN)
    new = advance(old, fleet.repository.bundle(1, ())).state
    healthy = FaultyDisk(tmp_path / "healthy")
    trust.save(healthy, old)
    begun = healthy.used
    trust.save(healthy, new)
    assert healthy.used > begun
    seen = set()
    for good in range(begun, healthy.used):
        disk = FaultyDisk(tmp_path / f"cut-{good}", good)
        trust.save(disk, old)
        with pytest.raises(PowerCutError):
            trust.save(disk, new)
        found = trust.load(Disk(tmp_path / f"cut-{good}"))
        assert found in (old, new)
        seen.add(encode(found))
    assert encode(old) in seen
