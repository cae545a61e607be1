"""Whether devices can fetch artifacts over HTTP(S), looked at from the manager's machine.

Rule 1: the server is asked as a device would ask it: by the address that devices are told,
        believing the authority that they believe, with a path that shows no grant.
Rule 2: devices go on over MQTT without it: nothing here is worse than a warning, except
        what keeps the manager from starting.
"""

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from agent.contract.checkup import Check, doubt, ill, well
from agent.contract.grants import ARTIFACT_PATH
from fleet.config import FleetConfig
from fleet.errors import FleetError
from fleet.service.downloads import open_downloads

PATIENCE_SECONDS: Final = 5.0
MAX_ANSWER_BYTES: Final = 4096
_NO_ARTIFACT: Final = f"{ARTIFACT_PATH}{'0' * 64}"
_NO_GRANT: Final = "no-grant"


def check_downloads(config: FleetConfig, *, running: bool) -> Iterator[Check]:
    """Judge the download server; nothing where none is configured."""
    if not config.downloads.url:
        return
    yield _asked(config) if running else _opened(config)


def _opened(config: FleetConfig) -> Check:
    """Open what a manager that starts would open, and close it again."""
    try:
        server = open_downloads(config)
    except (FleetError, OSError) as why:
        return ill("downloads", f"the manager will not start: {why}")
    if server is not None:
        server.stop()
    return well("downloads", f"{config.downloads.url} can be served once the manager runs")


def _asked(config: FleetConfig) -> Check:
    url = config.downloads.url
    try:
        said = _answer(url, config.broker_ca())
    except ssl.SSLCertVerificationError as why:
        return doubt(
            "downloads",
            f"the certificate of {url} is not believed by devices ({why.verify_message}): it must "
            "name this host, be in date and come from the broker's authority; devices go on over "
            "MQTT",
        )
    except (OSError, http.client.HTTPException, ValueError) as why:
        return doubt(
            "downloads",
            f"{url} does not answer here ({why}): does the name lead to this manager, and is the "
            "port open? The manager has to be started anew after [downloads] is changed; devices "
            "go on over MQTT",
        )
    if _code(said) != _NO_GRANT:
        return doubt(
            "downloads",
            f"{url} answers, and not as a manager's download server: what else listens there, or "
            "lies between? Devices go on over MQTT",
        )
    return well("downloads", f"{url} answers, and devices will believe it")


def _answer(url: str, ca: str) -> bytes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    asking = http.client.HTTPConnection(host, parts.port, timeout=PATIENCE_SECONDS)
    if parts.scheme == "https":
        trusted = ssl.create_default_context(cadata=ca or None)
        asking = http.client.HTTPSConnection(
            host, parts.port, timeout=PATIENCE_SECONDS, context=trusted
        )
    try:
        asking.request("GET", f"{parts.path.rstrip('/')}{_NO_ARTIFACT}")
        with asking.getresponse() as answer:
            return answer.read(MAX_ANSWER_BYTES)
    finally:
        asking.close()


def _code(answer: bytes) -> object:
    try:
        found = json.loads(answer)
    except ValueError:
        return None
    return found.get("code") if isinstance(found, dict) else None
