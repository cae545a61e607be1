"""A manager that has forgotten what it signed goes on above what devices report."""

from datetime import UTC, datetime, timedelta

import pytest

from agent.contract.messages import Event, Reported
from agent.contract.topics import ACK, EVENT, REPORTED
from fleet.errors import SigningError
from fleet.ingest import dispatch
from fleet.service import resumption, trust
from fleet.service.desk import Desk
from fleet.service.trust import SignedChange
from fleet.signing.assignment import sign_assignment
from fleet.signing.ceremony import dev_addresses
from fleet.signing.difference import describe
from fleet.signing.lifting import MAX_AHEAD, propose_lift
from fleet.signing.metadata import parse
from fleet.signing.proposal import missing, sign_proposal
from fleet.signing.signers import open_signer
from tests.manager_home import Stranger, join, make_desk

NOW = datetime.now(UTC)


@pytest.fixture
def desk(tmp_path) -> Desk:
    return make_desk(tmp_path)


def reports(desk: Desk, device: Stranger, **said: object) -> None:
    device.sequence += 1
    reported = Reported(rev=device.sequence, ts=1, **said)
    device.says(desk, REPORTED.at(device.id), reported, sequence=2**40 + device.sequence)


def due(desk: Desk) -> list[str]:
    return dispatch.due(desk.registry, epoch=1, now_ms=desk.now_ms(), lifetime_ms=10**9)


def sign(desk: Desk, device: Stranger) -> int:
    authority = desk.repository.authority()
    return dispatch.sign_next(
        desk.registry,
        desk.registry.devices.require(device.id),
        fleet="demo",
        epoch=1,
        now_ms=desk.now_ms(),
        lifetime_ms=10**9,
        sign=lambda a: sign_assignment(
            desk.keys.director, a, authority=authority, now_ms=desk.now_ms()
        ),
    ).sequence


def test_an_order_that_was_forgotten_is_gone_above_once(desk):
    device = join(desk)
    with desk.registry.transaction():
        assert sign(desk, device) == 1
    reports(desk, device, director_epoch=1, sequence=1)
    assert due(desk) == []
    reports(desk, device, director_epoch=1, sequence=7)
    assert due(desk) == [device.id]
    with desk.registry.transaction():
        assert sign(desk, device) == 8
    assert due(desk) == []


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"director_epoch": 1, "sequence": 2**52 + 1}, id="an order nobody signed"),
        pytest.param({"director_epoch": 9, "sequence": 7}, id="another epoch"),
    ],
)
def test_a_lie_about_the_order_changes_nothing(desk, said):
    device = join(desk)
    reports(desk, device, **said)
    assert due(desk) == []


def test_snapshot_and_timestamp_are_signed_above_what_devices_saw(desk):
    device = join(desk)
    reports(desk, device, versions={"snapshot": 9, "timestamp": 12, "targets": 1, "root": 1})
    versions = trust.show(desk).versions
    assert (versions["snapshot"], versions["timestamp"]) == (10, 13)
    reports(desk, device, versions={"snapshot": 10, "timestamp": 13, "targets": 1, "root": 1})
    assert trust.show(desk).versions == versions
    desk.repository.refresh(NOW, under=timedelta.max)
    assert trust.show(desk).versions["snapshot"] == 11


def test_one_lying_device_does_not_use_up_the_versions(desk):
    device = join(desk)
    before = trust.show(desk).versions
    far = 1 + MAX_AHEAD + 1
    reports(desk, device, versions={"snapshot": far, "timestamp": 2**53, "targets": far})
    assert trust.show(desk).versions == before
    assert trust.show(desk).seen == {}


def test_targets_that_devices_saw_are_shown_and_lifted_by_their_owners(desk):
    device = join(desk)
    reports(desk, device, versions={"targets": 5, "root": 1})
    assert trust.show(desk).seen == {"targets": 5}
    proposal = propose_lift(desk.repository.published(), 5, NOW)
    assert any("nothing else changes" in line for line in describe(proposal))
    for address in dev_addresses(desk.config.keys):
        if missing(proposal) and "/targets-" in address:
            proposal = sign_proposal(proposal, [open_signer(address, lambda _: "", dev=True)])
    trust.put_into_force(desk, SignedChange(metadata=proposal.metadata))
    assert trust.show(desk).versions["targets"] == 6
    assert trust.show(desk).seen == {}


def test_a_version_is_not_jumped_over_where_something_else_changes(desk):
    held = desk.repository.published()
    proposal = propose_lift(held, 5, NOW)
    from tuf.api.metadata import Metadata, TargetFile, Targets

    other: Metadata[Targets] = parse(Targets, proposal.metadata["targets"])
    other.signed.targets["models/x/1.json"] = TargetFile.from_data("models/x/1.json", b"x")
    signer = open_signer(next(iter(offline(desk))), lambda _: "", dev=True)
    other.sign(signer)
    with pytest.raises(SigningError, match="after 1 comes 2"):
        desk.repository.publish(other.to_bytes(), {"models/x/1.json": b"x"}, NOW)


def offline(desk: Desk) -> list[str]:
    return [a for a in dev_addresses(desk.config.keys) if "/targets-" in a]


@pytest.mark.parametrize("seen", [1, MAX_AHEAD + 2])
def test_there_is_nothing_to_lift_above_what_nobody_can_have_seen(desk, seen):
    with pytest.raises(SigningError, match="nothing to resume"):
        propose_lift(desk.repository.published(), seen, NOW)


def test_reports_that_a_lost_manager_acknowledged_do_not_hold_up_those_after_them(desk):
    device = join(desk)
    reports(desk, device, acknowledged={str(device.boot): 40})
    event = Event(id="0" * 32, type="alarm", ts=1, up=1, code="x")
    device.says(desk, EVENT.at(device.id, "alarm"), event, sequence=41)
    assert desk.registry.reports.recorded_up_to(device.id, device.boot) == 41
    assert [w for w in desk.outgoing if w.address.channel is ACK]


def test_what_devices_saw_counts_only_while_they_are_enrolled(desk):
    device = join(desk)
    reports(desk, device, versions={"targets": 5})
    desk.registry.devices.revoke(device.id, at_ms=1)
    assert resumption.seen(desk.registry, desk.repository.published()) == {}
