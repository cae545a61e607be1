"""Which promises stand, who makes them, and which run out soon.

Rule 1: a role that people sign is due for signing ``warn`` before it runs out.
Rule 2: snapshot and timestamp live seven days and the manager signs them daily; they are
        due when less than ``ONLINE_WARN`` is left, because then no manager has signed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tuf.api.metadata import Role

from fleet.signing.published import Published

ONLINE_WARN: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStatus:
    """One role of the fleet.

    Attributes:
        version: Of its metadata in force; 0 where none is.
        expires: When it runs out; None for a role without metadata in force.
        keyids: Keys that may sign it.
        threshold: How many of them must.
        online: The manager signs it, not a person.

    """

    role: str
    version: int
    expires: datetime | None
    keyids: tuple[str, ...]
    threshold: int
    online: bool = False

    def is_due(self, now: datetime, warn: timedelta) -> bool:
        """Return whether somebody has to sign it now."""
        within = min(warn, ONLINE_WARN) if self.online else warn
        return self.expires is None or self.expires - now < within


def role_statuses(published: Published) -> tuple[RoleStatus, ...]:
    """Return every role: root, targets, delegated ones, snapshot, timestamp."""
    root, targets = published.root, published.targets
    signed = {
        "root": root,
        "targets": targets,
        "snapshot": published.snapshot,
        "timestamp": published.timestamp,
    }
    own = [
        _status(name, root.roles[name], value.version, value.expires)
        for name, value in signed.items()
    ]
    delegated = []
    for name, role in ((targets.delegations.roles if targets.delegations else None) or {}).items():
        value = published.delegated.get(name)
        version, expires = (value.version, value.expires) if value else (0, None)
        delegated.append(_status(name, role, version, expires))
    return (*own[:2], *delegated, *own[2:])


def _status(name: str, role: Role, version: int, expires: datetime | None) -> RoleStatus:
    return RoleStatus(
        role=name,
        version=version,
        expires=expires,
        keyids=tuple(role.keyids),
        threshold=role.threshold,
        online=name in {"snapshot", "timestamp"},
    )
