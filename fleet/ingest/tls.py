"""Certificates for development: an authority of our own and one server certificate.

Rule 1: production brings certificates of its own; nothing here renews anything. Another
        authority comes by ``service.rotation``, so that no device is left behind.
Rule 2: keys are ECDSA P-256, created with mode 0600 and never overwritten.
Rule 3: validity ends on an ordinary day: a fixed number of days, not "the same date in
        some years", which does not exist for 29 February.
"""

import datetime as dt
import ipaddress
import os
import socket
from pathlib import Path

from cryptography import x509

from fleet.errors import ConflictError
from fleet.ingest.authority import make_authority, make_server


def create_dev_tls(folder: Path, hosts: tuple[str, ...] = ()) -> str:
    """Write ``ca.pem``, ``ca.key``, ``server.pem`` and ``server.key``; return the CA's PEM.

    Args:
        folder: Where to write; made with mode 0700 if absent.
        hosts: Names and addresses beside localhost, 127.0.0.1, ::1 and this host's name.

    Raises:
        ConflictError: One of the files exists.

    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    names = ("localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts)
    authority = make_authority(now)
    alternatives = x509.SubjectAlternativeName([_alternative(n) for n in dict.fromkeys(names)])
    server = make_server(authority, alternatives, now)
    _create(folder / "ca.key", authority.key, 0o600)
    _create(folder / "ca.pem", authority.chain, 0o644)
    _create(folder / "server.key", server.key, 0o600)
    _create(folder / "server.pem", server.chain, 0o644)
    return authority.chain


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _create(path: Path, content: str, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as why:
        raise ConflictError(f"{path} exists and is not overwritten: move it away first") from why
    with os.fdopen(handle, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
