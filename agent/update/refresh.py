"""One run of python-tuf over metadata that has already been collected.

Only the short-lived child imports this module; its values are in ``agent.update.trust``.
``tuf.ngclient`` verifies. What it leaves open is closed here (``docs``: security, gaps):

Rule 1: it starts from the root we hold, never from a cache that somebody could write.
Rule 2: marks are compared after its refresh and before any target is handed out, since
        it only knows its cached files, which it does not even write durably.
Rule 3: every role of every root on the way has distinct keys.
Rule 4: time is ours, not the system clock's.
Rule 5: bytes of targets are compared with length and SHA-256 here; ``download_target``
        writes in place and is not used.
Rule 6: a file that the bundle lacks is a 404, or the search for roots never ends.
Rule 7: it works in a temporary directory of its own, over bytes in memory.
Rule 8: a director of a higher epoch is learnt even from what has run out, and nothing else.
Rule 9: Ed25519 is the only key type that loads (``contract.keys.register``).
"""

import errno
import re
import tempfile
from collections.abc import Iterator, Mapping
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

from agent.contract.codec import decode
from agent.contract.endpoints import ENDPOINTS_TARGET
from agent.contract.keys import register
from agent.contract.limits import MAX_MANIFEST_BYTES, MAX_METADATA_BYTES
from agent.contract.marks import (
    ROLES,
    Mark,
    Marks,
    advance_marks,
    require_distinct,
    require_distinct_keys,
)
from agent.contract.messages import AUTHORITY_TARGET, PERMITS_TARGET, Authority
from agent.errors import AgentError, DiskFullError, RollbackError, StoreError, TrustError
from agent.refusals import (
    BadMetadataError,
    KeyTypeError,
    MetadataExpiredError,
    MissingMetadataError,
    MissingTargetError,
    MixedMetadataError,
    OldMetadataError,
    OversizedError,
    UnpublishedError,
    UnsignedMetadataError,
    WrongFleetError,
    WrongTargetError,
)
from agent.update.trust import (
    NotRefreshed,
    Refreshed,
    RefreshJob,
    RefreshResult,
    Refusal,
    TrustState,
)

_BASE: Final = "bundle://fleet/metadata/"
_LAST_MS: Final = 253_402_300_799_000
"""9999-12-31: later does not fit a ``datetime``."""
_VERSIONED = re.compile(r"[0-9]+\.(.+)")
_ERRORS: Final[tuple[tuple[type[Exception], type[AgentError]], ...]] = (
    (exceptions.ExpiredMetadataError, MetadataExpiredError),
    (exceptions.UnsignedMetadataError, UnsignedMetadataError),
    (exceptions.BadVersionNumberError, OldMetadataError),
    (DeserializationError, BadMetadataError),
    (exceptions.DownloadHTTPError, MissingMetadataError),
    (exceptions.RepositoryError, MixedMetadataError),
    (exceptions.DownloadError, MixedMetadataError),
)


def refresh(job: RefreshJob) -> RefreshResult:
    """Verify a metadata bundle against the trust so far.

    Raises nothing of our tree: a refusal is a value, because it crosses processes.
    """
    register()
    try:
        return _verify(job)
    except AgentError as why:
        return NotRefreshed(refusal=_refusal(why))


def _verify(job: RefreshJob) -> RefreshResult:
    _check_sizes(job.files)
    with _translated(), tempfile.TemporaryDirectory(prefix="fieldfare-refresh-") as name:
        walk = Walk(job.state, _Bundle(job.files), Path(name), job.now_ms)
        try:
            walk.refresh()
            return _hand_out(walk, job)
        except AgentError as why:
            learnt = _next_director(job) if isinstance(why, MetadataExpiredError) else None
            return NotRefreshed(refusal=_refusal(why), state=learnt or walk.salvage())


def _next_director(job: RefreshJob) -> TrustState | None:
    """Return trust with a later director than the one held, though its metadata has run out.

    By which clock has it run out? By one that the director set, and a stolen director sets
    it to the end of time: whoever follows could then never be learnt. What is learnt is
    signed offline, above every mark, and of a higher epoch; nothing else is handed out.
    """
    if job.state.authority is None:
        return None
    with tempfile.TemporaryDirectory(prefix="fieldfare-refresh-") as name:
        try:
            walk = Walk(job.state, _Bundle(job.files), Path(name), now_ms=0)
            walk.refresh()
            content = _take(walk, AUTHORITY_TARGET, job.files)
            new = decode(Authority, content)
            _require_same_fleet(new, job.state)
            if new.director_epoch <= job.state.who_directs().director_epoch:
                return None
            return msgspec.structs.replace(walk.state(), authority=content)
        except AgentError:
            return None


