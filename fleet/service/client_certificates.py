"""From a fleet without client certificates to one that asks for them, without stranding anybody.

    none ──offer──▶ offered: every device is given one ──require──▶ required

Rule 1: certificates are required only once every enrolled device has said that it has one.
Rule 2: then no device has a password any more: with one it could come by the strangers'
        listener, which asks for no certificate. So there is no way back while any is enrolled.
Rule 3: dynamic security on this machine only. It cuts the connection of whoever is revoked,
        which accounts in files cannot where no password is asked; and the list of revocations
        is a file that the manager writes.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum

from agent.contract.broker_url import BrokerUrl
from fleet.config import FleetConfig
from fleet.errors import RefusedError
from fleet.ingest.client_authority import ClientAuthority, clients_folder
from fleet.ingest.mosquitto import Backend, find_client_authority, requires_certificates
from fleet.ingest.rights import (
    MANAGER_USER,
    PROVISIONER_USER,
    Hashed,
    enrol_seats,
    new_password,
)
from fleet.registry.devices import DeviceState
from fleet.registry.sqlite import open_registry

_NAMED = 5
_OURS = frozenset((MANAGER_USER, PROVISIONER_USER, *enrol_seats()))


class ClientCertificates(StrEnum):
    """What is made of client certificates."""

    OFFER = "offer"
    REQUIRE = "require"


def standing(config: FleetConfig) -> ClientCertificates | None:
    """Return how it is now; None without an authority for them.

    Raises:
        ConfigError: The authority is not in order.

    """
    if find_client_authority(config.broker_folder) is None:
        return None
    required = requires_certificates(config.broker_folder)
    return ClientCertificates.REQUIRE if required else ClientCertificates.OFFER


def refuse_unfit(
    config: FleetConfig, wanted: ClientCertificates, *, backend: Backend, own_folder: bool
) -> None:
    """Refuse what cannot hold, or would strand a device.

    Raises:
        RefusedError: It says which.
        ConfigError: The authority or the registry is not in order.

    """
    if not BrokerUrl.parse(config.broker.url).secure:
        raise RefusedError(f"{config.broker.url} is not mqtts://: it sees no certificates")
    if backend is not Backend.DYNSEC:
        raise RefusedError(
            "accounts in files are not cut off where a certificate stands for the password: client "
            "certificates need --backend dynsec"
        )
    if not own_folder:
        raise RefusedError(
            "the manager writes the list of revoked certificates where the broker reads it, in "
            f"{config.broker_folder}: leave --dir out"
        )
    if wanted is ClientCertificates.REQUIRE and config.broker.wss_url:
        raise RefusedError(
            "over WebSocket mosquitto asks for no client certificate: take broker.wss_url out of "
            "fleet.toml, or leave certificates offered"
        )
    if wanted is standing(config):
        return
    enrolled = _enrolled(config)
    if wanted is ClientCertificates.OFFER and requires_certificates(config.broker_folder):
        if enrolled:
            raise RefusedError(
                f"{len(enrolled)} enrolled device(s) have certificates and no passwords: they "
                "would be stranded"
            )
        return
    if wanted is ClientCertificates.REQUIRE:
        _require_everybody_has_one(config, enrolled)


def _require_everybody_has_one(config: FleetConfig, enrolled: list[str]) -> None:
    authority, now = find_client_authority(config.broker_folder), datetime.now(UTC)
    without = [d for d in enrolled if authority is None or not authority.holds(d, now)]
    if without:
        named = ", ".join(without[:_NAMED]) + (", …" if len(without) > _NAMED else "")
        raise RefusedError(
            f"{len(without)} of {len(enrolled)} enrolled device(s) have no certificate yet "
            f"({named}): set it to 'offer' first, start the manager, and wait until each has been "
            "online with an agent that asks for one; or revoke those that will not come back"
        )


def take_up(config: FleetConfig) -> tuple[ClientAuthority, bool]:
    """Return the authority, and whether it was made now.

    Raises:
        ConfigError: It is not in order, or cannot be made.

    """
    found = find_client_authority(config.broker_folder)
    if found is not None:
        return found, False
    place = clients_folder(config.broker_folder)
    return ClientAuthority.create(place, config.fleet, datetime.now(UTC)), True


def certify_own(authority: ClientAuthority) -> None:
    """Give the manager and its provisioner certificates, which hold as long as the authority."""
    now = datetime.now(UTC)
    for user in (MANAGER_USER, PROVISIONER_USER):
        authority.own_identity(user, now)


def without_passwords(passwords: Mapping[str, Hashed]) -> dict[str, Hashed]:
    """Return the accounts with passwords of devices that nobody knows."""
    return {
        name: hashed if name in _OURS else Hashed.of(new_password())
        for name, hashed in passwords.items()
    }


def _enrolled(config: FleetConfig) -> list[str]:
    registry = open_registry(config.registry, create=False)
    try:
        return [device.id for device in registry.devices.listing(DeviceState.ENROLLED)]
    finally:
        registry.close()
