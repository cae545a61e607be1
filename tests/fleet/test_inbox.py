"""What hostile, broken and repeated messages do to the manager: nothing to anybody else."""

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from nacl import bindings

from agent.contract.codec import encode
from agent.contract.enrolment import EnrolRequest, SignedRequest
from agent.contract.envelope import Boot, device_id
from agent.contract.messages import Ack, Assigned, Event, FreshRequest
from agent.contract.telemetry import Telemetry
from agent.contract.topics import (
    ACK,
    ASSIGNMENT,
    ENROL_REPLY,
    ENROL_REQUEST,
    EVENT,
    FRESH,
    FRESH_REQUEST,
    REPORTED,
    TELEMETRY,
)
from agent.identity.device_key import DeviceKey
from agent.identity.enrol import build_request
from fleet.errors import RegistryError
from fleet.ingest import dispatch
from fleet.ingest.mail import Arrived
from fleet.ingest.serve import ChunkServer
from fleet.registry.reports import Reports
from fleet.service import inbox, membership, overview
from fleet.service.desk import Desk, Grant, open_desk
from fleet.service.wishes import TokenWish
from fleet.signing.assignment import sign_assignment
from tests.manager_home import Stranger, join, make_desk
from tests.small_fleet import a_reported, a_window

ORDER = 2**252 + 27742317777372353535851937790883648493
POINT_OF_ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def sent(desk: Desk, channel: object) -> list[bytes]:
    return [o.payload for o in desk.outgoing if o.address.channel is channel]


def acknowledged(desk: Desk) -> int:
    body = msgspec.json.decode(msgspec.json.decode(sent(desk, ACK)[-1])["body"], type=Ack)
    return body.sequence


def an_event(**changes: object) -> Event:
    return Event(**({"id": os.urandom(16).hex(), "type": "alarm", "ts": 1, "up": 1} | changes))


def asks(desk: Desk, device: Stranger, file: object, nonce: str) -> Arrived:
    asking = build_request(file, DeviceKey(device.key), nonce, hardware="generic-linux")
    return Arrived(topic=desk.topics.write(asking.request), payload=asking.payload)


def a_key_that_signs_but_cannot_be_sealed_to(request: EnrolRequest, token: bytes):
    """A key with a part of small order; its owner tries until the part cancels out."""
    seed = bytes(range(32))
    expanded = bytearray(hashlib.sha512(seed).digest()[:32])
    expanded[0] &= 248
    expanded[31] = (expanded[31] & 127) | 64
    secret = int.from_bytes(expanded, "little") % ORDER
    honest = bindings.crypto_scalarmult_ed25519_base_noclamp(secret.to_bytes(32, "little"))
    mixed = bindings.crypto_core_ed25519_add(honest, POINT_OF_ORDER_8)
    body = encode(msgspec.structs.replace(request, device_key=mixed.hex()))
    message = b"fieldfare-enrol-v1\0" + body
    for once in range(1, 200):
        commitment = bindings.crypto_scalarmult_ed25519_base_noclamp(once.to_bytes(32, "little"))
        challenge = hashlib.sha512(commitment + mixed + message).digest()
        number = int.from_bytes(challenge, "little") % ORDER
        if number % 8 == 0:
            answer = (once + number * secret) % ORDER
            return body, commitment + answer.to_bytes(32, "little")
    raise AssertionError("no luck")


def test_a_stranger_whose_key_cannot_receive_a_reply_harms_nobody(desk: Desk):
    from nacl.signing import SigningKey

    token, nonce = SigningKey.generate(), "ab" * 16
    request = EnrolRequest(
        fleet="demo",
        nonce=nonce,
        device_key="00" * 32,
        token_key=bytes(token.verify_key).hex(),
        hardware="generic-linux",
    )
    body, signature = a_key_that_signs_but_cannot_be_sealed_to(request, b"")
    token_sig = token.sign(b"fieldfare-enrol-v1\0" + body).signature
    payload = encode(
        SignedRequest(body=body.decode(), device_sig=signature.hex(), token_sig=token_sig.hex())
    )
    evil = Arrived(topic=desk.topics.write(ENROL_REQUEST.at(nonce)), payload=payload)
    device = Stranger()
    good = asks(desk, device, membership.create_token(desk, TokenWish()), "cd" * 16)

    device.deliver(desk, evil, good)

    assert [d.id for d in membership.devices(desk)] == [device.id]
    assert sent(desk, ENROL_REPLY) == []


