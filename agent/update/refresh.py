"""A bundle of metadata that has already been collected, against the trust so far.

Only the short-lived child imports this module; its values are in ``agent.update.trust``.
``agent.update.walk`` verifies; what its outcome gives away is decided here:

Rule 1: sizes are looked at before anything is parsed.
Rule 2: a file that the bundle lacks is a 404, or the search for roots never ends.
Rule 3: nothing is fetched; the walk's directory is temporary and of one refresh.
Rule 4: an authority is taken only of the fleet that this device is in.
Rule 5: permits that are not to be had permit nothing; endpoints that are not to be had
        stay the ones that were.
Rule 6: a director of a higher epoch is learnt even from what has run out, and nothing else.
Rule 7: Ed25519 is the only key type that loads (``contract.keys.register``).
Rule 8: a refusal is a value, with what was verified before it.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib import parse

import msgspec
from tuf.api import exceptions
from tuf.ngclient import FetcherInterface

from agent.contract.authority import AUTHORITY_TARGET, PERMITS_TARGET, Authority
from agent.contract.codec import decode
from agent.contract.endpoints import ENDPOINTS_TARGET
from agent.contract.keys import register
from agent.contract.limits import MAX_MANIFEST_BYTES, MAX_METADATA_BYTES
from agent.errors import AgentError, TrustError
from agent.refusals import (
    MetadataExpiredError,
    MissingTargetError,
    OversizedError,
    UnpublishedError,
    WrongFleetError,
)
from agent.update.trust import (
    NotRefreshed,
    Refreshed,
    RefreshJob,
    RefreshResult,
    Refusal,
    TrustState,
)
from agent.update.walk import Walk, check_target, translated

_BASE: Final = "bundle://fleet/metadata/"
_VERSIONED = re.compile(r"[0-9]+\.(.+)")


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
    with translated(), tempfile.TemporaryDirectory(prefix="fieldfare-refresh-") as name:
        walk = Walk(job.state, _Bundle(job.files), Path(name), job.now_ms, _BASE)
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
            walk = Walk(job.state, _Bundle(job.files), Path(name), 0, _BASE)
            walk.refresh()
            content = _take(walk, AUTHORITY_TARGET, job.files)
            new = decode(Authority, content)
            _require_same_fleet(new, job.state)
            if new.director_epoch <= job.state.who_directs().director_epoch:
                return None
            return msgspec.structs.replace(walk.state(), authority=content)
        except AgentError:
            return None


def _hand_out(walk: Walk, job: RefreshJob) -> Refreshed:
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


def _take_permits(walk: Walk, job: RefreshJob) -> bytes | None:
    """Return the permits in force; where their bytes are not to be had, nothing is permitted."""
    held = {} if job.state.permits is None else {PERMITS_TARGET: job.state.permits}
    try:
        return _take(walk, PERMITS_TARGET, {**held, **job.files})
    except TrustError:
        return None


def _take_endpoints(walk: Walk, job: RefreshJob) -> bytes | None:
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


def _refusal(why: AgentError) -> Refusal:
    return Refusal(code=why.code, why=str(why))
