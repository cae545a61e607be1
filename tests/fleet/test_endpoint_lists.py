"""The list of endpoints: what may be signed, who follows it, and what may be struck."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from cryptography import x509

from agent.contract.codec import encode
from agent.contract.endpoints import (
    ENDPOINTS_TARGET,
    Endpoint,
    EndpointReport,
    Endpoints,
    believe_endpoints,
    split_authorities,
)
from agent.contract.messages import FreshRequest, Reported
from agent.contract.topics import FRESH, FRESH_REQUEST, HINT, REPORTED
from agent.errors import MalformedError
from fleet.errors import RefusedError, SigningError
from fleet.ingest.authority import make_authority, make_server
from fleet.service import endpoints, trust
from fleet.service.desk import Desk
from fleet.service.trust import SignedChange
from fleet.signing.ceremony import dev_addresses
from fleet.signing.difference import describe
from fleet.signing.endpoints import propose_endpoints
from fleet.signing.proposal import sign_proposal
from fleet.signing.signers import open_signer
from tests.manager_home import Stranger, join, make_desk, sign_list

NOW = datetime.now(UTC)
CA, OTHER = make_authority(NOW).chain, make_authority(NOW).chain
URL, NEW_URL = "mqtts://old.example:8883", "mqtts://new.example:8883"
OLD = Endpoint(url=URL, cas=(CA,))
BOTH = Endpoint(url=URL, cas=(CA, OTHER))
NEW = Endpoint(url=NEW_URL, cas=(OTHER,))


@pytest.fixture
def desk(tmp_path) -> Desk:
    return make_desk(tmp_path)


def reports(device: Stranger, desk: Desk, content: bytes | None, at: Endpoint, **more) -> None:
    device.sequence += 1
    said = EndpointReport(
        version=1 if content else 0,
        digest=sha256(content).hexdigest() if content else None,
        url=at.url,
        cas=at.fingerprints,
        **more,
    )
    reported = Reported(rev=device.sequence, ts=1, endpoint=said)
    device.says(desk, REPORTED.at(device.id), reported, sequence=2**40 + device.sequence)


def test_a_published_list_is_shown_served_and_hinted(desk):
    content = sign_list(desk, BOTH, NEW)
    view = endpoints.show(desk)
    assert (view.version, [e.url for e in view.endpoints]) == (1, [URL, NEW_URL])
    assert desk.repository.bundle(0, (ENDPOINTS_TARGET,))[ENDPOINTS_TARGET] == content
    assert ENDPOINTS_TARGET not in desk.repository.bundle(0, (), enrolling=True)
    assert HINT.at("all") in [waiting.address for waiting in desk.outgoing]
    said = believe_endpoints(content, fleet="demo")
    assert said is not None
    assert said.endpoints == (BOTH, NEW)


def test_the_signer_reads_addresses_and_fingerprints(desk):
    lines = describe(propose_endpoints(desk.repository.published(), (BOTH,), NOW))
    text = "\n".join(lines)
    assert URL in text
    assert all(mark in text for mark in BOTH.fingerprints)


def test_signed_time_names_the_metadata_in_force(desk):
    device = join(desk)
    sign_list(desk, OLD)
    desk.outgoing.clear()
    device.says(desk, FRESH_REQUEST.at(device.id), FreshRequest(nonce="0" * 32))
    (answer,) = [w for w in desk.outgoing if w.address.channel is FRESH]
    assert b'\\"root\\":1,\\"targets\\":2' in answer.payload


OF_NOBODY = make_server(
    make_authority(NOW), x509.SubjectAlternativeName([x509.DNSName("a")]), NOW
).chain
ENDED = make_authority(NOW - timedelta(days=4000)).chain


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        pytest.param((), "0 endpoints", id="an empty list"),
        pytest.param((OLD, BOTH), "twice", id="an address twice"),
        pytest.param((Endpoint(url="http://x"),), "is not", id="no broker's address"),
        pytest.param((Endpoint(url="mqtt://x", cas=(CA,)),), "no TLS", id="a CA without TLS"),
        pytest.param((Endpoint(url=URL, cas=(OF_NOBODY,)),), "no authority", id="a server's"),
        pytest.param((Endpoint(url=URL, cas=(ENDED,)),), "ran out", id="an ended authority"),
        pytest.param((Endpoint(url=URL, cas=(CA,) * 5),), "at most 4", id="too many"),
        pytest.param((Endpoint(url=URL, cas=("x",)),), "cannot be read", id="no PEM"),
    ],
)
def test_what_devices_could_not_use_is_not_proposed(desk, wanted, why):
    with pytest.raises(SigningError, match=why):
        propose_endpoints(desk.repository.published(), wanted, NOW)


def test_the_list_in_force_is_not_proposed_again(desk):
    sign_list(desk, OLD)
    with pytest.raises(SigningError, match="in force, version 1"):
        propose_endpoints(desk.repository.published(), (OLD,), NOW)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"version": 1}, "in force is version 1", id="the same version"),
        pytest.param({"fleet": "other"}, "of fleet other", id="of another fleet"),
    ],
)
def test_a_list_that_does_not_follow_is_not_published(desk, changes, why):
    sign_list(desk, OLD)
    plain = {"fleet": "demo", "version": 2, "endpoints": (NEW,)}
    content = encode(Endpoints(**(plain | changes)))
    proposal = propose_endpoints(desk.repository.published(), (NEW,), NOW)
    from fleet.signing.proposal import propose_targets

    proposal = propose_targets(
        desk.repository.published(),
        what="x",
        additions={ENDPOINTS_TARGET: content},
        removals=(),
        now=NOW,
    )
    for address in dev_addresses(desk.config.keys):
        if "/targets-1" in address:
            proposal = sign_proposal(proposal, [open_signer(address, lambda _: "", dev=True)])
    change = SignedChange(metadata=proposal.metadata, files=proposal.files)
    with pytest.raises(SigningError, match=why):
        trust.put_into_force(desk, change)
    assert endpoints.show(desk).version == 1


def test_a_device_confirms_by_exactly_this_list_and_an_endpoint_of_it(desk):
    device = join(desk)
    content = sign_list(desk, BOTH)
    for held, at, more in (
        (None, OLD, {}),
        (content, OLD, {"listed": False}),
        (content + b" ", BOTH, {"listed": True}),
    ):
        reports(device, desk, held, at, **more)
        assert [s.device for s in endpoints.show(desk).stragglers] == [device.id]
    reports(device, desk, content, BOTH, listed=True)
    view = endpoints.show(desk)
    assert (view.confirmed, view.stragglers) == (1, ())
    assert view.endpoints[0].users == (device.id,)


def test_nothing_is_struck_that_a_device_may_need(desk):
    device = join(desk)
    content = sign_list(desk, BOTH)
    only = Endpoint(url=URL, cas=(OTHER,))
    with pytest.raises(RefusedError, match=f"{device.id} of 1 have not confirmed") as refused:
        endpoints.require_nobody_left(endpoints.show(desk), (only,))
    assert "enrolled anew" in str(refused.value)
    reports(device, desk, content, BOTH, listed=True)
    endpoints.require_nobody_left(endpoints.show(desk), (only,))


def test_a_list_is_never_replaced_by_one_that_shares_nothing(desk):
    device = join(desk)
    content = sign_list(desk, OLD)
    reports(device, desk, content, OLD, listed=True)
    with pytest.raises(RefusedError, match="nothing in common"):
        endpoints.require_nobody_left(endpoints.show(desk), (NEW,))


def test_an_address_that_a_device_uses_is_not_struck_although_it_has_confirmed(desk):
    device = join(desk)
    content = sign_list(desk, NEW, BOTH)
    reports(device, desk, content, BOTH, listed=True)
    with pytest.raises(RefusedError, match=f"{device.id} of 1 reach the fleet by {URL}"):
        endpoints.require_nobody_left(endpoints.show(desk), (NEW,))
    reports(device, desk, content, NEW, listed=True)
    endpoints.require_nobody_left(endpoints.show(desk), (NEW,))


def test_what_is_only_added_strikes_nothing(desk):
    join(desk)
    sign_list(desk, OLD)
    endpoints.require_nobody_left(endpoints.show(desk), (NEW, BOTH))
    assert endpoints.struck_by(endpoints.show(desk), (NEW, BOTH)) == ()


def test_a_fleet_without_devices_may_be_given_any_list(desk):
    sign_list(desk, OLD)
    endpoints.require_nobody_left(endpoints.show(desk), (NEW,))


def test_authorities_are_split_one_by_one():
    assert split_authorities(CA + "\n# a comment\n" + OTHER) == (CA, OTHER)
    with pytest.raises(MalformedError):
        split_authorities("-----BEGIN CERTIFICATE-----\nx")