def _hand_out(walk: "Walk", job: RefreshJob) -> Refreshed:
    held = {} if job.state.authority is None else {AUTHORITY_TARGET: job.state.authority}
    authority = _take(walk, AUTHORITY_TARGET, {**held, **job.files})
    _require_same_fleet(decode(Authority, authority), job.state)
    permits, endpoints = _take_permits(walk, job), _take_endpoints(walk, job)
    targets: dict[str, bytes] = {}
    refused: dict[str, Refusal] = {}
    for wanted in job.wanted:
        try:
            targets[wanted] = _take(walk, wanted, job.files)
        except TrustError as why:
            refused[wanted] = _refusal(why)
    return Refreshed(
        state=msgspec.structs.replace(
            walk.state(), authority=authority, permits=permits, endpoints=endpoints
        ),
        targets=targets,
        refused=refused,
    )


def _require_same_fleet(new: Authority, state: TrustState) -> None:
    """Refuse an authority that the same offline keys signed for another fleet of theirs."""
    if state.authority is not None and new.fleet != state.who_directs().fleet:
        raise WrongFleetError(
            f"the metadata is of fleet {new.fleet}, this device is in {state.who_directs().fleet}"
        )


def _take_permits(walk: "Walk", job: RefreshJob) -> bytes | None:
    """Return the permits in force; where their bytes are not to be had, nothing is permitted."""
    held = {} if job.state.permits is None else {PERMITS_TARGET: job.state.permits}
    try:
        return _take(walk, PERMITS_TARGET, {**held, **job.files})
    except TrustError:
        return None


def _take_endpoints(walk: "Walk", job: RefreshJob) -> bytes | None:
    """Return the list in force; where its bytes are not to be had, the one that was.

    An older list was signed as well, and forgetting it might strand the device.
    """
    held = {} if job.state.endpoints is None else {ENDPOINTS_TARGET: job.state.endpoints}
    try:
        return _take(walk, ENDPOINTS_TARGET, {**held, **job.files})
    except UnpublishedError:
        return None
    except TrustError:
        return job.state.endpoints


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
        base: str = _BASE,
    ) -> None:
        require_distinct_keys(state.root)
        self._so_far = state
        self._folder = folder
        self._marks = state.marks
        with _translated():
            for role, content in state.metadata.items():
                (folder / _cached_name(role)).write_bytes(content)
            self._updater = Updater(str(folder), base, fetcher=fetcher, bootstrap=state.root)
        self._trusted = self._updater._trusted_set  # noqa: SLF001  # no public way to set the time (gap 4)
        self._trusted.reference_time = datetime.fromtimestamp(min(now_ms, _LAST_MS) // 1000, UTC)

    def refresh(self) -> None:
        """Verify root, timestamp, snapshot and targets.

        Raises:
            TrustError: They must not be believed; ``salvage`` has what may be kept.
            MalformedError: Some of them do not parse.
            StoreError: The folder cannot be written.

        """
        with _translated():
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
        with _translated():
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


class _Bundle(FetcherInterface):
    """Serves what was collected, under the names that a versioned repository uses."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = parse.unquote(url.removeprefix(_BASE))
        versioned = _VERSIONED.fullmatch(name)
        if versioned is not None and not name.endswith(".root.json"):
            name = versioned[1]
        content = self._files.get(name)
        if content is None:
            raise exceptions.DownloadHTTPError(f"the metadata bundle lacks {name}", 404)
        return iter((content,))


def _take(walk: Walk, name: str, files: Mapping[str, bytes]) -> bytes:
    signed = walk.target(name)
    content = files.get(name)
    if content is None:
        raise MissingTargetError(f"the metadata bundle lacks target {name}: ask again")
    return check_target(name, signed, content)


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


def _check_sizes(files: Mapping[str, bytes]) -> None:
    """Refuse by size before anything is parsed; a name with a folder is a target."""
    metadata_bytes = sum(len(content) for name, content in files.items() if "/" not in name)
    if metadata_bytes > MAX_METADATA_BYTES:
        raise OversizedError(f"{metadata_bytes} bytes of metadata, at most {MAX_METADATA_BYTES}")
    for name, content in files.items():
        if len(content) > MAX_MANIFEST_BYTES:
            raise OversizedError(
                f"{name[:80]} of {len(content)} bytes, at most {MAX_MANIFEST_BYTES}"
            )


def _cached_name(role: str) -> str:
    return f"{parse.quote(role, '')}.json"


def _refusal(why: AgentError) -> Refusal:
    return Refusal(code=why.code, why=str(why))


def _unreadable(cause: str) -> BadMetadataError:
    kind = KeyTypeError if "nsupported public key" in cause else BadMetadataError
    return kind(f"trust metadata does not parse: {' '.join(cause.split())[:300]}")


@contextmanager
def _translated() -> Iterator[None]:
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
