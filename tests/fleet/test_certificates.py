"""The manager gives client certificates to enrolled devices, and to nobody else."""

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from nacl.signing import SigningKey

from agent.contract.messages import Fresh, FreshRequest
from agent.contract.topics import ENROL_REPLY, FRESH, FRESH_REQUEST
from agent.identity.device_key import DeviceKey
from agent.identity.enrol import build_request
from fleet.ingest.client_authority import ClientAuthority, clients_folder
from fleet.ingest.mail import Arrived
from fleet.service import membership
from fleet.service.certificates import granted
from fleet.service.desk import Desk, Grant
from fleet.service.wishes import TokenWish
from tests.manager_home import Stranger, join, make_desk

TLS_KEY = SigningKey.generate().verify_key


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def offer(desk: Desk, *, required: bool = False) -> ClientAuthority:
    folder = clients_folder(desk.config.broker_folder)
    ClientAuthority.create(folder, "demo", datetime.now(UTC))
    desk.clients = ClientAuthority(folder, required=required)
    return desk.clients


def ask_with_key(desk: Desk, device: Stranger) -> None:
    """Ask to join as an agent does that knows of certificates."""
    file = membership.create_token(desk, TokenWish())
    asking = build_request(
        file,
        DeviceKey(device.key),
        os.urandom(16).hex(),
        hardware="generic-linux",
        tls_key=TLS_KEY,
    )
    topic = desk.topics.write(asking.request)
    device.deliver(desk, Arrived(topic=topic, payload=asking.payload))


def fresh(desk: Desk, device: Stranger, **asked: str) -> Fresh | None:
    """Ask for signed time and return the answer; None where there is none."""
    desk.outgoing.clear()
    device.says(desk, FRESH_REQUEST.at(device.id), FreshRequest(nonce="ab" * 16, **asked))
    found = [o.payload for o in desk.outgoing if o.address.channel is FRESH]
    if not found:
        return None
    return msgspec.json.decode(msgspec.json.decode(found[0])["body"], type=Fresh)


def key() -> str:
    return bytes(SigningKey.generate().verify_key).hex()


def test_a_device_is_certified_when_it_joins(desk: Desk):
    offer(desk)
    device = Stranger()
    ask_with_key(desk, device)
    errand = desk.errands.popleft()
    assert isinstance(errand, Grant)
    made = granted(desk, errand)
    assert made is not None
    read = x509.load_pem_x509_certificate(made.pem.encode())
    assert read.public_key().public_bytes_raw() == bytes(TLS_KEY)
    assert read.subject.rfc4514_string() == f"CN={device.id}"


def test_an_older_agent_joins_where_certificates_are_only_offered(desk: Desk):
    offer(desk)
    device = join(desk)
    assert membership.device(desk, device.id).state == "enrolled"
    errand = desk.errands.popleft()
    assert isinstance(errand, Grant)
    assert granted(desk, errand) is None


def test_an_older_agent_is_told_so_where_they_are_required_and_its_token_is_not_used(desk: Desk):
    offer(desk, required=True)
    join(desk)
    assert membership.devices(desk) == []
    assert not desk.errands
    assert [o for o in desk.outgoing if o.address.channel is ENROL_REPLY]
    assert [t.used_by for t in membership.tokens(desk)] == [()]
    ask_with_key(desk, Stranger())
    assert len(membership.devices(desk)) == 1


def test_a_device_of_before_is_certified_when_it_asks_and_counts_when_it_says_so(desk: Desk):
    device = join(desk)
    before = fresh(desk, device, tls_key=key())
    assert before is not None
    assert (before.certificates, before.certificate) == (False, None)
    authority = offer(desk)
    silent = fresh(desk, device)
    assert silent is not None
    assert (silent.certificates, silent.certificate) == (True, None)
    answer = fresh(desk, device, tls_key=key())
    assert answer is not None
    assert answer.certificate is not None
    now = datetime.now(UTC)
    assert not authority.holds(device.id, now)
    read = x509.load_pem_x509_certificate(answer.certificate.pem.encode())
    fresh(desk, device, certificate=read.fingerprint(hashes.SHA256()).hex())
    assert authority.holds(device.id, now)


def test_whoever_asks_again_and_again_gets_its_time_and_no_more_certificates(desk: Desk):
    offer(desk)
    device = join(desk)
    answers = [fresh(desk, device, tls_key=key()) for _ in range(8)]
    assert all(answer is not None for answer in answers)
    given = [answer for answer in answers if answer and answer.certificate]
    assert 1 <= len(given) <= 4


def test_a_stranger_and_a_revoked_device_are_certified_by_no_question(desk: Desk):
    authority = offer(desk)
    stranger, device = Stranger(), join(desk)
    assert fresh(desk, stranger, tls_key=key()) is None
    membership.revoke(desk, device.id)
    assert fresh(desk, device, tls_key=key()) is None
    assert not list((authority.folder / "issued").iterdir())


def test_a_damaged_list_costs_a_certificate_and_not_the_time(desk: Desk):
    authority = offer(desk)
    device = join(desk)
    (authority.folder / "issued" / f"{device.id}.pem").mkdir()
    answer = fresh(desk, device, tls_key=key())
    assert answer is not None
    assert answer.certificate is None
