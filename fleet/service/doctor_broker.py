"""The broker's configuration and certificate in the manager's home, and the way to it.

Rule 1: a configuration that somebody edited is a doubt, not a fault: they may know why.
Rule 2: where the manager runs, it is believed about the broker; nobody logs in beside it,
        because that would end its session.
"""

import base64
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import pbkdf2_hmac
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from agent.contract.broker_url import BrokerUrl
from agent.contract.checkup import Check, doubt, ill, well
from agent.contract.topics import Topics
from fleet.config import FleetConfig
from fleet.errors import FleetError
from fleet.ingest.broker import BrokerLink
from fleet.ingest.client_authority import clients_folder, find_identity
from fleet.ingest.mail import Connected, Connection, Disconnected
from fleet.ingest.mosquitto import (
    CONF_FILE,
    Backend,
    BrokerLayout,
    backend_of,
    find_dynamic_security,
    render_mosquitto_conf,
    requires_certificates,
)
from fleet.ingest.password_file import (
    ACL_FILE,
    read_dynamic_security,
    read_passwords,
    render_acl,
)
from fleet.ingest.rights import CONTROL_TOPIC, MANAGER_USER, PROVISIONER_USER, Hashed
from fleet.service.doctor_certificates import check_client_certificates
from fleet.service.views import StatusView

PATIENCE_SECONDS: Final = 8.0
SOON: Final = timedelta(days=30)
_OTHERS: Final = 0o077
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_OWN: Final = (
    (MANAGER_USER, "manager-password"),
    (PROVISIONER_USER, "provisioner-password"),
)
_ONE_BACKUP: Final = "restore both from one backup"
_SECRETS: Final = ("manager-password", "provisioner-password", "server.key", "ca.key")


def check_broker(
    config: FleetConfig, *, running: bool, status: StatusView | FleetError | None, now_ms: int
) -> Iterator[Check]:
    """Judge the broker of a fleet, from its files to a login."""
    if config.broker.kind == "mosquitto":
        yield from _folder(config.broker_folder)
        yield _accounts(config.broker_folder)
        yield _configuration(config)
        if BrokerUrl.parse(config.broker.url).secure:
            now = datetime.fromtimestamp(now_ms / 1000, UTC)
            yield check_certificate(config, now)
            yield from check_client_certificates(config, now)
    if isinstance(status, StatusView):
        yield _as_told(config, status)
    elif not running:
        yield from _logins(config)


def _signed(authority: x509.Certificate, server: x509.Certificate) -> bool:
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def check_certificate(config: FleetConfig, now: datetime) -> Check:
    """Judge the server's certificate: its dates, its name, its key and who signed it."""
    folder, host = config.broker_folder, BrokerUrl.parse(config.broker.url).host
    try:
        server = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
        authorities = x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
    except OSError as why:
        return ill("tls", f"{why.filename}: {why.strerror}: restore it")
    except (ValueError, TypeError) as why:
        return ill("tls", f"a certificate or key in {folder} is not valid PEM: {why}")
    signers = [each for each in authorities if _signed(each, server)]
    if not signers:
        return ill(
            "tls",
            "server.pem was not signed by ca.pem, which devices were given: make it anew by that "
            "authority, or every device has to be enrolled again",
        )
    if key.public_key() != server.public_key():
        return ill("tls", "server.key is not the key of server.pem: the broker will not start")
    if not _names(server, host):
        return ill("tls", f"server.pem does not name {host}, by which devices reach the broker")
    wss = BrokerUrl.parse(config.broker.wss_url).host if config.broker.wss_url else host
    if not _names(server, wss):
        return ill("tls", f"server.pem does not name {wss}, the host of broker.wss_url")
    for name, certificate in (("server.pem", server), ("ca.pem", signers[0])):
        left = certificate.not_valid_after_utc - now
        if certificate.not_valid_before_utc > now or left < timedelta(0):
            return ill("tls", f"{name} is not valid at {now:%Y-%m-%d}: renew it, or set the clock")
        if left < SOON:
            return doubt("tls", f"{name} runs out in {left.days} days: renew it")
    return well("tls", f"server.pem names {host} and holds until {server.not_valid_after_utc:%F}")


