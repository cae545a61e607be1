"""Another authority for the broker's certificate, and a bridge from the old one to it.

    server ◀── new authority                        for whoever believes the new one
    server ◀── new authority ◀── old authority      for whoever believes only the old one
               (the bridge)

The broker shows the server's certificate with the bridge behind it: the new authority's name
and key, signed by the old authority. Whoever believes only the old one finds the way by it;
whoever believes the new one needs no more of it. (RFC 5280, 3.2: cross-certificates.)

Rule 1: whether a chain is believed is tried with the TLS library that devices use, never
        derived from fields.
Rule 2: a key identifier stands in every certificate: Python 3.13 refuses chains without.
"""

import datetime as dt
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.contract.endpoints import split_authorities
from agent.errors import MalformedError
from fleet.errors import ConfigError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
CLOCK_SKEW = dt.timedelta(days=1)
_STEPS = 8

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """PEM texts of a certificate, or of a chain that begins with it, and of its key."""

    chain: str
    key: str


def make_authority(now: dt.datetime) -> Issued:
    """Return a new authority; its name tells it from every other."""
    key = ec.generate_private_key(ec.SECP256R1())
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    name = common_name(f"Fieldfare authority {now:%Y-%m-%d} {mark}")
    builder = _authority(name, name, key.public_key(), key.public_key(), now)
    # Room for one bridge below it, when its own time comes.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    return Issued(chain=_pem(builder.sign(key, hashes.SHA256())), key=_private(key))


def names_of(pem: str) -> x509.SubjectAlternativeName:
    """Return the hosts that a certificate names.

    Raises:
        ConfigError: It names none, or cannot be read.

    """
    try:
        found = read_certificate(pem).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound as why:
        raise ConfigError("the broker's certificate names no host (SAN)") from why
    return found.value


def make_server(authority: Issued, names: x509.SubjectAlternativeName, now: dt.datetime) -> Issued:
    """Return a server's certificate and key.

    Args:
        authority: Signs it.
        names: Hosts that it is for.
        now: Aware datetime.

    Raises:
        ConfigError: The authority cannot be read.

    """
    signer, key = read_certificate(authority.chain), _read_key(authority.key)
    own = ec.generate_private_key(ec.SECP256R1())
    builder = (
        begin_certificate(
            common_name("fieldfare"), signer.subject, own.public_key(), now, SERVER_DAYS
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(_issued_by(key), critical=False)
    )
    return Issued(chain=_pem(builder.sign(key, hashes.SHA256())), key=_private(own))


def make_bridge(new: str, old: Issued, now: dt.datetime) -> str:
    """Return the certificate by which whoever believes ``old`` believes ``new``; PEM.

    Whether it is believed depends on what the old authority permits: try it.

    Raises:
        ConfigError: One of them cannot be read, or the key is not the old authority's.

    """
    target, signer, key = read_certificate(new), read_certificate(old.chain), _read_key(old.key)
    if key.public_key() != signer.public_key():
        raise ConfigError("ca.key is not the key of the authority in ca.pem: no bridge can be made")
    public = target.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise ConfigError("the new authority's key is neither ECDSA nor RSA")
    builder = _authority(target.subject, signer.subject, public, key.public_key(), now)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return _pem(builder.sign(key, hashes.SHA256()))


def without_bridge(chain: str, old: Sequence[str]) -> str:
    """Return a chain without the certificates that old authorities signed."""
    signers = [read_certificate(pem) for pem in old]
    kept = [
        pem
        for pem in split_chain(chain)
        if not any(_signed_by(read_certificate(pem), signer) for signer in signers)
    ]
    return "".join(kept)


def why_not_believed(shown: Issued, host: str, cas: Sequence[str]) -> str:
    """Return why a client that believes these authorities refuses a server; empty if not.

    Raises:
        ConfigError: The server's certificate and key cannot be used, or an authority.

    """
    client_in, server_in = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        asking = ssl.create_default_context(cadata="".join(cas))
        showing = _server_context(shown)
    except (ssl.SSLError, OSError, ValueError) as why:
        raise ConfigError(f"certificate and key of the broker cannot be used: {why}") from why
    server = showing.wrap_bio(server_in, client_in, server_side=True)
    client = asking.wrap_bio(client_in, server_in, server_hostname=host)
    for _ in range(_STEPS):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as why:
            return str(getattr(why, "verify_message", "") or why)
        else:
            return ""
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return "the two do not come to terms"


def read_certificate(pem: str) -> x509.Certificate:
    """Return the first certificate of a PEM text.

    Raises:
        ConfigError: It cannot be read.

    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as why:
        raise ConfigError(f"a certificate of the broker cannot be read: {why}") from why


def split_chain(chain: str) -> tuple[str, ...]:
    """Return the certificates of a chain, one by one.

    Raises:
        ConfigError: One of them is not PEM.

    """
    try:
        return split_authorities(chain)
    except MalformedError as why:
        raise ConfigError(f"a certificate of the broker cannot be read: {why}") from why


def common_name(text: str) -> x509.Name:
    """Return the name of a certificate's holder."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def begin_certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    """Return the beginning of a certificate, without extensions.

    Args:
        subject: Whose it is.
        issuer: Who signs it.
        key: The subject's.
        now: Aware datetime; it is valid from before, because clocks differ.
        days: How long it is valid.

    """
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _server_context(shown: Issued) -> ssl.SSLContext:
    from tempfile import NamedTemporaryFile  # noqa: PLC0415 - the library reads files only

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(shown.key + shown.chain)
        file.flush()
        context.load_cert_chain(file.name, password="")
    return context


def _authority(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    signer: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    now: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        begin_certificate(subject, issuer, public, now, AUTHORITY_DAYS)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(key: SigningKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _read_key(pem: str) -> SigningKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as why:
        raise ConfigError(f"an authority's key cannot be read: {why}") from why
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigError("an authority's key is neither ECDSA nor RSA")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
