"""The fleet's own authority for client certificates: who may open a TLS connection at all.

Rule 1: it certifies public keys that devices sign for; no private key of a device comes here.
Rule 2: the name in a certificate is the device's id: the broker takes it as the user name.
Rule 3: what was issued is remembered until it is revoked or has run out, because a list of
        revocations names certificates, not devices.
Rule 4: each list is a little newer than the one before: OpenSSL keeps an older list of the
        same moment. It does not run out before the authority, because an outdated list shuts
        everybody out.

X.509 certificates and lists: RFC 5280; Ed25519 in them: RFC 8410.
"""

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.contract.limits import require_name
from agent.contract.messages import ClientCertificate
from fleet.errors import ConfigError, RefusedError
from fleet.ingest.authority import CLOCK_SKEW, begin_certificate, common_name
from fleet.ingest.password_file import replace_file

AUTHORITY_FILE, KEY_FILE, REVOKED_FILE = "ca.pem", "ca.key", "revoked.pem"
AUTHORITY_DAYS = 3650
DEVICE_DAYS = 730
MOST_VALID = 8
"""A device that asks again and again does not fill the list of what it has."""
_END = "-----END CERTIFICATE-----\n"
_STEP = dt.timedelta(seconds=1)


class ClientAuthority:
    """An authority in its folder; its methods may be repeated.

    Args:
        folder: ``broker/clients``.
        required: Whether the broker's configuration asks for its certificates.

    Raises:
        ConfigError: It is not in order.

    """

    def __init__(self, folder: Path, *, required: bool) -> None:
        self.folder = folder
        self.required = required
        try:
            self.certificate = x509.load_pem_x509_certificate(
                (folder / AUTHORITY_FILE).read_bytes()
            )
            key = serialization.load_pem_private_key((folder / KEY_FILE).read_bytes(), None)
        except (OSError, ValueError, TypeError) as why:
            raise ConfigError(
                f"the authority for client certificates in {folder} cannot be read: {why}; restore "
                "it from a backup"
            ) from why
        if not isinstance(key, ec.EllipticCurvePrivateKey) or (
            key.public_key() != self.certificate.public_key()
        ):
            raise ConfigError(f"{folder / KEY_FILE} is not the key of {AUTHORITY_FILE}")
        self._key = key
        self._listing = Lock()

    @classmethod
    def create(cls, folder: Path, fleet: str, now: dt.datetime) -> Self:
        """Make a new authority and its empty list of revocations.

        Raises:
            ConfigError: The folder cannot be made.

        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = common_name(f"Fieldfare devices of {fleet}")
        made = (
            begin_certificate(name, name, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        try:
            (folder / "issued").mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            replace_file(folder / KEY_FILE, _private(key))
            replace_file(folder / AUTHORITY_FILE, _pem(made))
        except OSError as why:
            raise ConfigError(f"{folder} cannot be made: {why.strerror or why}") from why
        authority = cls(folder, required=False)
        authority._write_list((), now - CLOCK_SKEW)
        return authority

    def issue(self, device: str, public: str, now: dt.datetime) -> ClientCertificate:
        """Certify a device's public key for TLS.

        Args:
            device: Its id.
            public: Ed25519, hex.
            now: The time.

        Raises:
            RefusedError: The key is none.

        """
        require_name(device, "device")
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        except ValueError as why:
            raise RefusedError(f"{device} asks to certify what is no Ed25519 key") from why
        made = self._issue(device, key, now, DEVICE_DAYS)
        self._remember(device, made, now)
        return ClientCertificate(
            pem=_pem(made),
            issued_ms=_ms(now),
            expires_ms=_ms(made.not_valid_after_utc),
        )

    def confirm(self, device: str, fingerprint: str) -> None:
        """Note that a device has a certificate of ours; others are ignored."""
        path = self._held(device)
        held = {_fingerprint(c) for c in self._certificates(device)}
        if fingerprint in held and _read(path).strip() != fingerprint:
            replace_file(path, f"{fingerprint}\n")

    def holds(self, device: str, now: dt.datetime) -> bool:
        """Return whether a device has said that it has a certificate, and that is valid."""
        held = _read(self._held(device)).strip()
        return any(
            _fingerprint(c) == held and c.not_valid_after_utc > now
            for c in self._certificates(device)
        )

    def revoke(self, device: str, now: dt.datetime) -> bool:
        """Put all certificates of a device on the list; False where it has none.

        The broker has yet to read the list; ``forget`` comes after that.
        """
        ours = self._certificates(device)
        self._add_to_list(ours, now)
        return bool(ours)

    def forget(self, device: str) -> None:
        """Remember nothing more of a device than its revocations."""
        for path in (self._issued(device), self._held(device)):
            path.unlink(missing_ok=True)

    def own_identity(self, user: str, now: dt.datetime) -> Path:
        """Make a certificate of the fleet's own, with its key, and return the file of both."""
        key = ec.generate_private_key(ec.SECP256R1())
        left = self.certificate.not_valid_after_utc - now
        made = self._issue(user, key.public_key(), now, max(left.days, 1))
        self._remember(user, made, now)
        path = self.folder / f"{user}.pem"
        replace_file(path, _private(key) + _pem(made))
        return path

    def _issue(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
        now: dt.datetime,
        days: int,
    ) -> x509.Certificate:
        return (
            begin_certificate(common_name(name), self.certificate.subject, key, now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _remember(self, name: str, made: x509.Certificate, now: dt.datetime) -> None:
        """Keep what was issued; of too many, the oldest that are not in use are revoked."""
        valid = [c for c in self._certificates(name) if c.not_valid_after_utc > now]
        held = _read(self._held(name)).strip()
        surplus = [c for c in valid if _fingerprint(c) != held][: max(len(valid) - MOST_VALID, 0)]
        self._add_to_list(surplus, now)
        kept = [c for c in valid if c not in surplus]
        replace_file(self._issued(name), "".join(_pem(c) for c in (*kept, made)))

    def _held(self, device: str) -> Path:
        return self.folder / "issued" / f"{device}.held"

    def _issued(self, device: str) -> Path:
        return self.folder / "issued" / f"{device}.pem"

    def _certificates(self, device: str) -> list[x509.Certificate]:
        parts = _read(self._issued(device)).split(_END)[:-1]
        return [x509.load_pem_x509_certificate(f"{part}{_END}".encode()) for part in parts]

    def _add_to_list(self, certificates: list[x509.Certificate], now: dt.datetime) -> None:
        if not certificates:
            return
        with self._listing:
            listed = {revoked.serial_number: revoked for revoked in self._list()}
            for one in certificates:
                listed.setdefault(one.serial_number, _revoked(one, now))
            self._write_list(listed.values(), now - CLOCK_SKEW)

    def _list(self) -> x509.CertificateRevocationList:
        path = self.folder / REVOKED_FILE
        try:
            return x509.load_pem_x509_crl(path.read_bytes())
        except (OSError, ValueError) as why:
            raise ConfigError(f"{path} cannot be read: {why}; restore it from a backup") from why

    def _write_list(self, revoked: Iterable[x509.RevokedCertificate], said: dt.datetime) -> None:
        path = self.folder / REVOKED_FILE
        if path.exists():
            said = max(said, self._list().last_update_utc + _STEP)
        made = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(said)
            .next_update(self.certificate.not_valid_after_utc)
        )
        for one in revoked:
            made = made.add_revoked_certificate(one)
        signed = made.sign(self._key, hashes.SHA256())
        replace_file(path, signed.public_bytes(serialization.Encoding.PEM).decode())


def clients_folder(broker_folder: Path) -> Path:
    """Return where the authority of a broker's clients lies."""
    return broker_folder / "clients"


def find_identity(broker_folder: Path, user: str) -> Path | None:
    """Return the file with key and certificate of an account of the fleet's own, if any."""
    path = clients_folder(broker_folder) / f"{user}.pem"
    return path if path.exists() else None


def _revoked(certificate: x509.Certificate, now: dt.datetime) -> x509.RevokedCertificate:
    return (
        x509.RevokedCertificateBuilder()
        .serial_number(certificate.serial_number)
        .revocation_date(now)
        .build()
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _ms(moment: dt.datetime) -> int:
    return int(moment.timestamp() * 1000)
