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
Rule 8: Ed25519 is the only key type that loads (``contract.keys.register``).
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

from tuf.api import exceptions
from tuf.api.metadata import Delegations, Role, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from agent.contract.codec import decode
from agent.contract.keys import register
from agent.contract.limits import MAX_MANIFEST_BYTES, MAX_METADATA_BYTES
from agent.contract.marks import (
    Mark,
    Marks,
    advance_marks,
    require_distinct,
    require_distinct_keys,
)
from agent.contract.messages import AUTHORITY_TARGET, Authority
from agent.errors import (
    AgentError,
    CorruptError,
    DiskFullError,
    ExpiredError,
    MalformedError,
    MismatchError,
    RollbackError,
    StoreError,
    TrustError,
    UnsignedError,
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
    (exceptions.ExpiredMetadataError, ExpiredError),
    (exceptions.UnsignedMetadataError, UnsignedError),
    (exceptions.BadVersionNumberError, RollbackError),
    (DeserializationError, MalformedError),
    (exceptions.RepositoryError, CorruptError),
    (exceptions.DownloadError, CorruptError),
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


def _verify(job: RefreshJob) -> Refreshed:
    state = job.state
    _check_sizes(job.files)
    require_distinct_keys(state.root)
    bundle = _Bundle(job.files)
    with _translated(), tempfile.TemporaryDirectory(prefix="fieldfare-refresh-") as name:
        folder = Path(name)
        for role, content in state.metadata.items():
            (folder / _cached_name(role)).write_bytes(content)
        updater = Updater(name, _BASE, fetcher=bundle, bootstrap=state.root)
        trusted = updater._trusted_set  # noqa: SLF001  # no public way to set the time (gap 4)
        trusted.reference_time = datetime.fromtimestamp(min(job.now_ms, _LAST_MS) // 1000, UTC)
        updater.refresh()
        for root in bundle.roots:
            require_distinct_keys(root)
        marks = advance_marks(
            state.marks,
            _marks(trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets),
        )
        held = {} if state.authority is None else {AUTHORITY_TARGET: state.authority}
        authority = _take(updater, AUTHORITY_TARGET, {**held, **job.files})
        decode(Authority, authority)
        targets: dict[str, bytes] = {}
        refused: dict[str, Refusal] = {}
        for wanted in job.wanted:
            try:
                targets[wanted] = _take(updater, wanted, job.files)
            except TrustError as why:
                refused[wanted] = _refusal(why)
        for role_metadata in trusted:
            if isinstance(role_metadata, Targets) and role_metadata.delegations is not None:
                _require_distinct_delegates(role_metadata.delegations)
        root = (folder / "root.json").read_bytes()
        metadata = {
            parse.unquote(path.stem): path.read_bytes()
            for path in folder.glob("*.json")
            if path.name != "root.json"
        }
    return Refreshed(
        state=TrustState(
            pinned=state.pinned, root=root, metadata=metadata, marks=marks, authority=authority
        ),
        targets=targets,
        refused=refused,
    )


class _Bundle(FetcherInterface):
    """Serves what was collected, under the names that a versioned repository uses."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self.roots: list[bytes] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = parse.unquote(url.removeprefix(_BASE))
        versioned = _VERSIONED.fullmatch(name)
        is_root = name.endswith(".root.json")
        if versioned is not None and not is_root:
            name = versioned[1]
        content = self._files.get(name)
        if content is None:
            raise exceptions.DownloadHTTPError(f"the metadata bundle lacks {name}", 404)
        if is_root:
            self.roots.append(content)
        return iter((content,))


def _take(updater: Updater, name: str, files: Mapping[str, bytes]) -> bytes:
    """Return the bytes of a target if they are the ones that the offline keys signed."""
    with _translated():
        signed = updater.get_targetinfo(name)
    if signed is None:
        raise MismatchError(f"no offline-signed target is called {name}")
    content = files.get(name)
    if content is None:
        raise CorruptError(f"the metadata bundle lacks target {name}: ask again")
    if signed.length != len(content) or signed.hashes.get("sha256") != sha256(content).hexdigest():
        raise CorruptError(f"target {name} is not the one that the offline keys signed")
    return content


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
        raise MalformedError(f"{metadata_bytes} bytes of metadata, at most {MAX_METADATA_BYTES}")
    for name, content in files.items():
        if len(content) > MAX_MANIFEST_BYTES:
            raise MalformedError(
                f"{name[:80]} of {len(content)} bytes, at most {MAX_MANIFEST_BYTES}"
            )


def _cached_name(role: str) -> str:
    return f"{parse.quote(role, '')}.json"


def _refusal(why: AgentError) -> Refusal:
    return Refusal(code=why.code, why=str(why))


@contextmanager
def _translated() -> Iterator[None]:
    """Turn whatever python-tuf raises into one error of our tree with one sentence."""
    try:
        yield
    except (exceptions.RepositoryError, exceptions.DownloadError) as why:
        for theirs, ours in _ERRORS:
            if isinstance(why, theirs):
                raise ours(f"trust metadata is refused: {why or type(why).__name__}") from why
        raise
    except OSError as why:
        kind = DiskFullError if why.errno in {errno.ENOSPC, errno.EDQUOT} else StoreError
        raise kind(f"trust metadata cannot be checked: {why.strerror or why}") from why
