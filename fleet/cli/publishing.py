"""The one way from a described model to a release in force, for ``model`` and for ``run``.

Rule 1: it is signed here, where the offline keys are; the manager is handed what was signed.
Rule 2: artifacts first, then the release: what devices can see is complete.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from fleet.cli.client import ManagerClient
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError
from fleet.service.views import Publication, ReleaseView, TargetsView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Signer

    from fleet.release.build import BuiltRelease
    from fleet.service.publication import Described

PUBLICATION_FILE: Final = "publication.json"


def publish_described(
    config: FleetConfig,
    client: ManagerClient,
    described: "Described",
    version: str | None,
    signers: "Sequence[Signer]" = (),
) -> ReleaseView:
    """Build, sign, upload and publish one release.

    Args:
        config: Of the manager.
        client: Talks to it.
        described: The model.
        version: Its name within the family; None takes ``v`` and the counter.
        signers: Keys that sign it; none takes the targets key of a development fleet.

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
    built, publication = sign_release(described, targets, chosen, version=version)
    for digest, content in built.artifacts.items():
        client.put(f"/artifacts/{digest}", content)
    return client.post("/releases", publication, ReleaseView)


def write_signed(folder: Path, built: "BuiltRelease", publication: Publication) -> None:
    """Write a signed release for ``publish_signed``: publication.json, and artifacts by digest.

    Raises:
        ConflictError: The folder exists.
        ConfigError: It cannot be written.

    """
    try:
        folder.mkdir(parents=True)
        for digest, content in built.artifacts.items():
            (folder / digest).write_bytes(content)
        (folder / PUBLICATION_FILE).write_bytes(msgspec.json.encode(publication))
    except FileExistsError as why:
        raise ConflictError(f"{folder} exists already: choose another") from why
    except OSError as why:
        raise ConfigError(f"{folder} cannot be written: {why.strerror or why}") from why


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
        artifacts = {path.name: path.read_bytes() for path in folder.glob("[0-9a-f]" * 64)}
    except (OSError, msgspec.MsgspecError) as why:
        raise ConfigError(f"{folder} is not what 'model sign' writes: {why}") from why
    for digest, content in artifacts.items():
        client.put(f"/artifacts/{digest}", content)
    return client.post("/releases", publication, ReleaseView)
