"""What a device believes, as a table that a reviewer can read aloud."""

import msgspec
import pytest
from nacl.signing import SigningKey

from agent.contract.authority import Authority, Permit, Permits
from agent.contract.belief import (
    Accepted,
    believe_ack,
    believe_assignment,
    believe_fresh,
    believe_permits,
    believe_release,
    believe_task,
    is_permitted,
)
from agent.contract.codec import encode
from agent.contract.envelope import device_id, sign_document
from agent.contract.frames import pack_parcel
from agent.contract.manifest import encode_release
from agent.contract.messages import Ack, Assignment, Fresh
from agent.contract.rounds import Task
from agent.contract.topics import ACK, ASSIGNMENT, FRESH, ROUND_OFFER
from agent.errors import (
    CorruptError,
    ExpiredError,
    MalformedError,
    MismatchError,
    RollbackError,
    UnsignedError,
)
from tests.signed_fleet import NOW_MS, assign, device_key, make_assignment, make_release

DIRECTOR = SigningKey(b"d" * 32)
STRANGER = SigningKey(b"s" * 32)
DEVICE = device_id(device_key().verify_key)
OTHER = device_id(STRANGER.verify_key)
AUTHORITY = Authority(
    fleet="demo",
    director_epoch=1,
    director_keys=(bytes(DIRECTOR.verify_key).hex(),),
    enrolment_keys=("0" * 64,),
)
BOOT = "3-00112233445566ff"
NONCE = "ab" * 16


def signed(by: SigningKey = DIRECTOR, topic: str | None = None, **changes: object) -> bytes:
    said = msgspec.structs.replace(make_assignment(DEVICE, 5), **changes)
    return sign_document(by, topic or ASSIGNMENT.at(DEVICE).logical, said)


def judge(payload: bytes, accepted: Accepted | None = None, now_ms: int | None = NOW_MS):
    return believe_assignment(
        payload, authority=AUTHORITY, fleet="demo", device=DEVICE, accepted=accepted, now_ms=now_ms
    )


ACCEPTED = judge(signed()).accepted


def test_a_good_assignment_is_news_once_and_then_a_repetition():
    first = judge(signed())
    assert (first.repeated, first.assignment.sequence) == (False, 5)
    assert judge(signed(), first.accepted).repeated
    assert not judge(signed(sequence=6), first.accepted).repeated


def test_an_epoch_of_the_offline_roles_overtakes_a_stolen_directors_last_number():
    stolen = Accepted(director_epoch=1, sequence=2**53, digest="0" * 64)
    newer = msgspec.structs.replace(AUTHORITY, director_epoch=2)
    said = signed(director_epoch=2, sequence=1)
    believed = believe_assignment(
        said, authority=newer, fleet="demo", device=DEVICE, accepted=stolen, now_ms=NOW_MS
    )
    assert believed.accepted.order == (2, 1)


def test_an_accepted_assignment_stays_the_wish_after_it_ran_out():
    late = NOW_MS + 8 * 86_400_000
    assert judge(signed(), ACCEPTED, late).repeated
    assert not judge(signed(), None, None).repeated


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(signed(by=STRANGER), UnsignedError, id="a stranger's key"),
        pytest.param(
            signed(topic=ASSIGNMENT.at(OTHER).logical), UnsignedError, id="another device's topic"
        ),
        pytest.param(signed(topic=FRESH.at(DEVICE).logical), UnsignedError, id="another channel"),
        pytest.param(
            signed().replace(b"sequence", b"sequencf"), UnsignedError, id="an altered body"
        ),
        pytest.param(signed(sequence=4), RollbackError, id="a replayed assignment"),
        pytest.param(
            signed(issued_ms=NOW_MS + 1), RollbackError, id="the same number with other bytes"
        ),
        pytest.param(signed(sequence=6, device=OTHER), MismatchError, id="another device's"),
        pytest.param(signed(sequence=6, fleet="other"), MismatchError, id="another fleet's"),
        pytest.param(signed(sequence=6, director_epoch=0), RollbackError, id="an older epoch"),
        pytest.param(signed(sequence=6, director_epoch=2), MismatchError, id="an unknown epoch"),
        pytest.param(signed(sequence=6, expires_ms=NOW_MS), ExpiredError, id="one that ran out"),
        pytest.param(b"", MalformedError, id="nothing"),
        pytest.param(b"{" * 70_000, MalformedError, id="an over-long one"),
    ],
)
def test_an_assignment_is_refused(payload, reason):
    with pytest.raises(reason):
        judge(payload, ACCEPTED)


