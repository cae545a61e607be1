"""The one way from a described model to a release in force, for ``model`` and for ``run``.

Rule 1: it is signed here, where the offline keys are; the manager is handed what was signed.
Rule 2: artifacts first, then the release: what devices can see is complete.
Rule 3: deltas are made here, from what devices run; what the manager hands out for that
        counts only with the digest by which it was asked for.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from agent.contract.manifest import Artifact, decode_release
from agent.contract.sources import full_source
from fleet.cli.client import ManagerClient, RefusedByManagerError, path_of
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError, NotFoundError, RefusedError
from fleet.service.views import ContentKeyView, ReleaseView, TargetsView
from fleet.service.wishes import Publication

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Signer

    from fleet.release.build import BuiltRelease
    from fleet.release.delta import Earlier
    from fleet.service.publication import Described

PUBLICATION_FILE: Final = "publication.json"


def encrypt_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--encrypt/--no-encrypt``."""
    return click.option(
        "--encrypt/--no-encrypt",
        default=None,
        help="Let only devices that it is assigned to read model and golden vectors. Unsaid, "
        "as the slot's newest release.",
    )(command)


def variant_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--variant FILE``."""
    return click.option(
        "--variant",
        "variants",
        multiple=True,
        type=click.Path(path_type=Path),
        help="The same model in another file (motion.tflite), for devices without the first "
        "one's runtime; repeatable. It must answer as the first.",
    )(command)


def publish_described(
    config: FleetConfig,
    client: ManagerClient,
    described: "Described",
    version: str | None,
    signers: "Sequence[Signer]" = (),
    *,
    encrypt: bool | None = None,
    rounds: bool = False,
) -> ReleaseView:
    """Build, sign, upload and publish one release.

    Args:
        config: Of the manager.
        client: Talks to it.
        described: The model.
        version: Its name within the family; None takes ``v`` and the counter.
        signers: Keys that sign it; none takes the targets key of a development fleet.
        encrypt: As for ``sign_release``.
        rounds: As for ``sign_release``.

    Raises:
        AdmissionError: The model cannot become a release.
        ConfigError: Nobody says which key signs.
        SigningError: The offline keys or the metadata in force are not in order.
        UnreachableError, RefusedByManagerError: The manager does not answer, or says why not.

    """
    from fleet.service.publication import sign_release
    from fleet.signing.ceremony import load_targets_keys

    if not signers and not config.dev:
        raise ConfigError("say --key: this manager holds no key that can sign a release")
    chosen = signers or load_targets_keys(config.keys, "", dev=config.dev)[:1]
    targets = client.get("/targets", TargetsView)
    earlier = _earlier(client, targets.in_use.get(described.slot, ()))
    built, publication = sign_release(
        described, targets, chosen, version=version, earlier=earlier, encrypt=encrypt, rounds=rounds
    )
    for digest, content in built.artifacts.items():
        client.put(f"/artifacts/{digest}", content)
    return client.post("/releases", publication, ReleaseView)


def write_signed(folder: Path, built: "BuiltRelease", publication: Publication) -> None:
    """Write a signed release for ``publish_signed``: publication.json, and artifacts by digest.

    The folder is for its owner only: of an encrypted release it holds the keys.

    Raises:
        ConflictError: The folder exists.
        ConfigError: It cannot be written.

    """
    try:
        folder.mkdir(parents=True, mode=0o700)
        for digest, content in built.artifacts.items():
            (folder / digest).write_bytes(content)
        with open(folder / PUBLICATION_FILE, "xb", opener=_private) as file:
            file.write(msgspec.json.encode(publication))
    except FileExistsError as why:
        raise ConflictError(f"{folder} exists already: choose another") from why
    except OSError as why:
        raise ConfigError(f"{folder} cannot be written: {why.strerror or why}") from why


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def publish_signed(client: ManagerClient, folder: Path) -> ReleaseView:
    """Upload and publish a release that was signed elsewhere.

    Raises:
        ConfigError: The folder is not one of ``model sign``.
        UnreachableError, RefusedByManagerError: The manager does not answer, or says why not.

    """
    try:
        publication = msgspec.json.decode(
            (folder / PUBLICATION_FILE).read_bytes(), type=Publication
        )
        artifacts = sorted(folder.glob("[0-9a-f]" * 64))
    except (OSError, msgspec.MsgspecError) as why:
        raise ConfigError(f"{folder} is not what 'model sign' writes: {why}") from why
    for path in artifacts:
        client.put(path_of("artifacts", path.name), path)
    return client.post("/releases", publication, ReleaseView)


def _earlier(client: ManagerClient, in_use: tuple[str, ...]) -> "tuple[Earlier, ...]":
    """Return what devices run, without releases whose bytes the manager no longer has."""
    from fleet.release.delta import MAX_BASES, Earlier

    found = []
    for digest in in_use[:MAX_BASES]:
        try:
            release = decode_release(_bytes(client, digest))
            models = {v.model.digest: (v.runtime, v.model) for v in release.variants}
            found.append(
                Earlier(
                    models=tuple((kind, artifact_bytes(client, m)) for kind, m in models.values()),
                    golden=artifact_bytes(client, release.golden),
                )
            )
        except RefusedByManagerError as why:
            if why.problem.code != NotFoundError.code:
                raise
    return tuple(found)


def artifact_bytes(client: ManagerClient, artifact: Artifact) -> bytes:
    """Return the bytes of an artifact, opened here where it is encrypted.

    Raises:
        RefusedError: The manager's bytes are others.
        RefusedByManagerError: It has none.

    """
    if not artifact.encrypted:
        return _bytes(client, artifact.digest)
    from agent.contract.expand import expand_source

    source = full_source(artifact)
    sealed = BytesIO(_bytes(client, source.digest))
    key = client.get(path_of("content-keys", source.digest), ContentKeyView).key
    return b"".join(expand_source(source.kind, sealed, None, artifact.size, key))


def _bytes(client: ManagerClient, digest: str) -> bytes:
    content = client.get_bytes(path_of("artifacts", digest))
    if sha256(content).hexdigest() != digest:
        raise RefusedError(f"the manager's bytes of {digest[:16]} have another digest")
    return content
