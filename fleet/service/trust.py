"""What people signed, put into force: roots, targets, delegations, and who directs.

Rule 1: the manager holds no offline key. It verifies what was signed against what is in
        force, and completes it with its online keys.
Rule 2: the keys that it signs with are those that root and authority name; when they name
        others, the key files are opened again, and assignments of an older director
        epoch are signed anew by the loop.
Rule 3: devices are told by a hint that something changed, and then ask what; those that do
        not hear it find out with the next signed time, which names the versions in force.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct, field
from tuf.api.metadata import Root, Targets

from agent.contract.authority import AUTHORITY_TARGET, Authority
from agent.contract.topics import HINT
from fleet.errors import RefusedError
from fleet.service import resumption, rounds_roles, withdrawal
from fleet.service.desk import Desk
from fleet.signing.ceremony import choose_online
from fleet.signing.metadata import parse
from fleet.signing.published import parse_authority

EVERYBODY = "all"
"""The group that every device hears."""


class SignedChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete proposal on its way in; see ``fleet.signing.proposal``.

    Attributes:
        root: The next root; empty where root stays.
        metadata: New metadata by role name.
        files: Bytes of new targets by name.

    """

    root: bytes = b""
    metadata: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


class TrustView(Struct, frozen=True, kw_only=True):
    """What is in force: version by role, the digest of root, and the director's epoch.

    ``seen`` has the versions of root and targets that devices report and that are above
    these: this manager was restored from an older copy.
    """

    versions: dict[str, int]
    root_digest: str
    director_epoch: int
    seen: dict[str, int] = field(default_factory=dict)


def show(desk: Desk) -> TrustView:
    """Return what is in force."""
    held = desk.repository.published()
    roles = {"root": held.root, "targets": held.targets, **held.delegated}
    versions = {name: role.version for name, role in roles.items()}
    return TrustView(
        versions={
            **versions,
            "snapshot": held.snapshot.version,
            "timestamp": held.timestamp.version,
        },
        root_digest=desk.repository.root_digest(),
        director_epoch=held.authority.director_epoch,
        seen=resumption.seen(desk.registry, held),
    )


def put_into_force(desk: Desk, change: SignedChange) -> TrustView:
    """Publish a signed change.

    Raises:
        RefusedError: It holds nothing, or would lower the director's epoch.
        SigningError: It is not signed, does not follow what is in force, or needs a key
            that the manager does not hold; nothing changes.

    """
    if not change.root and not change.metadata:
        raise RefusedError("this change holds neither a root nor metadata")
    held, now = desk.repository.published(), datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
    authority = _authority(change.files, held.authority)
    root = parse(Root, change.root).signed if change.root else held.root
    keys = choose_online(desk.open_ring(), root, authority)
    if change.root:
        if set(change.metadata) - {"targets"} or change.files:
            raise RefusedError("a root is published alone, or with the same targets signed anew")
        desk.repository.publish_root(
            change.root,
            targets=change.metadata.get("targets"),
            snapshot=keys.snapshot,
            timestamp=keys.timestamp,
            now=now,
        )
    else:
        desk.repository.publish_roles(change.metadata, change.files, now)
    desk.keys = keys
    body = {role: parse(Targets, c).signed.version for role, c in change.metadata.items()}
    if change.root:
        body["root"] = root.version
    rounds_roles.keep_alive(desk)
    withdrawal.stop_asking(desk)
    desk.registry.events.record("trust.changed", desk.config.fleet, body, at_ms=desk.now_ms())
    desk.send(HINT.at(EVERYBODY), b"{}")
    return show(desk)


def refresh(desk: Desk) -> TrustView:
    """Sign snapshot and timestamp anew, as the manager does by itself every day.

    Raises:
        SigningError: The repository cannot be read or written.

    """
    now = datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
    desk.repository.refresh(now, under=timedelta.max)
    return show(desk)


def _authority(files: Mapping[str, bytes], held: Authority) -> Authority:
    if AUTHORITY_TARGET not in files:
        return held
    new = parse_authority(files[AUTHORITY_TARGET])
    if new.fleet != held.fleet or new.director_epoch < held.director_epoch:
        raise RefusedError(
            f"the authority says fleet {new.fleet}, epoch {new.director_epoch}; in force are "
            f"{held.fleet}, epoch {held.director_epoch}"
        )
    if new.director_keys != held.director_keys and new.director_epoch == held.director_epoch:
        raise RefusedError("other director keys need the next director epoch")
    return new
