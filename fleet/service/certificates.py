"""Client certificates, as the manager gives them: at enrolment, and to whoever asks later.

Rule 1: only an enrolled device is given one, for a key that it signed for.
Rule 2: a certificate counts as held when the device says so, not when it was sent.
Rule 3: what is wrong with certificates keeps no device from its signed time.
"""

import logging
from datetime import UTC, datetime

from agent.contract.enrolment import EnrolRequest
from agent.contract.messages import ClientCertificate, FreshRequest
from fleet.errors import FleetError
from fleet.service.desk import Desk, Grant

LOG = logging.getLogger(__name__)


def why_not(desk: Desk, request: EnrolRequest) -> str:
    """Return why a stranger could not log in if it were enrolled; empty if it could."""
    if desk.clients is not None and desk.clients.required and request.tls_key is None:
        return (
            "this fleet's broker asks for client certificates, and this agent asked for none: "
            "update the agent"
        )
    return ""


def granted(desk: Desk, grant: Grant) -> ClientCertificate | None:
    """Return the certificate of a device that is being enrolled, where it gets one."""
    if desk.clients is None or grant.request.tls_key is None:
        return None
    return desk.clients.issue(grant.device, grant.request.tls_key, _now(desk))


def asked(desk: Desk, device: str, request: FreshRequest) -> ClientCertificate | None:
    """Note which certificate a device has, and return the one that it asks for."""
    if desk.clients is None:
        return None
    try:
        if request.certificate is not None:
            desk.clients.confirm(device, request.certificate)
        if request.tls_key is None:
            return None
        if desk.certifying.lets(device, desk.now_ms()):
            return desk.clients.issue(device, request.tls_key, _now(desk))
        if desk.certifying.begins_to_refuse(device):
            LOG.warning("certificates asked too often device=%s; none for now", device)
    except (FleetError, OSError) as why:
        LOG.warning("no certificate device=%s why=%s", device, why)
    return None


def _now(desk: Desk) -> datetime:
    return datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
