"""The one way from a described model to a release in force, for ``model`` and for ``run``.

Rule 1: it is signed here, where the offline keys are; the manager is handed what was signed.
Rule 2: artifacts first, then the release: what devices can see is complete.
"""

from typing import TYPE_CHECKING

from fleet.cli.client import ManagerClient
from fleet.config import FleetConfig
from fleet.service.views import ReleaseView, TargetsView

if TYPE_CHECKING:
    from fleet.service.publication import Described


def publish_described(
    config: FleetConfig, client: ManagerClient, described: "Described", version: str | None
) -> ReleaseView:
    """Build, sign, upload and publish one release.

    Raises:
        AdmissionError: The model cannot become a release.
        SigningError: The offline keys or the metadata in force are not in order.
        UnreachableError, RefusedByManagerError: The manager does not answer, or says why not.

    """
    from fleet.service.publication import sign_release
    from fleet.signing.ceremony import load_targets_keys

    signers = load_targets_keys(config.keys, "", dev=config.dev)
    targets = client.get("/targets", TargetsView)
    built, publication = sign_release(described, targets, signers[:1], version=version)
    for digest, content in built.artifacts.items():
        client.put(f"/artifacts/{digest}", content)
    return client.post("/releases", publication, ReleaseView)
