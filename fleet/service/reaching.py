"""How the manager reaches its broker: its two connections, and what it says of itself there."""

import os

from agent.contract.codec import encode
from agent.contract.messages import ManagerPresence
from agent.contract.topics import MANAGER_PRESENCE, Address
from fleet.config import FleetConfig
from fleet.ingest.broker import BrokerLink
from fleet.ingest.certified_accounts import CertifiedAccounts
from fleet.ingest.client_authority import find_identity
from fleet.ingest.file_accounts import FileAccounts
from fleet.ingest.mail import Connection, Message
from fleet.ingest.mosquitto import MANAGER_USER, PROVISIONER_USER, Backend, backend_of
from fleet.ingest.provision import Provisioner
from fleet.service.desk import Desk
from fleet.service.errands import Accounts, NoAccounts


def open_link(desk: Desk) -> BrokerLink:
    """Return the connection for everything that devices hear and say."""
    return BrokerLink(
        _connection(desk.config, MANAGER_USER, "manager-password"),
        subscriptions=tuple((topic, 1) for topic in desk.topics.of_manager()),
        will=presence(desk, "offline"),
    )


def open_accounts(desk: Desk) -> Accounts:
    """Open the broker's accounts, on a connection of their own where they need one.

    Raises:
        UnreachableError: The broker does not answer.

    """
    config = desk.config
    if config.broker.kind == "embedded":
        return NoAccounts()
    connection = _connection(config, PROVISIONER_USER, "provisioner-password")
    if backend_of(config.broker_folder) is Backend.ACL_FILE:
        return FileAccounts(config.broker_folder, connection)
    provisioner = Provisioner(connection, desk.topics)
    if desk.clients is None:
        return provisioner
    return CertifiedAccounts(provisioner, desk.clients, config.broker_folder)


def message(desk: Desk, address: Address, payload: bytes) -> Message:
    """Return what is published under an address."""
    channel = address.channel
    return Message(
        topic=desk.topics.write(address),
        payload=payload,
        qos=channel.qos,
        retain=channel.retain,
        expiry_seconds=channel.expiry_seconds,
        content_type="application/json" if payload[:1] == b"{" else "application/octet-stream",
    )


def presence(desk: Desk, s: str) -> Message:
    """Return the manager's word that it is ``online`` or ``offline``."""
    served = s == "online" and bool(desk.config.downloads.url)
    body = encode(ManagerPresence(s=s, epoch=desk.epoch, downloads=served))
    return message(desk, MANAGER_PRESENCE.at(desk.config.manager), body)


def _connection(config: FleetConfig, user: str, secret: str) -> Connection:
    password = config.secret(secret)
    return Connection(
        url=config.broker.url,
        ca_file=config.broker_folder / "ca.pem",
        username=user if password else None,
        password=password,
        client_id=user,
        proxies=config.broker.proxies(os.environ),
        identity=find_identity(config.broker_folder, user),
    )
