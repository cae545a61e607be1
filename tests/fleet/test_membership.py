from pathlib import Path

import msgspec
import pytest

from agent.contract.codec import encode
from agent.contract.messages import Event, FreshRequest, Inventory, Presence
from agent.contract.telemetry import Telemetry
from agent.contract.topics import (
    ACK,
    ENROL_REPLY,
    EVENT,
    FRESH,
    FRESH_REQUEST,
    INVENTORY,
    PRESENCE,
    TELEMETRY,
)
from agent.errors import UnsignedError
from fleet.errors import ConflictError, NotFoundError
from fleet.service import membership
from fleet.service.desk import Desk, Grant, Withdrawal
from fleet.service.wishes import TokenWish
from tests.manager_home import Stranger, join, make_desk
from tests.small_fleet import a_window

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def sent(desk: Desk, channel: object) -> list[bytes]:
    return [o.payload for o in desk.outgoing if o.address.channel is channel]


def test_a_device_with_a_good_token_is_enrolled_and_gets_its_account(desk: Desk):
    device = join(desk)
    assert membership.device(desk, device.id).state == "enrolled"
    errand = desk.errands.popleft()
    assert isinstance(errand, Grant)
    membership.granted(desk, errand, "secret")
    assert len(sent(desk, ENROL_REPLY)) == 1


def test_a_token_for_one_device_takes_one_device(desk: Desk):
    file = membership.create_token(desk, TokenWish(uses=1))
    first, second = Stranger(), Stranger()
    first.asks_to_join(desk, file)
    second.asks_to_join(desk, file)
    assert [d.id for d in membership.devices(desk)] == [first.id]
    assert len(desk.errands) == 1


def test_the_same_device_may_ask_again_because_a_reply_can_be_lost(desk: Desk):
    file = membership.create_token(desk, TokenWish(uses=1))
    device = Stranger()
    device.asks_to_join(desk, file)
    device.asks_to_join(desk, file)
    assert len(desk.errands) == 2
    assert len(membership.tokens(desk)[0].used_by) == 1


def test_an_unknown_token_is_refused_with_a_reply(desk: Desk):
    file = membership.create_token(desk, TokenWish())
    Stranger().asks_to_join(desk, msgspec.structs.replace(file, token="00" * 32))
    assert membership.devices(desk) == []
    assert len(sent(desk, ENROL_REPLY)) == 1


def test_a_manual_token_waits_for_an_operator(desk: Desk):
    file = membership.create_token(desk, TokenWish(approval="manual"))
    device = Stranger()
    device.asks_to_join(desk, file)
    assert membership.device(desk, device.id).state == "pending"
    assert not desk.errands
    membership.approve(desk, device.id)
    device.asks_to_join(desk, file)
    assert membership.device(desk, device.id).state == "enrolled"
    assert len(desk.errands) == 1


def test_a_revoked_device_loses_its_account_and_its_voice(desk: Desk):
    device = join(desk)
    desk.errands.clear()
    device.says(desk, FRESH_REQUEST.at(device.id), FreshRequest(nonce="cd" * 16))
    assert len(sent(desk, FRESH)) == 1
    desk.outgoing.clear()
    membership.revoke(desk, device.id)
    assert list(desk.errands) == [Withdrawal(device.id)]
    assert membership.key_of(desk, device.id) is None
    device.says(desk, FRESH_REQUEST.at(device.id), FreshRequest(nonce="ab" * 16))
    assert sent(desk, FRESH) == []


def test_an_unknown_device_is_not_found(desk: Desk):
    with pytest.raises(NotFoundError):
        membership.device(desk, "d-nobody")


def test_a_report_is_acknowledged_and_counted_once_however_often_it_arrives(desk: Desk):
    device = join(desk)
    body = Telemetry(ts=1, up=1, windows=(a_window(1),))
    address = TELEMETRY.at(device.id, "windows")
    message = device.says(desk, address, body, sequence=1)
    device.deliver(desk, message, message)
    view = membership.device(desk, device.id)
    assert (view.reports_accepted, view.reports_duplicates_ignored) == (1, 2)
    assert len(desk.registry.reports.windows(device.id)) == 1
    assert len(sent(desk, ACK)) == 2


def test_one_bad_message_stops_no_other(desk: Desk):
    device = join(desk)
    address = INVENTORY.at(device.id)
    good = device.says(desk, address, an_inventory(), sequence=2**40)
    broken = type(good)(topic=good.topic, payload=b"{", properties=good.properties)
    foreign = type(good)(topic="other/topic", payload=b"")
    device.deliver(desk, broken, foreign, good)
    assert desk.registry.devices.require(device.id).inventory == an_inventory()


