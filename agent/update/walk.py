"""One run of python-tuf from the trust so far.

``tuf.ngclient`` verifies. What it leaves open is closed here (``docs``: security, gaps):

Rule 1: it starts from the root we hold, never from a cache that somebody could write.
Rule 2: marks are compared after its refresh and before any target is handed out, since
        it only knows its cached files, which it does not even write durably.
Rule 3: every role of every root on the way has distinct keys, and so has every delegated
        role that was read.
Rule 4: time is ours, not the system clock's.
Rule 5: bytes of targets are compared with length and SHA-256 here; ``download_target``
        writes in place and is not used.
Rule 6: it works in a directory of its own, which its caller gives and takes away.
Rule 7: whatever python-tuf raises becomes one error of our tree with one sentence.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib import parse

import msgspec
from tuf.api import exceptions
from tuf.api.metadata import (
    Delegations,
    Metadata,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from agent.contract.limits import LAST_MS
from agent.contract.marks import (
    ROLES,
    Mark,
    Marks,
    advance_marks,
    require_distinct,
    require_distinct_keys,
)
from agent.errors import AgentError, DiskFullError, RollbackError, StoreError
from agent.refusals import (
    BadMetadataError,
    KeyTypeError,
    MetadataExpiredError,
    MissingMetadataError,
    MixedMetadataError,
    OldMetadataError,
    UnpublishedError,
    UnsignedMetadataError,
    WrongTargetError,
)
from agent.update.trust import TrustState

_ERRORS: Final[tuple[tuple[type[Exception], type[AgentError]], ...]] = (
    (exceptions.ExpiredMetadataError, MetadataExpiredError),
    (exceptions.UnsignedMetadataError, UnsignedMetadataError),
    (exceptions.BadVersionNumberError, OldMetadataError),
    (DeserializationError, BadMetadataError),
    (exceptions.DownloadHTTPError, MissingMetadataError),
    (exceptions.RepositoryError, MixedMetadataError),
    (exceptions.DownloadError, MixedMetadataError),
)


class Walk:
    """One run of python-tuf from the trust so far, under the rules above.

    Args:
        state: Trust so far.
        fetcher: Answers for metadata below ``base``.
        folder: Empty, and of this run only.
        now_ms: Trusted time, ms since 1970.
        base: Address of the metadata.

    Raises:
        TrustError: The root held must not be believed.
        MalformedError: It does not parse.
        StoreError: The folder cannot be written.

    """

    def __init__(
        self,
        state: TrustState,
        fetcher: FetcherInterface,
        folder: Path,
        now_ms: int,
        base: str,
    ) -> None:
        require_distinct_keys(state.root)
        self._so_far = state
        self._folder = folder
        self._marks = state.marks
        with translated():
            for role, content in state.metadata.items():
                (folder / _cached_name(role)).write_bytes(content)
            self._updater = Updater(str(folder), base, fetcher=fetcher, bootstrap=state.root)
        self._trusted = self._updater._trusted_set  # noqa: SLF001  # no public way to set the time (gap 4)
        self._trusted.reference_time = datetime.fromtimestamp(min(now_ms, LAST_MS) // 1000, UTC)

    def refresh(self) -> None:
        """Verify root, timestamp, snapshot and targets.

        Raises:
            TrustError: They must not be believed; ``salvage`` has what may be kept.
            MalformedError: Some of them do not parse.
            StoreError: The folder cannot be written.

        """
        with translated():
            self._updater.refresh()
        self._require_distinct_roots()
        trusted = self._trusted
        self._marks = advance_marks(
            self._so_far.marks,
            _marks(trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets),
        )

    def target(self, name: str) -> TargetFile:
        """Return what the offline keys signed about a target; after ``refresh`` only.

        Raises:
            MismatchError: There is no such target.
            TrustError, MalformedError: A delegated role must not be believed.

        """
        with translated():
            signed = self._updater.get_targetinfo(name)
        for metadata in self._trusted:
            if isinstance(metadata, Targets) and metadata.delegations is not None:
                _require_distinct_delegates(metadata.delegations)
        if signed is None:
            raise UnpublishedError(f"no offline-signed target is called {name}")
        return signed

    def state(self) -> TrustState:
        """Return trust after ``refresh`` and whatever targets were looked up since."""
        return msgspec.structs.replace(
            self._so_far,
            root=(self._folder / "root.json").read_bytes(),
            metadata=self._metadata(),
            marks=self._marks,
        )

    def salvage(self) -> TrustState | None:
        """Return what was verified before the refusal (TUF 1.0.33, 5.3.8); None for nothing.

        Of a bundle that goes back behind the marks, only the roots are kept.
        """
        held, root = self._so_far, (self._folder / "root.json").read_bytes()
        metadata = self._metadata()
        try:
            self._require_distinct_roots()
            keys = self._trusted.root.roles
            new = {
                role: Mark(
                    version=Metadata.from_bytes(content).signed.version,
                    keyids=tuple(sorted(keys[role].keyids)),
                )
                for role, content in {**metadata, "root": root}.items()
                if role in ROLES and content != {**held.metadata, "root": held.root}.get(role)
            }
        except AgentError:
            return None
        try:
            marks = advance_marks(held.marks, new)
        except RollbackError:
            new = {role: mark for role, mark in new.items() if role == "root"}
            metadata, marks = held.metadata, advance_marks(held.marks, new)
        kept = msgspec.structs.replace(held, root=root, metadata=metadata, marks=marks)
        return kept if new else None

    def _metadata(self) -> dict[str, bytes]:
        return {
            parse.unquote(path.stem): path.read_bytes()
            for path in self._folder.glob("*.json")
            if path.name != "root.json"
        }

    def _require_distinct_roots(self) -> None:
        for root in (self._folder / "root_history").iterdir():
            require_distinct_keys(root.read_bytes())


def check_target(name: str, signed: TargetFile, content: bytes) -> bytes:
    """Return the bytes of a target if they are the ones that the offline keys signed.

    Raises:
        CorruptError: Another length or SHA-256, or no SHA-256 is signed.

    """
    if signed.length != len(content) or signed.hashes.get("sha256") != sha256(content).hexdigest():
        raise WrongTargetError(f"target {name} is not the one that the offline keys signed")
    return content


@contextmanager
def translated() -> Iterator[None]:
    """Turn whatever python-tuf raises into one error of our tree with one sentence."""
    try:
        yield
    except (exceptions.RepositoryError, exceptions.DownloadError) as why:
        for theirs, ours in _ERRORS:
            if isinstance(why, theirs):
                if isinstance(why, DeserializationError) and why.__cause__ is not None:
                    raise _unreadable(str(why.__cause__)) from why
                raise ours(f"trust metadata is refused: {str(why) or type(why).__name__}") from why
        raise
    except OSError as why:
        kind = DiskFullError if why.errno in {errno.ENOSPC, errno.EDQUOT} else StoreError
        raise kind(f"trust metadata cannot be checked: {why.strerror or why}") from why


def _marks(root: Root, timestamp: Timestamp, snapshot: Snapshot, targets: Targets) -> Marks:
    def mark(role: str, version: int) -> Mark:
        return Mark(version=version, keyids=tuple(sorted(root.roles[role].keyids)))

    delegated = {
        name.removesuffix(".json"): Mark(
            version=meta.version, keyids=tuple(sorted(root.roles["snapshot"].keyids))
        )
        for name, meta in snapshot.meta.items()
    }
    return {
        **delegated,
        "root": mark("root", root.version),
        "timestamp": mark("timestamp", timestamp.version),
        "snapshot": mark("snapshot", snapshot.version),
        "targets": mark("targets", targets.version),
    }


def _require_distinct_delegates(delegations: Delegations) -> None:
    """Return if no delegated role counts one public key twice."""
    roles: dict[str, Role] = {**(delegations.roles or {})}
    if delegations.succinct_roles is not None:
        roles[delegations.succinct_roles.name_prefix] = delegations.succinct_roles
    for name, role in roles.items():
        held = [delegations.keys.get(keyid) for keyid in role.keyids]
        require_distinct(name, [None if key is None else key.keyval["public"] for key in held])


def _cached_name(role: str) -> str:
    return f"{parse.quote(role, '')}.json"


def _unreadable(cause: str) -> BadMetadataError:
    kind = KeyTypeError if "nsupported public key" in cause else BadMetadataError
    return kind(f"trust metadata does not parse: {' '.join(cause.split())[:300]}")
