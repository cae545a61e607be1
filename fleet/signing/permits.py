"""Ways back that nobody foresaw: permits, and the withdrawal of a release, as proposals.

Rule 1: a permit names one release, one slot, devices, and an expiry, and is signed by the
        targets keys. It forgives a lower counter, and nothing else.
Rule 2: what has run out leaves the file with the next change of it.
Rule 3: a withdrawn release is no longer a target: no device verifies it any more. What
        runs goes on running.
"""

from collections.abc import Collection
from datetime import datetime

from agent.contract.authority import PERMITS_TARGET, Permit, Permits
from agent.contract.codec import encode
from agent.contract.messages import Assigned
from fleet.errors import SigningError
from fleet.signing.metadata import delegated_role
from fleet.signing.proposal import Proposal, propose_targets
from fleet.signing.published import Published


def propose_permit(
    held: Published,
    release: Assigned,
    *,
    slot: str,
    devices: Collection[str],
    expires: datetime,
    now: datetime,
) -> Proposal:
    """Propose to let devices go back to a release; it replaces a permit for the same.

    Args:
        held: What is in force.
        release: Where they may go back to.
        slot: Its slot.
        devices: Who may; empty is every device of the fleet.
        expires: Until when, aware.
        now: Aware datetime.

    Raises:
        SigningError: The release is not a target, or the permit would have run out.

    """
    if expires <= now:
        raise SigningError(f"a permit until {expires:%Y-%m-%d %H:%M} would have run out already")
    role = delegated_role(held.targets, release.target)
    owner = held.targets if role is None else held.delegated.get(role)
    if owner is None or release.target not in owner.targets:
        raise SigningError(f"{release.target} is withdrawn: no device would verify it")
    permit = Permit(
        release=release.digest,
        slot=slot,
        devices=tuple(sorted(devices)),
        expires_ms=int(expires.timestamp() * 1000),
    )
    return _propose(held, f"permit {release.target}", release.digest, permit, now)


def propose_end(held: Published, release: Assigned, now: datetime) -> Proposal:
    """Propose to end the permits for a release.

    Raises:
        SigningError: There is none.

    """
    if all(permit.release != release.digest for permit in held.permits.permits):
        raise SigningError(f"there is no permit for {release.target}")
    return _propose(held, f"no permit for {release.target}", release.digest, None, now)


def propose_withdrawal(held: Published, target: str, now: datetime) -> Proposal:
    """Propose that a release is a target no more; its role's keys have to sign.

    Raises:
        SigningError: It is none.

    """
    role = delegated_role(held.targets, target) or "targets"
    return propose_targets(
        held, what=f"withdraw {target}", additions={}, removals=(target,), now=now, role=role
    )


def _propose(
    held: Published, what: str, digest: str, permit: Permit | None, now: datetime
) -> Proposal:
    now_ms = int(now.timestamp() * 1000)
    others = tuple(p for p in held.permits.permits if p.release != digest and p.expires_ms > now_ms)
    permits = Permits(
        fleet=held.authority.fleet, permits=others if permit is None else (*others, permit)
    )
    additions = {PERMITS_TARGET: encode(permits)}
    return propose_targets(held, what=what, additions=additions, removals=(), now=now)
