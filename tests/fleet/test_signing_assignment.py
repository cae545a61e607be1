"""The director never says what its own devices would refuse."""

import msgspec
import pytest

from agent.contract.authority import Authority
from agent.contract.belief import believe_ack, believe_assignment, believe_fresh, believe_task
from agent.contract.envelope import device_id
from agent.contract.keys import Ed25519Signer
from agent.contract.messages import Ack, Fresh
from agent.contract.rounds import Task
from fleet.errors import SigningError
from fleet.signing.assignment import sign_ack, sign_assignment, sign_fresh, sign_task
from tests.signed_fleet import NOW_MS, device_key, make_assignment

DIRECTOR = Ed25519Signer.generate()
DEVICE = device_id(device_key().verify_key)
AUTHORITY = Authority(
    fleet="demo",
    director_epoch=1,
    director_keys=(DIRECTOR.public_hex,),
    enrolment_keys=("0" * 64,),
)
NONCE = "ab" * 16
FRESH = Fresh(device=DEVICE, nonce=NONCE, director_epoch=1, sequence=0, digest=None, now_ms=NOW_MS)
ACK = Ack(device=DEVICE, boot="1-0011223344556677", sequence=3)
TASK = Task(
    device=DEVICE,
    run="run-1",
    task="task-1",
    kind="train",
    backbone="0" * 64,
    digest="0" * 64,
    lasts_seconds=60,
)


def test_devices_believe_what_the_director_signs():
    said = sign_assignment(DIRECTOR, make_assignment(DEVICE), authority=AUTHORITY, now_ms=NOW_MS)
    believed = believe_assignment(
        said, authority=AUTHORITY, fleet="demo", device=DEVICE, accepted=None, now_ms=NOW_MS
    )
    assert believed.assignment == make_assignment(DEVICE)
    fresh = sign_fresh(DIRECTOR, FRESH, authority=AUTHORITY)
    assert believe_fresh(fresh, authority=AUTHORITY, device=DEVICE, nonce=NONCE) == FRESH
    ack = sign_ack(DIRECTOR, ACK, authority=AUTHORITY)
    assert believe_ack(ack, authority=AUTHORITY, device=DEVICE) == ACK
    parcel = sign_task(DIRECTOR, TASK, b"weights", authority=AUTHORITY)
    task, attachment = believe_task(parcel, authority=AUTHORITY, device=DEVICE, run="run-1")
    assert (task.task, attachment) == ("task-1", b"weights")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"expires_ms": NOW_MS}, id="expired"),
        pytest.param({"fleet": "other"}, id="another fleet"),
        pytest.param({"director_epoch": 2}, id="another epoch"),
        pytest.param({"sequence": 0}, id="no sequence"),
        pytest.param({"slots": {"Motion!": None}}, id="no slot name"),
    ],
)
def test_an_assignment_that_its_device_would_refuse_is_not_signed(changes):
    broken = msgspec.structs.replace(make_assignment(DEVICE), **changes)
    with pytest.raises(SigningError, match="refused by the device itself"):
        sign_assignment(DIRECTOR, broken, authority=AUTHORITY, now_ms=NOW_MS)


def test_a_key_that_the_authority_does_not_name_signs_nothing():
    thief = Ed25519Signer.generate()
    for sign in (
        lambda: sign_assignment(thief, make_assignment(DEVICE), authority=AUTHORITY, now_ms=NOW_MS),
        lambda: sign_fresh(thief, FRESH, authority=AUTHORITY),
        lambda: sign_ack(thief, ACK, authority=AUTHORITY),
        lambda: sign_task(thief, TASK, b"", authority=AUTHORITY),
    ):
        with pytest.raises(SigningError, match="not signed by a key"):
            sign()
