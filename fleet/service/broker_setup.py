"""Setting up the broker of a fleet that exists: certificate, backend, configuration.

Rule 1: nothing is written before a broker has been started with it and has held.
Rule 2: accounts move between the backends as they are: no device notices, because both
        keep the same hashes.
Rule 3: an authority that enrolled devices do not believe is refused: it would strand them.
"""

import os
import shutil
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.contract.broker_url import BrokerUrl
from agent.contract.topics import Topics
from fleet.config import FleetConfig
from fleet.errors import ConfigError, RefusedError
from fleet.ingest.client_authority import clients_folder
from fleet.ingest.mosquitto import (
    DYNSEC_FILE,
    Backend,
    BrokerLayout,
    backend_of,
    write_broker,
)
from fleet.ingest.password_file import (
    PASSWORDS_FILE,
    read_dynamic_security,
    read_passwords,
    replace_file,
)
from fleet.ingest.rights import Accounts, Hashed, first_passwords
from fleet.ingest.trial import Trial, try_broker
from fleet.registry.devices import DeviceState
from fleet.registry.sqlite import open_registry
from fleet.service.client_certificates import (
    ClientCertificates,
    certify_own,
    refuse_unfit,
    standing,
    take_up,
    without_passwords,
)
from fleet.service.occupancy import occupy
from fleet.signing.published import read_published

