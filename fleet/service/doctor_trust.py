"""What the fleet has promised, who signs it, and whether they still can.

Rule 1: only public halves are read; no key is opened, and no passphrase is asked for.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from agent.contract.checkup import Check, doubt, ill, span, well
from fleet.config import FleetConfig
from fleet.errors import FleetError, SigningError
from fleet.signing.ceremony import PUBLIC_FILE
from fleet.signing.keys import read_public
from fleet.signing.metadata import LIFETIMES
from fleet.signing.published import Published
from fleet.signing.status import RoleStatus, role_statuses

WARN: Final = timedelta(days=30)
SKEW_MS: Final = 5 * 60_000


def check_keys(config: FleetConfig, published: Published | None) -> Iterator[Check]:
    """Judge the manager's key files."""
    folder = config.keys / "online"
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != PUBLIC_FILE]
    publics, broken = set(), False
    for path in paths:
        try:
            publics.add(read_public(path))
        except SigningError as why:
            broken = True
            yield ill(f"key:{path.stem}", str(why))
    missing = _missing(published, publics) if published else []
    if not paths:
        yield ill("keys", f"there is no key in {folder}: restore the manager's keys")
    elif missing and not broken:
        yield ill(
            "keys",
            f"no file in {folder} is the {' or the '.join(missing)} key that the fleet names: "
            "restore it, or name another (`fieldfare keys rotate`)",
        )
    elif not broken:
        yield well("keys", f"{len(paths)} online keys")
    if config.dev:
        yield doubt(
            "dev",
            "a development fleet: every key lies in this home without a passphrase; for real "
            "devices found one whose people sign elsewhere (`fieldfare keys init`)",
        )
    elif (config.keys / "offline").exists():
        yield doubt(
            "dev", f"offline keys lie in {config.keys / 'offline'}: move them off this machine"
        )


def check_repository(published: Published | FleetError, now_ms: int) -> Iterator[Check]:
    """Judge the metadata and when each role runs out."""
    if isinstance(published, FleetError):
        yield ill("repository", str(published))
        return
    if published.interrupted:
        yield doubt("repository", "a change of root was cut off; the manager finishes it at start")
    else:
        yield well("repository", f"root {published.root.version} and all below it verify")
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    for role in role_statuses(published):
        yield _check_role(role, now)


def check_clock(published: Published | FleetError, newest_event_ms: int, now_ms: int) -> Check:
    """Compare the system clock with what was signed and recorded by it before.

    Args:
        published: What is in force.
        newest_event_ms: When the registry's newest event was recorded; 0 if there is none.
        now_ms: The system clock, ms since 1970.

    """
    before = newest_event_ms
    if not isinstance(published, FleetError):
        signed = published.timestamp.expires - LIFETIMES["timestamp"]
        before = max(before, int(signed.timestamp() * 1000))
    says = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if before - now_ms > SKEW_MS:
        return ill(
            "clock",
            f"the system clock says {says}, {span(before - now_ms)} before this manager last "
            "signed or recorded something: set it; devices believe the time that is signed here",
        )
    return well("clock", f"the system clock says {says}")


def _missing(published: Published, held: set[str]) -> list[str]:
    root, authority = published.root, published.authority
    named = {
        role: {str(root.keys[keyid].keyval["public"]) for keyid in root.roles[role].keyids}
        for role in ("snapshot", "timestamp")
    } | {"director": set(authority.director_keys), "enrolment": set(authority.enrolment_keys)}
    return [role for role, publics in named.items() if not publics & held]


def _check_role(role: RoleStatus, now: datetime) -> Check:
    name = f"role:{role.role}"
    if role.expires is None:
        return doubt(name, "has no metadata in force: its owner has to sign")
    left_ms = int((role.expires - now).total_seconds() * 1000)
    whose = (
        "start the manager, which signs it daily, and see its log"
        if role.online
        else "its people have to sign (`fieldfare keys status`)"
    )
    if left_ms <= 0:
        return ill(
            name,
            f"version {role.version} ran out {span(left_ms)} ago; devices run what they have and "
            f"take nothing new: {whose}",
        )
    if role.is_due(now, WARN):
        return doubt(name, f"version {role.version} runs out in {span(left_ms)}: {whose}")
    return well(name, f"version {role.version} holds for {span(left_ms)}")