def _folder(folder: Path) -> Iterator[Check]:
    if not folder.is_dir():
        yield ill("broker-files", f"{folder} is missing: restore it from a backup")
        return
    bare = [n for n in _SECRETS if (folder / n).exists() and (folder / n).stat().st_mode & _OTHERS]
    if folder.stat().st_mode & _OTHERS:
        yield ill(
            "broker-files",
            f"{folder} is open to other users, and mosquitto may leave the accounts in it "
            "readable: chmod 700 it",
        )
    elif bare:
        yield ill("broker-files", f"{', '.join(bare)} can be read by other users: chmod 600")
    else:
        yield well("broker-files", f"{folder} belongs to its user alone")


def _accounts(folder: Path) -> Check:
    backend = backend_of(folder)
    path = BrokerLayout(folder=folder, backend=backend).accounts_path
    read = read_dynamic_security if backend is Backend.DYNSEC else read_passwords
    try:
        accounts = read(path)
    except FleetError as why:
        return ill("accounts", f"{why}: restore it from a backup, or nobody can log in")
    # where files keep the accounts, the provisioner's password is another after each edit
    for user, name in _OWN if backend is Backend.DYNSEC else _OWN[:1]:
        try:
            password = (folder / name).read_text().strip()
        except (OSError, UnicodeDecodeError) as why:
            return ill("accounts", f"{folder / name} cannot be read ({why}): restore it")
        if user not in accounts:
            return ill("accounts", f"{path} has no account {user}: restore it from a backup")
        if not _is_of(password, accounts[user]):
            return ill("accounts", f"{name} is not the one in {path.name}: {_ONE_BACKUP}")
    if not (folder / "enrol-password").exists():
        return ill("accounts", f"{folder}/enrol-password is missing: restore it from a backup")
    return well("accounts", f"{len(accounts)} accounts, those of the manager fit its passwords")


def _is_of(password: str, hashed: Hashed) -> bool:
    try:
        salt, digest = base64.b64decode(hashed.salt), base64.b64decode(hashed.digest)
        made = pbkdf2_hmac("sha512", password.encode(), salt, hashed.iterations, len(digest))
    except (ValueError, OverflowError):
        return False
    return made == digest


def _configuration(config: FleetConfig) -> Check:
    folder, backend = config.broker_folder, backend_of(config.broker_folder)
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    try:
        plugin = find_dynamic_security() if backend is Backend.DYNSEC else Path()
        found = (folder / CONF_FILE).read_text()
    except FleetError as why:
        return doubt("broker-config", f"{why}; or does the broker run on another machine?")
    except (OSError, UnicodeDecodeError) as why:
        return ill("broker-config", f"{folder / CONF_FILE} cannot be read: {why}")
    if shutil.which("mosquitto", path=path) is None:
        return doubt("broker-config", "mosquitto is not installed here: does it run elsewhere?")
    differences = [
        _first_difference(found, render_mosquitto_conf(layout, plugin))
        for layout in _layouts(config, backend)
    ]
    if "" not in differences:
        return doubt(
            "broker-config",
            f"{CONF_FILE} differs from what this version writes: {min(differences, key=len)}",
        )
    if backend is Backend.ACL_FILE:
        return _rights(config)
    return well("broker-config", f"{CONF_FILE} is the one that this version writes")


def _layouts(config: FleetConfig, backend: Backend) -> list[BrokerLayout]:
    """Return what could have been written: whoever made the fleet may have been root."""
    folder = config.broker_folder
    url, enrol = BrokerUrl.parse(config.broker.url), BrokerUrl.parse(config.broker.enrol_url)
    wss = BrokerUrl.parse(config.broker.wss_url) if config.broker.wss_url else None
    return [
        BrokerLayout(
            folder=folder,
            device_port=url.port,
            enrol_port=enrol.port,
            websocket_port=wss.port if wss else None,
            bind="127.0.0.1" if url.host in _LOOPBACK else "",
            certificate=folder / "server.pem" if url.secure else None,
            key=folder / "server.key" if url.secure else None,
            user=user,
            backend=backend,
            clients=clients_folder(folder) if requires_certificates(folder) else None,
        )
        for user in ("root", None)
    ]


