"""The device's certificate for its broker: taken over whole, or not at all."""

import shutil
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from agent.contract.messages import ClientCertificate
from agent.disk import Disk
from agent.errors import CorruptError
from agent.identity.certificate import (
    CERTIFICATE,
    IDENTITY_FILE,
    install,
    load_certificate,
    restore_identity,
)
from fleet.ingest.client_authority import ClientAuthority
from tests.faulty_disk import FaultyDisk, PowerCutError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClientAuthority:
    return ClientAuthority.create(tmp_path_factory.mktemp("place") / "clients", "demo", NOW)


def issued(authority: ClientAuthority, key: SigningKey) -> ClientCertificate:
    return authority.issue("d-one", bytes(key.verify_key).hex(), NOW)


def loads(path: Path) -> bool:
    """Whether TLS takes a file as a certificate and its key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
    except (OSError, ssl.SSLError):
        return False
    return True


def test_what_was_issued_is_shown_with_its_key(authority: ClientAuthority, tmp_path: Path):
    disk, key = Disk(tmp_path), SigningKey.generate()
    file = install(disk, key, issued(authority, key))
    assert load_certificate(disk) == file
    assert loads(disk.path(IDENTITY_FILE))
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    assert {p.name for p in tmp_path.iterdir()} == {CERTIFICATE, IDENTITY_FILE}


@pytest.mark.parametrize("wrong", ["another key", "no certificate", "nothing"])
def test_a_certificate_that_does_not_fit_replaces_nothing(
    authority: ClientAuthority, tmp_path: Path, wrong: str
):
    disk, key = Disk(tmp_path), SigningKey.generate()
    install(disk, key, issued(authority, key))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    sent = issued(authority, SigningKey.generate())
    if wrong != "another key":
        pem = "" if wrong == "nothing" else "-----BEGIN CERTIFICATE-----\nAA\n"
        sent = ClientCertificate(pem=pem, issued_ms=0, expires_ms=1)
    with pytest.raises(CorruptError, match="does not fit"):
        install(disk, key, sent)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_whenever_the_power_is_cut_the_old_or_the_new_one_is_shown_whole(
    authority: ClientAuthority, tmp_path: Path
):
    old_key, new_key = SigningKey.generate(), SigningKey.generate()
    old, new = issued(authority, old_key), issued(authority, new_key)
    shown, cut = set(), 0
    while True:
        place = tmp_path / str(cut)
        install(Disk(place), old_key, old)
        disk = FaultyDisk(place, good=cut)
        try:
            install(disk, new_key, new)
            break
        except PowerCutError:
            pass
        path = restore_identity(Disk(place))
        assert loads(path)
        file = load_certificate(Disk(place))
        assert file is not None
        assert file.certificate.pem in path.read_text()
        shown.add(file.certificate.pem)
        cut += 1
    assert shown == {old.pem, new.pem}
    assert cut >= 5


def test_another_one_is_due_when_half_of_its_time_has_gone(
    authority: ClientAuthority, tmp_path: Path
):
    key = SigningKey.generate()
    file = install(Disk(tmp_path), key, issued(authority, key))
    begun, ends = file.certificate.issued_ms, file.certificate.expires_ms
    assert not file.is_due((begun + ends) // 2 - 1)
    assert file.is_due((begun + ends) // 2)


def test_a_certificate_of_version_1_is_still_read(tmp_path: Path):
    shutil.copy(FIXTURES / "certificate-v1.json", tmp_path / CERTIFICATE)
    file = load_certificate(Disk(tmp_path))
    assert file is not None
    assert file.fingerprint == "d7242550dc345782d383589945850f5fe58746bb5eeb73c7e6541e0ceb9a6025"
    assert loads(restore_identity(Disk(tmp_path)))


def test_a_device_without_one_shows_none(tmp_path: Path):
    assert not restore_identity(Disk(tmp_path)).exists()
