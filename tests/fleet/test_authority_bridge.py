"""Another authority for the broker: who believes what is shown, tried with the TLS library."""

import ssl
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fleet.errors import ConfigError
from fleet.ingest import authority
from fleet.ingest.authority import (
    Issued,
    make_authority,
    make_bridge,
    make_server,
    names_of,
    read_certificate,
    split_chain,
    why_not_believed,
    without_bridge,
)

NOW = datetime.now(UTC)
HOST = "broker.example"
NAMES = x509.SubjectAlternativeName([x509.DNSName(HOST)])
OLD, NEW = make_authority(NOW), make_authority(NOW)
BEFORE = make_server(OLD, NAMES, NOW)


def bridged(old: Issued = OLD) -> Issued:
    server = make_server(NEW, names_of(BEFORE.chain), NOW)
    return Issued(chain=server.chain + make_bridge(NEW.chain, old, NOW), key=server.key)


@pytest.mark.parametrize(
    "cas",
    [
        pytest.param((OLD.chain,), id="only the old one"),
        pytest.param((OLD.chain, NEW.chain), id="both"),
        pytest.param((NEW.chain, OLD.chain), id="both, the new one first"),
        pytest.param((NEW.chain,), id="only the new one"),
    ],
)
@pytest.mark.parametrize("strict", [False, True], ids=["as 3.11", "as 3.13"])
def test_a_bridged_certificate_is_believed_by(cas, strict, monkeypatch):
    create = ssl.create_default_context

    def stricter(**options: str) -> ssl.SSLContext:
        context = create(**options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    if strict:
        monkeypatch.setattr(authority.ssl, "create_default_context", stricter)
    assert why_not_believed(bridged(), HOST, cas) == ""


def test_without_the_bridge_who_believes_only_the_old_authority_is_stranded():
    shown = bridged()
    plain = Issued(chain=without_bridge(shown.chain, [OLD.chain]), key=shown.key)
    assert len(split_chain(plain.chain)) == 1
    assert "unable to get" in why_not_believed(plain, HOST, (OLD.chain,))
    assert why_not_believed(plain, HOST, (NEW.chain,)) == ""


def test_an_authority_that_permits_none_below_it_makes_no_bridge():
    key = serialization.load_pem_private_key(OLD.key.encode(), None)
    name = authority.common_name("of an earlier version")
    narrow = (
        authority.begin_certificate(name, name, key.public_key(), NOW, 10)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    old = Issued(chain=narrow.public_bytes(serialization.Encoding.PEM).decode(), key=OLD.key)
    assert "path length" in why_not_believed(bridged(old), HOST, (old.chain,))
    assert why_not_believed(bridged(old), HOST, (NEW.chain,)) == ""


def test_another_host_is_not_believed():
    assert "match" in why_not_believed(BEFORE, "other.example", (OLD.chain,))


def test_a_bridge_needs_the_key_of_the_old_authority():
    with pytest.raises(ConfigError, match=r"ca\.key is not the key"):
        make_bridge(NEW.chain, Issued(chain=OLD.chain, key=NEW.key), NOW)


def test_certificate_and_key_of_two_are_refused():
    with pytest.raises(ConfigError, match="cannot be used"):
        why_not_believed(Issued(chain=BEFORE.chain, key=NEW.key), HOST, (OLD.chain,))


def test_two_authorities_never_have_one_name():
    names = {read_certificate(each.chain).subject for each in (OLD, NEW)}
    assert len(names) == 2


def test_a_certificate_that_names_nobody_is_refused():
    with pytest.raises(ConfigError, match="names no host"):
        names_of(OLD.chain)
