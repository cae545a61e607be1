"""Encrypted releases on the manager: their keys taken in, handed on to devices, and used.

Rule 1: a release whose keys are not all here, or do not open its streams, is not put into
        force: no device could ever run it.
Rule 2: a device gets the keys of the releases that it is assigned, and no others, each in a
        box for its own key. A key that was lost is left out with a warning: the assignment
        is about other slots as well, and a device that has the release needs no key.
Rule 3: on the manager's disk an encrypted artifact is never whole; it is opened in memory
        for a federated run.
"""

import logging
from collections.abc import Callable
from io import BytesIO

from msgspec.structs import replace
from nacl.signing import VerifyKey

from agent.contract.authority import Authority
from agent.contract.expand import expand_source
from agent.contract.limits import MAX_CONTENT_KEYS
from agent.contract.manifest import Artifact, Release, Source
from agent.contract.messages import Assignment
from agent.contract.sealing import OpenedStream, wrap_key
from agent.contract.sources import full_source
from agent.errors import AgentError
from fleet.errors import FleetError, RefusedError, RegistryError
from fleet.registry.content_keys import ContentKeys
from fleet.service.desk import Desk
from fleet.service.views import ContentKeyView
from fleet.service.wishes import Publication
from fleet.signing.assignment import sign_assignment

LOG = logging.getLogger(__name__)


def keys_of(desk: Desk) -> ContentKeys:
    """Return the manager's content keys."""
    return ContentKeys(desk.config.content_keys)


def take_in(desk: Desk, release: Release, publication: Publication) -> None:
    """Keep the keys of a release that is about to be put into force.

    Raises:
        RefusedError: A key is missing, is of nothing that the release names, or is wrong.
        ConflictError: An artifact has another key already.
        RegistryError: The disk refuses.

    """
    encrypted = {full_source(a).digest: a for a in release.artifacts if a.encrypted}
    strange = publication.keys.keys() - encrypted.keys()
    if strange:
        raise RefusedError(f"{release.target} names no encrypted stream {min(strange)[:16]}")
    keys, good = keys_of(desk), dict[str, bytes]()
    for digest, artifact in encrypted.items():
        key = publication.keys.get(digest) or (keys.find(digest) if keys.has(digest) else None)
        if key is None:
            raise RefusedError(
                f"{release.target} is encrypted and came without the key of stream {digest[:16]}"
            )
        for source in artifact.sources:
            _require_opens(desk, source, key)
        good[digest] = key
    for digest, key in good.items():
        keys.keep(digest, key)


def with_keys(desk: Desk, assignment: Assignment) -> Assignment:
    """Return an assignment with the keys of its encrypted releases, in boxes for its device."""
    wanted = [desk.registry.models.find(a.digest) for a in assignment.slots.values()]
    encrypted = [a for p in wanted if p is not None for a in p.release.artifacts if a.encrypted]
    if not encrypted:
        return assignment
    device = desk.registry.devices.require(assignment.device)
    public, keys = VerifyKey(bytes.fromhex(device.key)), keys_of(desk)
    boxes: dict[str, bytes] = {}
    for artifact in encrypted[:MAX_CONTENT_KEYS]:
        try:
            stream = full_source(artifact).digest
            boxes[stream] = wrap_key(keys.find(stream), public)
        except (FleetError, AgentError) as why:
            LOG.warning("keyless device=%s why=%s", device.id, why)
    return replace(assignment, keys=boxes)


def signer(desk: Desk, authority: Authority, now_ms: int) -> Callable[[Assignment], bytes]:
    """Return what signs assignments for devices, with their content keys."""
    return lambda assignment: sign_assignment(
        desk.keys.director, with_keys(desk, assignment), authority=authority, now_ms=now_ms
    )


def show_key(desk: Desk, digest: str) -> ContentKeyView:
    """Return the key of a full sealed stream, for who builds the next release upon it.

    Raises:
        NotFoundError: There is none.

    """
    return ContentKeyView(stream=digest, key=keys_of(desk).find(digest))


def read(desk: Desk, artifact: Artifact) -> bytes:
    """Return the bytes of an artifact, opened where it is encrypted.

    Raises:
        NotFoundError: They, or their key, are not kept here.
        RegistryError: They are damaged.

    """
    if not artifact.encrypted:
        return desk.artifacts.read(artifact.digest)
    full = full_source(artifact)
    sealed, key = desk.artifacts.read(full.digest), keys_of(desk).find(full.digest)
    try:
        return b"".join(expand_source(full.kind, BytesIO(sealed), None, artifact.size, key))
    except AgentError as why:
        raise RegistryError(f"artifact {artifact.digest[:16]} does not open: {why}") from why


def _require_opens(desk: Desk, source: Source, key: bytes) -> None:
    try:
        with desk.artifacts.open(source.digest) as sealed:
            OpenedStream(sealed, key).read(1)
    except AgentError as why:
        raise RefusedError(f"the key of stream {source.digest[:16]} is wrong: {why}") from why
