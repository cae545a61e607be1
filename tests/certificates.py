"""Server certificates as brokers should not have them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from fleet.ingest import tls
from fleet.ingest.authority import common_name
from fleet.ingest.tls import create_dev_tls

HOUR = timedelta(hours=1)


def make_certificates(
    folder: Path, host: str = "127.0.0.1", begins: timedelta = -HOUR, ends: timedelta = HOUR
) -> str:
    """Write a server certificate for one host; return the PEM of its authority.

    ``begins`` and ``ends`` are counted from now.
    """
    ca_pem = create_dev_tls(folder)
    ca = x509.load_pem_x509_certificate(ca_pem.encode())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
    now = datetime.now(UTC)
    server = (
        x509.CertificateBuilder()
        .subject_name(common_name("a broker"))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(x509.SubjectAlternativeName([tls._alternative(host)]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    return ca_pem