def test_a_message_that_this_program_stumbles_over_stops_no_other(desk: Desk, monkeypatch):
    device = join(desk)
    stumbles = an_event(why="stumble")
    honest = Reports.alarm_add

    def alarm_add(self, device, event, *, at_ms):
        honest(self, device, event, at_ms=at_ms)
        if event.why == "stumble":
            raise ZeroDivisionError
        return True

    monkeypatch.setattr(Reports, "alarm_add", alarm_add)
    device.says(desk, EVENT.at(device.id, "alarm"), stumbles)
    device.says(desk, EVENT.at(device.id, "alarm"), an_event(why="fine"))

    assert [a.why for a in overview.alarms(desk)] == ["fine"]
    assert acknowledged(desk) == 2


def test_a_registry_that_cannot_record_stops_the_manager_before_anything_is_acknowledged(
    desk: Desk, monkeypatch
):
    device = join(desk)

    def full(*_: object, **__: object) -> bool:
        raise RegistryError("disk full")

    monkeypatch.setattr(Reports, "alarm_add", full)
    with pytest.raises(RegistryError, match="disk full"):
        device.says(desk, EVENT.at(device.id, "alarm"), an_event())
    assert sent(desk, ACK) == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{not json", id="unreadable"),
        pytest.param(an_event(type="gap", boot="007-00ff00ff00ff00ff", first=1, last=2), id="boot"),
        pytest.param(
            an_event(type="gap", boot="1-00ff00ff00ff00ff", first=5, last=2), id="backward range"
        ),
    ],
)
def test_a_signed_report_that_cannot_be_used_is_counted_so_that_it_is_not_sent_for_ever(
    desk: Desk, body: object
):
    device = join(desk)

    device.says(desk, EVENT.at(device.id, "gap"), body)
    device.says(desk, EVENT.at(device.id, "alarm"), an_event())

    totals = desk.registry.reports.totals(device.id)
    assert (totals.accepted, dict(totals.by_kind)) == (2, {"evt": 1, "unusable": 1})
    assert acknowledged(desk) == 2


def test_a_report_of_a_newer_version_waits_on_its_device_for_a_newer_manager(desk: Desk):
    device = join(desk)
    device.says(desk, EVENT.at(device.id, "alarm"), encode(an_event(v=2)))
    assert desk.registry.reports.totals(device.id).accepted == 0
    assert sent(desk, ACK) == []


def test_a_device_that_reports_an_impossible_order_still_gets_its_assignment(desk: Desk):
    device = join(desk)
    lie = msgspec.structs.replace(a_reported(), director_epoch=1, sequence=2**53)
    device.says(desk, REPORTED.at(device.id), lie)
    wish = Assigned(target="models/motion/v1.json", digest="ab" * 32, counter=1)
    desk.registry.devices.want(device.id, "motion", wish, at_ms=desk.now_ms())
    authority = desk.repository.authority()

    with desk.registry.transaction():
        signed = dispatch.sign_next(
            desk.registry,
            desk.registry.devices.require(device.id),
            fleet="demo",
            epoch=authority.director_epoch,
            now_ms=desk.now_ms(),
            lifetime_ms=10**9,
            sign=lambda a: sign_assignment(
                desk.keys.director, a, authority=authority, now_ms=desk.now_ms()
            ),
        )
    assert signed.sequence == 1


@pytest.mark.slow
def test_many_holes_in_a_devices_numbers_cost_little(desk: Desk):
    device = join(desk)
    reports, boot = desk.registry.reports, Boot(1, "0" * 16)
    with desk.registry.transaction():
        for number in range(3, 6000, 2):
            reports.skip(device.id, boot, number, number, at_ms=1)
    began = os.times().user
    with desk.registry.transaction():
        for number in range(7000, 7020, 2):
            reports.accept(device.id, boot, number, "tele", at_ms=1)
    assert os.times().user - began < 2.0  # it was seconds for each


def test_a_recorded_request_opens_nothing_after_a_restart(desk: Desk):
    file = membership.create_token(desk, TokenWish())
    device = Stranger()
    request = asks(desk, device, file, "ab" * 16)
    device.deliver(desk, request)
    membership.granted(desk, desk.errands.popleft(), "secret")
    desk.registry.close()

    again = open_desk(desk.config, "", lambda _run, _word: None)
    device.deliver(again, request)
    assert not again.errands
    again.registry.close()


