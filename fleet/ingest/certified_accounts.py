"""Accounts whose devices also have certificates: both are taken away, in an order that holds.

Rule 1: the list of revocations is on the medium and the broker told to read it before the
        account goes: that cuts the connection, and whoever comes back must not be admitted.
        Where it cannot be told, the account goes all the same, and it is told again.
Rule 2: where certificates are required no device is told a password: with one it could come
        by the strangers' listener, which asks for no certificate.
"""

from datetime import UTC, datetime
from pathlib import Path

from fleet.ingest.client_authority import ClientAuthority
from fleet.ingest.hangup import have_it_read
from fleet.ingest.password_file import PID_FILE
from fleet.ingest.provision import Provisioner


class CertifiedAccounts:
    """Dynamic security's accounts, and the certificates that go with them.

    Args:
        accounts: Gives and takes accounts.
        authority: Of the certificates.
        folder: The broker's; holds ``mosquitto.pid``.

    """

    def __init__(self, accounts: Provisioner, authority: ClientAuthority, folder: Path) -> None:
        self._accounts = accounts
        self._authority = authority
        self._folder = folder

    def grant(self, device: str) -> str | None:
        """Make, or make anew, the account of a device; return its password, if it is told one.

        Raises:
            UnreachableError, RefusedError: As for ``Provisioner.grant``.

        """
        password = self._accounts.grant(device)
        return None if self._authority.required else password

    def revoke(self, device: str) -> None:
        """Revoke a device's certificates, and remove its account; its connection is cut.

        Raises:
            UnreachableError: The broker does not run here, or does not answer.
            RefusedError: As for ``Provisioner.revoke``.
            ConfigError: The list of revocations is not in order.

        """
        listed = self._authority.revoke(device, datetime.now(UTC))
        try:
            if listed and self._authority.required:
                have_it_read(self._folder / PID_FILE, "its list of revoked certificates")
        finally:
            self._accounts.revoke(device)
        self._authority.forget(device)

    def close(self) -> None:
        """Hang up."""
        self._accounts.close()
