"""The manager's roles for federated rounds, signed by itself as long as it holds their keys.

Rule 1: a role that was just delegated is put into force empty, so that nothing waits for a
        first promotion; later it is signed anew, with the same content, before it runs out.
Rule 2: a role whose key is not here is somebody's to look at, and nothing else fails for it.
"""

import logging
from datetime import UTC, datetime, timedelta
from typing import Final

from fleet.errors import SigningError
from fleet.service.desk import Desk
from fleet.signing.metadata import first_targets, next_targets
from fleet.signing.published import Published

LOG = logging.getLogger(__name__)
LEFT: Final = timedelta(days=45)


def keep_alive(desk: Desk) -> None:
    """Sign what lives less than ``LEFT``, or is not in force at all."""
    held, now = desk.repository.published(), datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
    due = [role for role in _roles(held) if _is_due(held, role, now)]
    if not due:
        return
    try:
        ring = {signer.public_key.keyid: signer for signer in desk.open_ring().values()}
        for role in due:
            keyids = [keyid for keyid in _roles(held)[role] if keyid in ring]
            if not keyids:
                LOG.warning("role %s is not signed: its key is not in keys/online", role)
                continue
            signers = [ring[keyids[0]]]
            if role in held.delegated:
                current = held.delegated_bytes[role]
                signed = next_targets(current, additions={}, removals=(), signers=signers, now=now)
            else:
                meta = held.snapshot.meta.get(f"{role}.json")
                signed = first_targets({}, signers, now, meta.version + 1 if meta else 1)
            desk.repository.publish_roles({role: signed}, {}, now)
            LOG.info("role %s signed again", role)
    except SigningError as why:  # what is in force stays; the fleet is served on
        LOG.warning("roles of rounds are not signed again why=%s", why)


def _roles(held: Published) -> dict[str, list[str]]:
    delegations = held.targets.delegations
    roles = (delegations.roles if delegations else None) or {}
    return {name: role.keyids for name, role in roles.items() if name.startswith("rounds-")}


def _is_due(held: Published, role: str, now: datetime) -> bool:
    value = held.delegated.get(role)
    return value is None or value.expires - now < LEFT