def test_an_alarm_reaches_the_operator(desk: Desk):
    device = join(desk)
    event = Event(id="ab" * 16, type="alarm", ts=1, up=1, code="rollback", why="older than known")
    device.says(desk, EVENT.at(device.id, "alarm"), event)
    assert [e.event.why for e in desk.registry.reports.alarms()] == ["older than known"]


def test_a_device_is_shown_with_its_own_newest_alarms_and_its_last_update(desk: Desk):
    device, other = join(desk), join(desk)
    for number in range(7):
        told = Event(id=f"{number:032x}", type="alarm", ts=1, up=1, code="store", why=f"{number}")
        device.says(desk, EVENT.at(device.id, "alarm"), told)
    for number, outcome in enumerate(("failed_no_change", "succeeded")):
        ended = Event(
            id=f"{number + 100:032x}", type="update", ts=1, up=1, release="ab" * 32, outcome=outcome
        )
        device.says(desk, EVENT.at(device.id, "update"), ended)
    shown = membership.device(desk, device.id)
    assert [a.why for a in shown.alarms] == ["2", "3", "4", "5", "6"]
    assert shown.last_update is not None
    assert shown.last_update.outcome == "succeeded"
    untouched = membership.device(desk, other.id)
    assert (untouched.alarms, untouched.last_update) == ((), None)


def test_a_cloned_card_is_quarantined_with_a_sentence(desk: Desk):
    device = join(desk)
    for counter, salt in ((5, "aa" * 8), (4, "bb" * 8)):
        device.boot = type(device.boot)(counter, salt)
        body = Presence(s="online", boot=str(device.boot), epoch=1)
        device.says(desk, PRESENCE.at(device.id), body, sequence=2**40)
    assert "cloned" in (membership.device(desk, device.id).quarantined_why or "")


def test_a_device_whose_clone_is_gone_is_let_back_and_one_whose_clone_lives_is_not(desk: Desk):
    device = join(desk)
    salts = iter(f"{n:02x}" * 8 for n in range(1, 99))

    def lives(counter: int) -> None:
        device.boot = type(device.boot)(counter, next(salts))
        body = Presence(s="online", boot=str(device.boot), epoch=1)
        device.says(desk, PRESENCE.at(device.id), body, sequence=2**40)

    def why() -> str:
        return membership.device(desk, device.id).quarantined_why or ""

    with pytest.raises(ConflictError, match="not in quarantine"):
        membership.readmit(desk, device.id)
    lives(50)
    lives(4)
    assert f"fieldfare device readmit {device.id}" in why()
    view = membership.readmit(desk, device.id)
    assert view.quarantined_why is None
    lives(5)  # the survivor has the lower counter
    assert why() == ""
    assert membership.device(desk, device.id).presence == "online"
    lives(6)
    assert why() == ""
    lives(6)
    assert "cloned" in why()


def test_presence_of_another_boot_than_its_stamp_is_not_believed(desk: Desk):
    device = join(desk)
    body = Presence(s="offline", boot="9-" + "aa" * 8, epoch=1)
    device.says(desk, PRESENCE.at(device.id), body, sequence=2**40)
    assert membership.device(desk, device.id).presence == "unknown"


def test_signed_time_names_the_newest_assignment(desk: Desk):
    device = join(desk)
    device.says(desk, FRESH_REQUEST.at(device.id), FreshRequest(nonce="ab" * 16))
    assert b'\\"sequence\\":0' in sent(desk, FRESH)[0]


def test_a_forged_request_gets_no_answer(desk: Desk):
    with pytest.raises(UnsignedError), desk.registry.transaction():
        membership.ask_to_join(desk, "ab" * 16, encode(forged()))


def forged():
    from agent.contract.enrolment import EnrolRequest, SignedRequest

    body = encode(
        EnrolRequest(
            fleet="demo",
            nonce="ab" * 16,
            device_key="11" * 32,
            token_key="22" * 32,
            hardware="generic-linux",
        )
    ).decode()
    return SignedRequest(body=body, device_sig="00" * 64, token_sig="00" * 64)


def an_inventory() -> Inventory:
    return Inventory(
        rev=1, ts=1, hardware="generic-linux", arch="x86_64", system="Linux", python="3.11",
        agent="0.1", memory_bytes=1,
    )  # fmt: skip