DYNSEC_DEVICES = 2000
"""Dynamic security writes its whole file for each device: 18 ms each at this many."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerWish:
    """What the operator wants.

    Attributes:
        folder: Where to write; None is the home's own.
        certificate, key: PEM files of the server; None keeps what is there.
        authority: PEM file of whoever signed the certificate; None keeps what is there.
        devices: How many the fleet will have; 0 is not said.
        backend: Who keeps the accounts; None goes by ``devices``.
        certificates: What is made of client certificates; None keeps it as it is.

    """

    folder: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    devices: int = 0
    backend: Backend | None = None
    certificates: ClientCertificates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSetup:
    """What was written, and what a broker started with it held."""

    folder: Path
    backend: Backend
    accounts: int
    certificates: ClientCertificates | None
    held: tuple[str, ...]
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Certificate:
    """PEM texts; all empty without TLS."""

    server: str = ""
    key: str = ""
    authority: str = ""


def set_up_broker(config: FleetConfig, wish: BrokerWish) -> BrokerSetup:
    """Try a configuration and write it.

    Args:
        config: The fleet's; addresses and ports are its.
        wish: What is to be different.

    Raises:
        ConflictError: The manager runs.
        RefusedError: The wish contradicts itself or the fleet, or the broker does not hold.
        ConfigError: A file cannot be read or is not in order.
        UnreachableError: mosquitto is not installed, or does not start with it.

    """
    if config.broker.kind != "mosquitto":
        raise RefusedError("this fleet was made with the embedded broker, which has no settings")
    with occupy(config.home):
        return _set_up(config, wish)


def _set_up(config: FleetConfig, wish: BrokerWish) -> BrokerSetup:
    own = config.broker_folder
    folder = (wish.folder or own).resolve()
    before = backend_of(own)
    backend = wish.backend or (Backend.ACL_FILE if wish.devices > DYNSEC_DEVICES else before)
    if backend is Backend.ACL_FILE and folder != own:
        raise RefusedError(
            f"files keep the accounts in {own}, where the manager edits them: leave --dir out, or "
            "take --backend dynsec, which works over the network"
        )
    certificates = wish.certificates or standing(config)
    if certificates is not None:
        refuse_unfit(config, certificates, backend=backend, own_folder=folder == own)
    accounts, certificate = _accounts(config), _certificate(config, wish)
    kept = _kept_passwords(own, before)
    same = folder == own and backend is before and bool(kept)
    passwords = kept if same else {**kept, **first_passwords(accounts)}
    required = certificates is ClientCertificates.REQUIRE
    if required and standing(config) is not certificates:
        passwords, same = without_passwords(passwords), False
    url, wss = BrokerUrl.parse(config.broker.url), _wss(config)
    layout = BrokerLayout(
        folder=folder,
        device_port=url.port,
        enrol_port=BrokerUrl.parse(config.broker.enrol_url).port,
        websocket_port=wss.port if wss else None,
        bind="127.0.0.1" if url.host in _LOOPBACK else "",
        certificate=folder / "server.pem" if url.secure else None,
        key=folder / "server.key" if url.secure else None,
        user="root" if os.getuid() == 0 else None,
        backend=backend,
        clients=clients_folder(folder) if required else None,
    )
    held = _tried_with_authority(
        config, layout, certificate, accounts, passwords, certificates=certificates
    )
    topics = Topics(fleet=config.fleet, prefix=config.prefix)
    _write(config, layout, topics, certificate, None if same else passwords)
    return BrokerSetup(
        folder=folder,
        backend=backend,
        accounts=len(passwords),
        certificates=certificates,
        held=held,
        warning=_warning(layout, wish),
    )


def _warning(layout: BrokerLayout, wish: BrokerWish) -> str:
    said = []
    if layout.backend is Backend.DYNSEC and wish.devices > DYNSEC_DEVICES:
        said.append(
            "dynamic security writes every account anew for each device that joins; above "
            f"{DYNSEC_DEVICES} devices take --backend acl_file"
        )
    if layout.websocket_port is not None and layout.bind:
        said.append(
            f"mosquitto 2.0 may listen for WebSocket on every address, not on {layout.bind} alone"
        )
    return "; ".join(said)


def _wss(config: FleetConfig) -> BrokerUrl | None:
    for name in ("url", "enrol_url"):
        if BrokerUrl.parse(getattr(config.broker, name)).path is not None:
            raise RefusedError(
                f"broker.{name} is for plain MQTT: leave it mqtts:// and set broker.wss_url beside"
            )
    if not config.broker.wss_url:
        return None
    wss = BrokerUrl.parse(config.broker.wss_url)
    others = {BrokerUrl.parse(u).port for u in (config.broker.url, config.broker.enrol_url)}
    if wss.port in others:
        raise RefusedError(f"port {wss.port} of broker.wss_url is that of another listener")
    if not BrokerUrl.parse(config.broker.url).secure:
        raise RefusedError("broker.wss_url needs a certificate: broker.url is not mqtts://")
    return wss


def _tried_with_authority(
    config: FleetConfig,
    layout: BrokerLayout,
    certificate: _Certificate,
    accounts: Accounts,
    passwords: Mapping[str, Hashed],
    *,
    certificates: ClientCertificates | None,
) -> tuple[str, ...]:
    """Try it with the authority for client certificates; one made for it goes if it fails."""
    if certificates is None:
        return _try(config, layout, certificate, accounts, passwords)
    authority, made_now = take_up(config)
    try:
        held = _try(config, layout, certificate, accounts, passwords)
    except BaseException:
        if made_now:
            shutil.rmtree(authority.folder)
        raise
    if layout.clients is not None:
        certify_own(authority)
    return held


def _try(
    config: FleetConfig,
    layout: BrokerLayout,
    certificate: _Certificate,
    accounts: Accounts,
    passwords: Mapping[str, Hashed],
) -> tuple[str, ...]:
    url = BrokerUrl.parse(config.broker.url)
    with TemporaryDirectory(prefix="fieldfare-tls-") as name:
        server, key = Path(name) / "server.pem", Path(name) / "server.key"
        if url.secure:
            replace_file(server, certificate.server)
            replace_file(key, certificate.key)
            layout = replace(layout, certificate=server, key=key)
        return try_broker(
            Trial(
                layout=layout,
                topics=Topics(fleet=config.fleet, prefix=config.prefix),
                host=url.host if url.secure else "",
                wss=_wss(config),
                ca=certificate.authority,
                accounts=accounts,
                passwords=passwords,
            )
        )


def _write(
    config: FleetConfig,
    layout: BrokerLayout,
    topics: Topics,
    certificate: _Certificate,
    passwords: Mapping[str, Hashed] | None,
) -> None:
    layout.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if layout.certificate is not None and layout.key is not None:
        replace_file(layout.key, certificate.key)
        replace_file(layout.certificate, certificate.server)
        replace_file(config.broker_folder / "ca.pem", certificate.authority)
    write_broker(layout, topics, passwords)


def _accounts(config: FleetConfig) -> Accounts:
    found = {
        name: config.secret(f"{name}-password") for name in ("manager", "provisioner", "enrol")
    }
    for name, secret in found.items():
        if not secret:
            raise ConfigError(
                f"{config.broker_folder / f'{name}-password'} is missing: restore it from a backup"
            )
    return Accounts(**{name: secret or "" for name, secret in found.items()})


def _kept_passwords(folder: Path, backend: Backend) -> dict[str, Hashed]:
    match backend:
        case Backend.DYNSEC:
            path = folder / DYNSEC_FILE
            return read_dynamic_security(path) if path.exists() else {}
        case Backend.ACL_FILE:
            return read_passwords(folder / PASSWORDS_FILE)


def _certificate(config: FleetConfig, wish: BrokerWish) -> _Certificate:
    if not BrokerUrl.parse(config.broker.url).secure:
        if wish.certificate or wish.key or wish.authority:
            raise RefusedError(f"{config.broker.url} is not mqtts://: it has no certificate")
        return _Certificate()
    if (wish.certificate is None) != (wish.key is None):
        raise RefusedError("a certificate and its key are given together: --tls-cert and --tls-key")
    own = config.broker_folder
    certificate, key = wish.certificate or own / "server.pem", wish.key or own / "server.key"
    authority = _read(wish.authority or own / "ca.pem")
    if authority.strip() != config.broker_ca().strip():
        _require_nobody_enrolled(config)
        _require_unlisted(config)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError, ValueError) as why:
        raise ConfigError(
            f"{certificate} and {key} are not a certificate and its key without a passphrase: {why}"
        ) from why
    return _Certificate(server=_read(certificate), key=_read(key), authority=authority)


def _require_nobody_enrolled(config: FleetConfig) -> None:
    registry = open_registry(config.registry, create=False)
    try:
        enrolled = len(registry.devices.listing(DeviceState.ENROLLED))
    finally:
        registry.close()
    if enrolled:
        raise RefusedError(
            f"{enrolled} enrolled device(s) believe only the authority in "
            f"{config.broker_folder / 'ca.pem'}: take a certificate that it signed, or they are "
            "stranded; 'fieldfare broker rotate-ca' changes the authority without"
        )


def _require_unlisted(config: FleetConfig) -> None:
    """Return if no signed list tells devices whom to believe: it would name the old authority."""
    listed = read_published(config.repository).endpoints
    if listed is not None:
        raise RefusedError(
            f"list of endpoints version {listed.version} tells devices to believe the authority in "
            f"{config.broker_folder / 'ca.pem'}: change it with 'fieldfare broker rotate-ca'"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as why:
        raise ConfigError(f"{path} cannot be read: {why}") from why