RELEASE = make_release(5)
MANIFEST = encode_release(RELEASE)[0]
PI_ONLY = make_release(
    6, variants=(msgspec.structs.replace(RELEASE.variants[0], hardware=("raspberry-pi-5",)),)
)
OLD = make_release(2)
RUNNING = make_release(5, rollback_to=(assign(OLD).digest,))


def judge_release(
    release,
    slot="motion",
    running=None,
    floor=0,
    hardware="generic-linux",
    *,
    permitted=False,
    **wish,
):
    return believe_release(
        encode_release(release)[0],
        msgspec.structs.replace(assign(release), **wish),
        slot=slot,
        hardware=hardware,
        running=running,
        running_digest=None if running is None else assign(running).digest,
        floor=floor,
        permitted=permitted,
    )


def test_a_permit_is_for_one_release_slot_and_audience_until_it_expires():
    permit = Permit(
        release=assign(OLD).digest, slot="motion", devices=(DEVICE,), expires_ms=NOW_MS + 1
    )
    asked = {"device": DEVICE, "slot": "motion", "digest": assign(OLD).digest, "now_ms": NOW_MS}
    assert is_permitted((permit,), **asked)
    every = msgspec.structs.replace(permit, devices=())
    assert is_permitted((every,), **{**asked, "device": OTHER})
    for wrong in (
        {"device": OTHER},
        {"slot": "audio"},
        {"digest": assign(RELEASE).digest},
        {"now_ms": NOW_MS + 1},
    ):
        assert not is_permitted((permit,), **{**asked, **wrong})
    assert not is_permitted((), **asked)


def test_an_older_release_with_a_permit_is_taken_and_only_its_counter_is_forgiven():
    with pytest.raises(RollbackError):
        judge_release(OLD, floor=5)
    assert judge_release(OLD, floor=5, permitted=True) == OLD
    with pytest.raises(MismatchError):
        judge_release(OLD, floor=5, permitted=True, slot="audio")
    with pytest.raises(MismatchError):
        judge_release(PI_ONLY, floor=9, permitted=True)


def test_permits_that_cannot_be_read_permit_nothing():
    permit = Permit(release=assign(OLD).digest, slot="motion", expires_ms=NOW_MS)
    content = encode(Permits(fleet="demo", permits=(permit,)))
    assert believe_permits(content, fleet="demo") == (permit,)
    for wrong in (None, b"", b"{}", content.replace(b'"v":1', b'"v":2')):
        assert believe_permits(wrong, fleet="demo") == ()
    assert believe_permits(content, fleet="other") == ()


def test_releases_that_a_slot_may_take():
    assert judge_release(RELEASE) == RELEASE
    assert judge_release(RELEASE, floor=5) == RELEASE
    assert judge_release(PI_ONLY, hardware="raspberry-pi-5") == PI_ONLY
    assert judge_release(OLD, running=RUNNING, floor=5) == OLD  # permitted offline
    assert judge_release(OLD, running=OLD, floor=5) == OLD  # it runs already


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        pytest.param({"release": RELEASE, "digest": "0" * 64}, CorruptError, id="another digest"),
        pytest.param(
            {"release": RELEASE, "target": "models/motion/v6.json"}, MismatchError, id="a target"
        ),
        pytest.param({"release": RELEASE, "counter": 6}, MismatchError, id="another counter"),
        pytest.param({"release": RELEASE, "slot": "sound"}, MismatchError, id="another slot"),
        pytest.param({"release": PI_ONLY}, MismatchError, id="other hardware"),
        pytest.param({"release": RELEASE, "floor": 6}, RollbackError, id="below the floor"),
        pytest.param(
            {"release": make_release(3), "running": RUNNING, "floor": 5},
            RollbackError,
            id="below the floor with a permit for another",
        ),
    ],
)
def test_a_release_is_refused(call, reason):
    with pytest.raises(reason):
        judge_release(**call)