def _rights(config: FleetConfig) -> Check:
    path = config.broker_folder / ACL_FILE
    topics = Topics(fleet=config.fleet, prefix=config.prefix)
    try:
        difference = _first_difference(path.read_text(), render_acl(topics))
    except (OSError, UnicodeDecodeError) as why:
        return ill("broker-config", f"{path} cannot be read: {why}: restore it from a backup")
    if difference:
        return doubt(
            "broker-config", f"{ACL_FILE} differs from what this version writes: {difference}"
        )
    return well("broker-config", f"{CONF_FILE} and {ACL_FILE} are those that this version writes")


def _first_difference(found: str, rendered: str) -> str:
    """Return the first setting that one has and the other has not; empty if none."""
    ours, theirs = _settings(rendered), _settings(found)
    for line in ours:
        if line not in theirs:
            return f"it lacks {line!r}"
    for line in theirs:
        if line not in ours:
            return f"it adds {line!r}"
    return ""


def _settings(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def _names(certificate: x509.Certificate, host: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wild = "*." + host.partition(".")[2]
        return bool({host, wild} & set(names.get_values_for_type(x509.DNSName)))


def _as_told(config: FleetConfig, status: StatusView) -> Check:
    if status.broker_connected:
        return well("broker", f"the manager is connected to {config.broker.url}")
    return ill(
        "broker",
        f"the manager runs and is not connected to {config.broker.url}: does the broker run "
        "(`fieldfare broker run`)? The manager's log says why it was refused",
    )


def _logins(config: FleetConfig) -> Iterator[Check]:
    topics = Topics(fleet=config.fleet, prefix=config.prefix)
    yield _login(config, "broker", MANAGER_USER, "manager-password", topics.of_manager())
    # where files keep the accounts, the provisioner's password is another after each edit
    if config.broker.kind == "mosquitto" and backend_of(config.broker_folder) is Backend.DYNSEC:
        answers = (f"{CONTROL_TOPIC}/response",)
        yield _login(config, "provisioner", PROVISIONER_USER, "provisioner-password", answers)


def _login(
    config: FleetConfig, name: str, user: str, secret: str, subscriptions: tuple[str, ...]
) -> Check:
    try:
        password = config.secret(secret)
        connection = Connection(
            url=config.broker.url,
            ca=config.broker_ca(),
            username=user if password else None,
            password=password,
            client_id=user,
            proxies=config.broker.proxies(os.environ),
            identity=find_identity(config.broker_folder, user),
        )
    except (FleetError, OSError) as why:
        return ill(name, str(why))
    link = BrokerLink(connection, subscriptions=tuple((topic, 1) for topic in subscriptions))
    try:
        deadline = monotonic() + PATIENCE_SECONDS
        while monotonic() < deadline:
            for news in link.poll(0.5):
                match news:
                    case Connected():
                        return well(name, f"{config.broker.url} takes {user}")
                    case Disconnected(why=said):
                        return ill(name, f"{said}: {_advice(said)}")
                    case _:
                        continue
        return ill(name, f"{config.broker.url} did not answer in {PATIENCE_SECONDS:.0f} s")
    finally:
        link.close()


def _advice(said: str) -> str:
    if said.startswith("proxy "):
        return "the proxy is set in [broker] proxy of fleet.toml, or in HTTPS_PROXY"
    if "hung up during the login" in said:
        return "see the check of client-certificates"
    if "not believed" in said:
        return "see the check of tls"
    if "reached" in said:
        return "start it with `fieldfare broker run`"
    return f"its password in broker/ and the broker's accounts differ: {_ONE_BACKUP}"
