"""The authority for client certificates in the manager's home, where the fleet has one."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from agent.contract.checkup import Check, doubt, ill, well
from fleet.config import FleetConfig
from fleet.errors import FleetError
from fleet.ingest.client_authority import REVOKED_FILE, ClientAuthority, find_identity
from fleet.ingest.mosquitto import find_client_authority
from fleet.ingest.rights import MANAGER_USER, PROVISIONER_USER

NAME: Final = "client-certificates"
LONG_BEFORE: Final = timedelta(days=730)
"""A device's certificate holds for so long, and not longer than the authority."""
_BACKUP: Final = "restore broker/clients from a backup"


def check_client_certificates(config: FleetConfig, now: datetime) -> Iterator[Check]:
    """Judge authority, list of revocations and the fleet's own certificates; none is well."""
    try:
        authority = find_client_authority(config.broker_folder)
    except FleetError as why:
        yield ill(NAME, str(why))
        return
    if authority is not None:
        yield _judge(config, authority, now)


def _judge(config: FleetConfig, authority: ClientAuthority, now: datetime) -> Check:
    path = authority.folder / REVOKED_FILE
    try:
        revoked = x509.load_pem_x509_crl(path.read_bytes())
        listed = revoked.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type]  # an elliptic curve's
    except (OSError, ValueError, TypeError) as why:
        return ill(NAME, f"{path} cannot be read ({why}): the broker will not start; {_BACKUP}")
    if not listed:
        return ill(NAME, f"{path} was not signed by this authority: {_BACKUP}")
    left = authority.certificate.not_valid_after_utc - now
    if left < timedelta(0) or authority.certificate.not_valid_before_utc > now:
        return ill(
            NAME,
            f"its authority is not valid at {now:%Y-%m-%d}, so no device gets in: set the clock, "
            "or make another fleet's authority and enrol all devices anew",
        )
    if authority.required:
        for user in (MANAGER_USER, PROVISIONER_USER):
            if find_identity(config.broker_folder, user) is None:
                return ill(
                    NAME,
                    f"{user} has no certificate, and the broker asks for one: run "
                    "'fieldfare broker setup'",
                )
    if left < LONG_BEFORE:
        return doubt(
            NAME,
            f"its authority runs out in {left.days} days, and with it every certificate: plan to "
            "enrol the devices anew",
        )
    stand = "asked for" if authority.required else "offered"
    return well(NAME, f"{stand}; {len(list(revoked))} revoked")
