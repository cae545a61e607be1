"""How far trust has advanced, and how many keys really stand behind a role.

Rule 1: a role's version never falls while its key ids in root stay the same. python-tuf
        only compares with cached files, and an emptied cache let an older repository in.
Rule 2: a mark is passed over when root gave the role other keys, so that a stolen
        online key that raced ahead is recovered from by rotating it. Root itself has no
        such way out: its chain has none either. New snapshot keys free the roles that
        snapshot lists as well (TUF 5.3.11).
Rule 3: a role needs as many distinct public keys as key ids. python-tuf counts ids, and
        one key under two ids met a threshold of two.

Pure: works on metadata bytes whose signatures python-tuf has already checked, or on the
pinned root. Source: the TUF specification 1.0.33, sections 4.3 and 5.3.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.contract.limits import MAX_METADATA_BYTES
from agent.refusals import BadMetadataError, OldMarkError, OversizedError, SharedKeyError

ROLES = ("root", "timestamp", "snapshot", "targets")

_Version = Annotated[int, Meta(ge=1)]


class Mark(Struct, frozen=True, kw_only=True):
    """The highest version of one role that was accepted under these key ids (sorted)."""

    version: _Version
    keyids: tuple[str, ...]


Marks = dict[str, Mark]
"""Mark by role name; delegated roles by their own name."""


class _Val(Struct, frozen=True):
    public: str


class _Key(Struct, frozen=True):
    keyval: _Val


class _Role(Struct, frozen=True):
    keyids: tuple[str, ...]


class _Signed(Struct, frozen=True):
    version: _Version
    expires: datetime
    keys: dict[str, _Key] = {}
    roles: dict[str, _Role] = {}


class _Envelope(Struct, frozen=True):
    signed: _Signed


class RootView(Struct, frozen=True, kw_only=True):
    """What the checks need of a root.

    Attributes:
        version: Root version.
        expires_ms: Until when it promises anything, ms since 1970.
        keyids: Sorted key ids by role.
        publics: Public key (hex) by key id.

    """

    version: int
    expires_ms: int
    keyids: dict[str, tuple[str, ...]]
    publics: dict[str, str]


def view_root(root: bytes) -> RootView:
    """Read root metadata.

    Raises:
        MalformedError: It is not root metadata with the four roles.

    """
    if len(root) > MAX_METADATA_BYTES:
        raise OversizedError(f"root metadata of {len(root)} bytes is over {MAX_METADATA_BYTES}")
    try:
        signed = msgspec.json.decode(root, type=_Envelope).signed
    except (msgspec.MsgspecError, ValueError, RecursionError) as why:
        raise BadMetadataError(f"root metadata does not parse: {why}") from why
    if not set(ROLES) <= set(signed.roles) or signed.expires.tzinfo is None:
        raise BadMetadataError("root metadata does not name all four roles and an expiry in UTC")
    return RootView(
        version=signed.version,
        expires_ms=int(signed.expires.astimezone(UTC).timestamp() * 1000),
        keyids={name: tuple(sorted(role.keyids)) for name, role in signed.roles.items()},
        publics={keyid: key.keyval.public for keyid, key in signed.keys.items()},
    )


def require_distinct_keys(root: bytes) -> None:
    """Return if every role of a root has as many public keys as key ids.

    Raises:
        MalformedError: It is not root metadata.
        UnsignedError: A key stands under two ids, or an id names no key.

    """
    view = view_root(root)
    for role, keyids in view.keyids.items():
        require_distinct(role, [view.publics.get(keyid) for keyid in keyids])


def require_distinct(role: str, publics: list[str | None]) -> None:
    """Return if the public keys behind a role's key ids are all there and all different.

    Raises:
        UnsignedError: They are not.

    """
    if None in publics:
        raise SharedKeyError(f"role {role} names a key id without a key")
    if len({str(public).lower() for public in publics}) < len(publics):
        raise SharedKeyError(f"role {role} counts one public key under more than one key id")


def advance_marks(old: Marks, new: Marks) -> Marks:
    """Return the marks after accepting ``new``; roles that ``new`` leaves out stay.

    Raises:
        RollbackError: A role went back under the same keys, or root went back at all.

    """
    lister, next_lister = old.get("snapshot"), new.get("snapshot")
    relisted = lister and next_lister and lister.keyids != next_lister.keyids
    for role, mark in new.items():
        held = old.get(role)
        if held is None or mark.version >= held.version:
            continue
        listed = role not in {"root", "timestamp", "snapshot"}
        if role == "root" or (mark.keyids == held.keyids and not (listed and relisted)):
            raise OldMarkError(
                f"{role} metadata is version {mark.version}, version {held.version} was accepted"
            )
    return {**old, **new}
