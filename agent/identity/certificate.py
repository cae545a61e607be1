"""The certificate that this device shows a broker that asks for one, and its key.

Rule 1: the key is made here for each certificate and never leaves; it is not the device's own
        key, which signs reports and must outlive every certificate.
Rule 2: ``certificate.json`` is the truth. ``certificate.pem`` is made from it, because TLS
        reads files only; after a power cut it is made again.
Rule 3: a certificate that does not fit its key is refused before anything is replaced.
Rule 4: another one is asked for when half of its time has gone.

Ed25519 as PKCS #8: RFC 8410, 7; PEM: RFC 7468.
"""

import base64
import hashlib
import ssl
from pathlib import Path

from nacl.signing import SigningKey

from agent.contract.codec import Versioned, encode
from agent.contract.messages import ClientCertificate, Hex64
from agent.disk import Disk, read_versioned
from agent.errors import CorruptError, MalformedError

CERTIFICATE = "certificate.json"
IDENTITY_FILE = "certificate.pem"
_TRIED = "certificate.try"
_PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
_LINE = 64


class CertificateFile(Versioned, frozen=True, kw_only=True):
    """``certificate.json``: seed of the key (hex) and the certificate. Secret."""

    seed: Hex64
    certificate: ClientCertificate

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, hex."""
        der = ssl.PEM_cert_to_DER_cert(self.certificate.pem)
        return hashlib.sha256(der).hexdigest()

    def is_due(self, now_ms: int) -> bool:
        """Return whether it is time for another one."""
        half = (self.certificate.issued_ms + self.certificate.expires_ms) // 2
        return now_ms >= half


def load_certificate(disk: Disk) -> CertificateFile | None:
    """Return what this device has; None without any.

    Raises:
        NewerStateError: A newer agent wrote it.
        StoreError: It cannot be read.

    """
    return read_versioned(disk, CERTIFICATE, CertificateFile)


def restore_identity(disk: Disk) -> Path:
    """Make the file that TLS reads, where it is not as it should be; return where it lies.

    Raises:
        NewerStateError, StoreError: As for ``load_certificate``, or it cannot be written.

    """
    file = load_certificate(disk)
    if file is not None and disk.read(IDENTITY_FILE) != _pem(file):
        disk.replace(IDENTITY_FILE, _pem(file))
    return disk.path(IDENTITY_FILE)


def install(disk: Disk, key: SigningKey, certificate: ClientCertificate) -> CertificateFile:
    """Take over a certificate for a key that was made here.

    Args:
        disk: Where it goes.
        key: Whose public half was certified.
        certificate: What the fleet signed for.

    Raises:
        CorruptError: It is no certificate, or one for another key; nothing was replaced.
        StoreError: It cannot be written.

    """
    file = CertificateFile(seed=bytes(key).hex(), certificate=certificate)
    disk.write(_TRIED, _pem(file))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(disk.path(_TRIED))
    except (ssl.SSLError, ValueError) as why:
        raise CorruptError(f"the fleet sent a client certificate that does not fit: {why}") from why
    finally:
        disk.remove(_TRIED)
    disk.replace(CERTIFICATE, encode(file))
    restore_identity(disk)
    return file


def _pem(file: CertificateFile) -> bytes:
    try:
        der = _PKCS8_ED25519 + bytes.fromhex(file.seed)
        text = base64.b64encode(der).decode()
    except ValueError as why:
        raise MalformedError(f"{CERTIFICATE}: {why}") from why
    lines = [text[i : i + _LINE] for i in range(0, len(text), _LINE)]
    key = "\n".join(("-----BEGIN PRIVATE KEY-----", *lines, "-----END PRIVATE KEY-----", ""))
    return f"{key}{file.certificate.pem}".encode()
