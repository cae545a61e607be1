"""A director, its grants and a real download server, for tests of both ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nacl.signing import SigningKey

from agent.contract.authority import Authority
from agent.contract.envelope import sign_document
from agent.contract.grants import artifact_url
from agent.contract.messages import Grant
from agent.contract.topics import GRANT
from fleet.ingest.downloads import Allowance, DownloadServer, Place
from fleet.registry.artifacts import Artifacts

DIRECTOR = SigningKey(b"\1" * 32)
DEVICE = "d-one"
NOW = 1_700_000_000_000
AUTHORITY = Authority(
    fleet="demo",
    director_epoch=1,
    director_keys=(bytes(DIRECTOR.verify_key).hex(),),
    enrolment_keys=(bytes(DIRECTOR.verify_key).hex(),),
)


def grant_payload(
    digest: str, base: str, *, by: SigningKey = DIRECTOR, lasts_ms: int = 60_000, why: str = ""
) -> bytes:
    """Return what the director answers; without ``base`` it is a refusal."""
    grant = Grant(
        device=DEVICE,
        a=digest,
        url=artifact_url(base, digest) if base else "",
        why=why,
        issued_ms=NOW,
        expires_ms=NOW + lasts_ms,
    )
    return sign_document(by, GRANT.at(DEVICE).logical, grant)


@contextmanager
def serving(
    artifacts: Artifacts,
    tls: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    **allowed: float,
) -> Iterator[DownloadServer]:
    """Serve artifacts on loopback; ``tls`` is a folder with ``server.pem`` and ``server.key``."""
    folder = tls or artifacts.folder
    place = Place(
        host=host,
        port=port,
        certificate=folder / "server.pem",
        key=folder / "server.key",
        encrypted=tls is not None,
    )
    server = DownloadServer(artifacts, place, Allowance(**allowed), now_ms=lambda: NOW)
    server.renew(AUTHORITY)
    server.start()
    try:
        yield server
    finally:
        server.stop()