def test_a_request_whose_grant_was_lost_in_a_crash_is_granted_when_it_comes_again(desk: Desk):
    file = membership.create_token(desk, TokenWish())
    device = Stranger()
    request = asks(desk, device, file, "ab" * 16)
    device.deliver(desk, request)
    desk.registry.close()

    again = open_desk(desk.config, "", lambda _run, _word: None)
    device.deliver(again, request)
    assert isinstance(again.errands.popleft(), Grant)
    device.deliver(again, asks(again, device, file, "cd" * 16))
    assert len(again.errands) == 1
    device.deliver(again, request)  # superseded by the newer one
    assert len(again.errands) == 1
    again.registry.close()


def test_what_a_device_asked_while_it_waited_opens_nothing_after_approval(desk: Desk):
    file = membership.create_token(desk, TokenWish(approval="manual"))
    device = Stranger()
    request = asks(desk, device, file, "ab" * 16)
    device.deliver(desk, request)
    membership.approve(desk, device.id)

    device.deliver(desk, request)
    assert not desk.errands
    device.deliver(desk, asks(desk, device, file, "cd" * 16))
    assert len(desk.errands) == 1


def test_windows_and_alarms_are_forgotten_by_age_and_their_counts_are_not(desk: Desk):
    device = join(desk)
    telemetry = Telemetry(ts=1, up=1, windows=(a_window(1), a_window(2)))
    device.says(desk, TELEMETRY.at(device.id, "windows"), telemetry)
    device.says(desk, EVENT.at(device.id, "alarm"), an_event())
    reports, later = desk.registry.reports, desk.now_ms() + 1

    assert reports.forget(later, limit=1) == 1
    overview.forget_old(desk)
    assert len(reports.windows(device.id)) == 1
    desk.now_ms = lambda: later + 31 * 86_400_000
    overview.forget_old(desk)

    assert (reports.windows(device.id), reports.alarms()) == ([], [])
    assert reports.totals().accepted == 2
    assert reports.forget(later) == 0


def test_a_revoked_device_is_wanted_nothing_and_its_retained_words_are_cleared(desk: Desk):
    device = join(desk)
    wish = Assigned(target="models/motion/v1.json", digest="ab" * 32, counter=1)
    desk.registry.devices.want(device.id, "motion", wish, at_ms=desk.now_ms())

    membership.revoke(desk, device.id)
    membership.withdrawn(desk, device.id)

    assert desk.registry.devices.desired(device.id) == {}
    cleared = {o.address.logical for o in desk.outgoing if not o.payload}
    assert cleared == {
        f"up/{device.id}/presence",
        f"up/{device.id}/inventory",
        f"up/{device.id}/reported",
        f"dn/{device.id}/assignment",
    }
    before = desk.registry.events.head()
    topic = f"{desk.topics.root}/up/{device.id}/presence"
    inbox.take(desk, [Arrived(topic=topic, payload=b"")], ChunkServer(desk.artifacts))
    assert desk.registry.events.head() == before


def test_nobody_unknown_is_served(desk: Desk):
    from agent.contract.messages import ChunkRequest
    from agent.contract.topics import ARTIFACT_REQUEST

    digest = desk.artifacts.put(b"x" * 100)
    chunks = ChunkServer(desk.artifacts)
    request = encode(ChunkRequest(a=digest, r=((0, 1),)))
    topic = desk.topics.write(ARTIFACT_REQUEST.at(device_id(Stranger().key.verify_key)))
    inbox.take(desk, [Arrived(topic=topic, payload=request)], chunks)
    assert not chunks.waiting


def test_a_device_that_holds_another_assignment_is_sent_the_newest_again(desk):
    device = join(desk)
    release = Assigned(target="models/motion/v1.json", digest="1" * 64, counter=1)
    with desk.registry.transaction():
        desk.registry.devices.want(device.id, "motion", release, at_ms=desk.now_ms())
        signed = dispatch.sign_next(
            desk.registry,
            desk.registry.devices.require(device.id),
            fleet=desk.config.fleet,
            epoch=1,
            now_ms=desk.now_ms(),
            lifetime_ms=10**9,
            sign=lambda said: sign_assignment(
                desk.keys.director,
                said,
                authority=desk.repository.authority(),
                now_ms=desk.now_ms(),
            ),
        )
    newest = hashlib.sha256(signed.payload).hexdigest()
    for number, (holds, sent_again) in enumerate(((None, True), ("0" * 64, True), (newest, False))):
        desk.outgoing.clear()
        asked = FreshRequest(nonce=f"{number:032x}", holds=holds)
        device.deliver(
            desk, device.says(desk, FRESH_REQUEST.at(device.id), asked, sequence=2**40 + number)
        )
        assert sent(desk, FRESH)
        assert set(sent(desk, ASSIGNMENT)) == ({signed.payload} if sent_again else set())
