"""Certificates for development: an authority of our own and one server certificate."""

from pathlib import Path


def create_dev_tls(folder: Path, hosts: tuple[str, ...]) -> str:
    """Write ``ca.pem``, ``server.pem`` and ``server.key`` and return the authority's PEM.

    Args:
        folder: Where to write; keys are 0600.
        hosts: Names and addresses beside localhost, 127.0.0.1, ::1 and this host's name.

    """
    raise NotImplementedError
