"""Artifacts over HTTP: who gets leave to fetch them, and the server that honours it.

Rule 1: leave is for one device, one artifact and a short time. It is signed by the
        director, so any manager of the fleet can check it and none remembers it.
Rule 2: who asks is answered, also with a refusal: the device then goes on over MQTT.
"""

from agent.contract.grants import artifact_url, check_base
from agent.contract.messages import Grant, GrantRequest
from agent.contract.topics import GRANT
from fleet.config import FleetConfig
from fleet.ingest.downloads import Allowance, DownloadServer, Place
from fleet.registry.artifacts import Artifacts
from fleet.service.desk import Desk
from fleet.signing.assignment import sign_grant


def answer(desk: Desk, device: str, asked: GrantRequest) -> None:
    """Put leave, or why there is none, on the desk."""
    settings, now_ms = desk.config.downloads, desk.now_ms()
    url, why = "", ""
    if not settings.url:
        why = "this fleet serves artifacts over MQTT only"
    elif not desk.artifacts.has(asked.a):
        why = "the manager keeps no such artifact; it may have been withdrawn"
    else:
        url = artifact_url(check_base(settings.url), asked.a)
    grant = Grant(
        device=device,
        a=asked.a,
        url=url,
        why=why,
        issued_ms=now_ms,
        expires_ms=now_ms + settings.grant_seconds * 1000,
    )
    signed = sign_grant(desk.keys.director, grant, authority=desk.repository.authority())
    desk.send(GRANT.at(device), signed)


def open_downloads(config: FleetConfig) -> DownloadServer | None:
    """Return the server, not yet started; None where ``[downloads]`` names no address.

    Raises:
        ConfigError: Its address or its certificate cannot be used.

    """
    settings = config.downloads
    if not settings.url:
        return None
    host, port = settings.address
    folder = config.broker_folder
    return DownloadServer(
        Artifacts(config.artifacts),
        Place(
            host=host,
            port=port,
            certificate=config.home / settings.certificate
            if settings.certificate
            else folder / "server.pem",
            key=config.home / settings.key if settings.key else folder / "server.key",
            encrypted=settings.encrypted,
        ),
        Allowance(
            device_bytes_per_second=settings.device_bytes_per_second,
            total_bytes_per_second=settings.total_bytes_per_second,
            responses=settings.responses,
            device_responses=settings.device_responses,
        ),
    )