def test_a_permit_in_the_wanted_release_does_not_permit_itself():
    sly = make_release(3)
    sly = make_release(3, rollback_to=(assign(sly).digest,))
    with pytest.raises(RollbackError):
        judge_release(sly, running=make_release(5), floor=5)


def fresh(by: SigningKey = DIRECTOR, **changes: object) -> bytes:
    plain = Fresh(
        device=DEVICE, nonce=NONCE, director_epoch=1, sequence=5, digest=None, now_ms=NOW_MS
    )
    return sign_document(by, FRESH.at(DEVICE).logical, msgspec.structs.replace(plain, **changes))


def test_signed_time_is_believed_for_its_own_nonce_only():
    def hear(payload: bytes, nonce: str = NONCE) -> Fresh:
        return believe_fresh(payload, authority=AUTHORITY, device=DEVICE, nonce=nonce)

    assert hear(fresh()).now_ms == NOW_MS
    for payload, nonce, reason in (
        (fresh(by=STRANGER), NONCE, UnsignedError),
        (fresh(), "cd" * 16, RollbackError),
        (fresh(device=OTHER), NONCE, MismatchError),
        (fresh(director_epoch=0), NONCE, RollbackError),
        (fresh(director_epoch=2), NONCE, MismatchError),
    ):
        with pytest.raises(reason):
            hear(payload, nonce)


def test_only_the_director_lets_a_device_forget_its_own_reports():
    def ack(by: SigningKey, device: str = DEVICE) -> bytes:
        return sign_document(by, ACK.at(DEVICE).logical, Ack(device=device, boot=BOOT, sequence=9))

    assert believe_ack(ack(DIRECTOR), authority=AUTHORITY, device=DEVICE).sequence == 9
    with pytest.raises(UnsignedError):
        believe_ack(ack(STRANGER), authority=AUTHORITY, device=DEVICE)
    with pytest.raises(MismatchError):
        believe_ack(ack(DIRECTOR, OTHER), authority=AUTHORITY, device=DEVICE)


def task(by: SigningKey = DIRECTOR, attachment: bytes = b"weights", **changes: object) -> bytes:
    plain = Task(
        device=DEVICE,
        run="run-1",
        task="task-1",
        kind="train",
        backbone="0" * 64,
        digest="",
        lasts_seconds=60,
    )
    from hashlib import sha256

    plain = msgspec.structs.replace(plain, digest=sha256(b"weights").hexdigest())
    said = msgspec.structs.replace(plain, **changes)
    document = sign_document(by, ROUND_OFFER.at(DEVICE, "run-1").logical, said)
    return pack_parcel(document, attachment)


def test_a_task_comes_with_the_attachment_that_it_names():
    def hear(payload: bytes, run: str = "run-1") -> tuple[Task, bytes]:
        return believe_task(payload, authority=AUTHORITY, device=DEVICE, run=run)

    assert hear(task())[1] == b"weights"
    for payload, run, reason in (
        (task(by=STRANGER), "run-1", UnsignedError),
        (task(attachment=b"poison"), "run-1", CorruptError),
        (task(), "run-2", UnsignedError),
        (task(run="run-2"), "run-1", MismatchError),
        (task(device=OTHER), "run-1", MismatchError),
        (task()[:9], "run-1", MalformedError),
    ):
        with pytest.raises(reason):
            hear(payload, run)


def test_a_name_with_a_newline_at_its_end_is_no_name():
    sly = sign_document(
        DIRECTOR,
        ASSIGNMENT.at(DEVICE).logical,
        msgspec.structs.replace(make_assignment(DEVICE, 6), fleet="demo\n"),
    )
    with pytest.raises(MalformedError):
        judge(sly)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(
            {**msgspec.to_builtins(make_assignment(DEVICE)), "device": DEVICE + "\n"}, Assignment
        )
