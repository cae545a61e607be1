"""A flood of requests makes the manager neither sign, seal nor send more than it should."""

import logging
from pathlib import Path

import pytest
from msgspec.structs import replace
from nacl.signing import SigningKey

from agent.contract.messages import Event, MetaRequest, Reported
from agent.contract.topics import ENROL_REPLY, EVENT, META, META_REQUEST, REPORTED
from fleet.service import membership
from fleet.service.desk import Desk
from fleet.service.turnstile import MAX_NAMES, Turnstile
from fleet.service.wishes import TokenWish
from tests.manager_home import Stranger, join, make_desk

NOW = 1_800_000_000_000


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    desk.now_ms = lambda: NOW
    yield desk
    desk.registry.close()


def sent(desk: Desk, channel: object) -> int:
    return sum(1 for waiting in desk.outgoing if waiting.address.channel is channel)


def test_strangers_with_made_up_tokens_are_answered_so_many_times_and_honest_ones_always(
    desk: Desk, caplog
):
    good = membership.create_token(desk, TokenWish())
    made_up = [replace(good, token=bytes(SigningKey.generate()).hex()) for _ in range(80)]
    with caplog.at_level(logging.WARNING):
        for file in made_up:
            Stranger().asks_to_join(desk, file)
    assert sent(desk, ENROL_REPLY) == 50
    assert len([r for r in caplog.records if "asked too often" in r.getMessage()]) == 1
    honest = Stranger()
    honest.asks_to_join(desk, good)
    assert [d.id for d in membership.devices(desk)] == [honest.id]
    assert len(desk.errands) == 1
    desk.now_ms = lambda: NOW + 2_000
    for file in made_up:
        Stranger().asks_to_join(desk, file)
    assert sent(desk, ENROL_REPLY) == 70


def test_one_device_has_its_account_made_anew_so_many_times(desk: Desk):
    file = membership.create_token(desk, TokenWish())
    device, other = Stranger(), Stranger()
    for _ in range(40):
        device.asks_to_join(desk, file)
    assert len(desk.errands) == 10
    other.asks_to_join(desk, membership.create_token(desk, TokenWish()))
    assert desk.errands[-1].device == other.id
    desk.now_ms = lambda: NOW + 2_000
    device.asks_to_join(desk, file)
    assert desk.errands[-1].device == device.id


def test_small_requests_for_metadata_do_not_fill_the_managers_memory(desk: Desk):
    device, other = join(desk), join(desk)
    for number in range(500):
        asked = MetaRequest(id=f"{number:016x}", root=0)
        device.says(desk, META_REQUEST.at(device.id), asked)
    assert sent(desk, META) == 20
    other.says(desk, META_REQUEST.at(other.id), MetaRequest(id="0" * 16, root=0))
    assert sent(desk, META) == 21


def test_a_device_that_counts_up_versions_is_followed_so_many_times(desk: Desk):
    liar, honest = join(desk), join(desk)
    first = desk.repository.published().timestamp.version

    def report(device: Stranger, rev: int, version: int) -> None:
        said = Reported(rev=rev, ts=1, versions={"snapshot": version, "timestamp": version})
        device.says(desk, REPORTED.at(device.id), said)

    for rev in range(1, 30):
        report(liar, rev, desk.repository.published().timestamp.version + 1)
    assert first < desk.repository.published().timestamp.version <= first + 3 * 2
    seen = desk.repository.published().timestamp.version + 5
    report(honest, 1, seen)
    assert desk.repository.published().timestamp.version > seen


def test_a_device_that_says_too_much_is_recorded_later_and_loses_nothing(desk: Desk):
    desk.telling = Turnstile(at_once=8_000, per_second=1_000)
    liar, honest = join(desk), join(desk)
    said = [liar.says(desk, EVENT.at(liar.id, "alarm"), an_alarm(number)) for number in range(30)]
    recorded = desk.registry.reports.totals(liar.id).accepted
    assert 5 <= recorded <= 12
    assert desk.registry.reports.recorded_up_to(liar.id, liar.boot) == recorded
    honest.says(desk, EVENT.at(honest.id, "alarm"), an_alarm(1))
    assert desk.registry.reports.totals(honest.id).accepted == 1
    for seconds in range(60):  # as its outbox says it again
        desk.now_ms = lambda at=NOW + 1_000 * seconds: at
        liar.deliver(desk, *said[desk.registry.reports.recorded_up_to(liar.id, liar.boot) :])
    assert desk.registry.reports.totals(liar.id).accepted == 30
    assert desk.registry.reports.totals(liar.id).missing == 0
    assert desk.registry.reports.recorded_up_to(liar.id, liar.boot) == 30


def an_alarm(number: int) -> Event:
    return Event(id=f"{number:032x}", type="alarm", ts=1, up=1, code="x", why="y" * 300)


def test_a_clock_that_goes_back_lets_nobody_pass_sooner_and_locks_nobody_out():
    turnstile = Turnstile(at_once=1, per_second=1)
    assert turnstile.lets("a", NOW)
    assert not turnstile.lets("a", NOW - 3_600_000)
    assert turnstile.lets("a", NOW - 3_600_000 + 1_000)


def test_names_that_change_fill_no_memory():
    turnstile = Turnstile(at_once=1, per_second=1)
    for number in range(MAX_NAMES + 100):
        assert turnstile.lets(str(number), NOW)
    assert len(turnstile._buckets) == MAX_NAMES
