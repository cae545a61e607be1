"""The authority for client certificates: what it signs, remembers and takes back."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from nacl.signing import SigningKey

from agent.errors import MalformedError
from fleet.errors import ConfigError
from fleet.ingest.client_authority import MOST_VALID, ClientAuthority

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = bytes(SigningKey.generate().verify_key).hex()


@pytest.fixture
def authority(tmp_path: Path) -> ClientAuthority:
    return ClientAuthority.create(tmp_path / "clients", "demo", NOW)


def read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def fingerprint(pem: str) -> str:
    return read(pem).fingerprint(hashes.SHA256()).hex()


def listed(authority: ClientAuthority) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((authority.folder / "revoked.pem").read_bytes())


def test_a_certificate_names_the_device_and_holds_for_its_key_only(authority: ClientAuthority):
    issued = authority.issue("d-one", KEY, NOW)
    made = read(issued.pem)
    assert made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "d-one"
    assert made.public_key().public_bytes_raw().hex() == KEY
    made.verify_directly_issued_by(authority.certificate)
    assert made.not_valid_before_utc < NOW < made.not_valid_after_utc
    assert issued.expires_ms - issued.issued_ms == timedelta(days=730) / timedelta(milliseconds=1)


def test_every_certificate_of_a_revoked_device_is_listed_and_no_other(authority: ClientAuthority):
    ours = [read(authority.issue("d-one", KEY, NOW).pem) for _ in range(2)]
    other = read(authority.issue("d-two", KEY, NOW).pem)
    assert authority.revoke("d-one", NOW)
    revoked = {entry.serial_number for entry in listed(authority)}
    assert revoked == {certificate.serial_number for certificate in ours}
    assert other.serial_number not in revoked
    assert listed(authority).is_signature_valid(authority.certificate.public_key())


def test_a_revocation_may_be_repeated_until_the_broker_has_read_it(authority: ClientAuthority):
    authority.issue("d-one", KEY, NOW)
    assert authority.revoke("d-one", NOW)
    assert authority.revoke("d-one", NOW)
    assert len(listed(authority)) == 1
    authority.forget("d-one")
    assert not authority.revoke("d-one", NOW)
    assert len(listed(authority)) == 1


def test_each_list_is_newer_than_the_one_before_and_none_is_of_the_future(
    authority: ClientAuthority,
):
    moments = [listed(authority).last_update_utc]
    for name in ("d-one", "d-two", "d-three"):
        authority.issue(name, KEY, NOW)
        authority.revoke(name, NOW)
        moments.append(listed(authority).last_update_utc)
    assert moments == sorted(set(moments))
    assert moments[-1] < NOW
    assert listed(authority).next_update_utc == authority.certificate.not_valid_after_utc


def test_a_device_has_a_certificate_once_it_says_so(authority: ClientAuthority):
    assert not authority.holds("d-one", NOW)
    issued = authority.issue("d-one", KEY, NOW)
    assert not authority.holds("d-one", NOW)
    authority.confirm("d-one", "ab" * 32)
    assert not authority.holds("d-one", NOW)
    authority.confirm("d-one", fingerprint(issued.pem))
    assert authority.holds("d-one", NOW)
    assert not authority.holds("d-one", NOW + timedelta(days=731))
    authority.forget("d-one")
    assert not authority.holds("d-one", NOW)


def test_a_device_that_asks_again_and_again_keeps_what_it_uses_and_loses_the_oldest(
    authority: ClientAuthority,
):
    used = authority.issue("d-one", KEY, NOW).pem
    authority.confirm("d-one", fingerprint(used))
    others = [read(authority.issue("d-one", KEY, NOW).pem) for _ in range(3 * MOST_VALID)]
    revoked = {entry.serial_number for entry in listed(authority)}
    assert read(used).serial_number not in revoked
    assert authority.holds("d-one", NOW)
    valid = [c for c in others if c.serial_number not in revoked]
    assert len(valid) <= MOST_VALID
    assert others[-1] in valid


def test_it_is_the_same_after_a_restart(authority: ClientAuthority):
    issued = authority.issue("d-one", KEY, NOW)
    again = ClientAuthority(authority.folder, required=True)
    assert again.revoke("d-one", NOW)
    assert read(issued.pem).serial_number in {entry.serial_number for entry in listed(again)}


def test_a_name_that_is_no_device_is_not_certified(authority: ClientAuthority):
    with pytest.raises(MalformedError):
        authority.issue("../ca", KEY, NOW)


@pytest.mark.parametrize("damage", ["missing", "torn", "of another"])
def test_an_authority_that_is_not_in_order_is_named(
    authority: ClientAuthority, tmp_path: Path, damage: str
):
    key = authority.folder / "ca.key"
    if damage == "missing":
        key.unlink()
    elif damage == "torn":
        key.write_bytes(key.read_bytes()[:50])
    else:
        other = ClientAuthority.create(tmp_path / "other", "demo", NOW)
        shutil.copy(other.folder / "ca.key", key)
    with pytest.raises(ConfigError, match=r"authority for client certificates|ca\.key is not"):
        ClientAuthority(authority.folder, required=False)


def test_its_secrets_are_readable_by_their_owner_only(authority: ClientAuthority):
    authority.own_identity("fieldfare-manager", NOW)
    modes = {p.name: p.stat().st_mode & 0o777 for p in authority.folder.rglob("*") if p.is_file()}
    assert set(modes.values()) == {0o600}
    assert authority.folder.stat().st_mode & 0o777 == 0o700
