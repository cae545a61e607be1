"""Certificates for development: an authority of our own and one server certificate.

Rule 1: production brings certificates of its own; nothing here renews anything.
Rule 2: keys are ECDSA P-256, created with mode 0600 and never overwritten.
Rule 3: validity ends on an ordinary day: a fixed number of days, not "the same date in
        some years", which does not exist for 29 February.
"""

import datetime as dt
import ipaddress
import os
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.errors import ConflictError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 825
CLOCK_SKEW = dt.timedelta(days=1)


def create_dev_tls(folder: Path, hosts: tuple[str, ...] = ()) -> str:
    """Write ``ca.pem``, ``ca.key``, ``server.pem`` and ``server.key``; return the CA's PEM.

    Args:
        folder: Where to write; made with mode 0700 if absent.
        hosts: Names and addresses beside localhost, 127.0.0.1, ::1 and this host's name.

    Raises:
        ConflictError: One of the files exists.

    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = _name("Fieldfare development authority")
    authority = (
        _certificate(ca_name, ca_name, ca_key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = ("localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts)
    server = (
        _certificate(_name("fieldfare"), ca_name, server_key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(n) for n in dict.fromkeys(names)]),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    ca_pem = authority.public_bytes(serialization.Encoding.PEM)
    _create(folder / "ca.key", _private(ca_key), 0o600)
    _create(folder / "ca.pem", ca_pem, 0o644)
    _create(folder / "server.key", _private(server_key), 0o600)
    _create(folder / "server.pem", server.public_bytes(serialization.Encoding.PEM), 0o644)
    return ca_pem.decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
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


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as why:
        raise ConflictError(f"{path} exists and is not overwritten: move it away first") from why
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
