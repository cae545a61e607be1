"""Giving and taking accounts that mosquitto keeps in files.

Rule 1: ``grant`` and ``revoke`` may be repeated, as with dynamic security.
Rule 2: every edit also gives the provisioner, who may do nothing at all, a new password.
        Once the broker admits it with that one, it has read the edit: a device that is told
        its password gets in, and one that was revoked has been cut off.
"""

from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep

from agent.contract.limits import require_name
from agent.errors import MalformedError
from fleet.errors import RefusedError, UnreachableError
from fleet.ingest.hangup import have_it_read
from fleet.ingest.knock import ADMITTED, Listener, knock
from fleet.ingest.mail import Connection
from fleet.ingest.password_file import (
    PASSWORDS_FILE,
    PID_FILE,
    read_passwords,
    render_passwords,
    replace_file,
)
from fleet.ingest.rights import MANAGER_USER, PROVISIONER_USER, Hashed, enrol_seats, new_password

READ_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_OURS = frozenset((MANAGER_USER, PROVISIONER_USER, *enrol_seats()))


class FileAccounts:
    """The accounts of devices in ``passwords``; used on one thread of one process.

    Args:
        folder: The broker's; holds ``passwords`` and ``mosquitto.pid``.
        connection: Where the provisioner logs in; its password is not used.

    """

    def __init__(self, folder: Path, connection: Connection) -> None:
        self._folder = folder
        address = connection.address
        self._listener = Listener(
            address=address.host,
            port=address.port,
            name=address.host if address.secure else "",
            ca=connection.believed,
        )

    def grant(self, device: str) -> str:
        """Make, or make anew, the account of a device and return its password.

        Raises:
            UnreachableError: The broker does not run, or does not read the file.
            RefusedError: The name may not be an account.
            ConfigError: The file is not in order.

        """
        _require_device(device)
        password = new_password()
        passwords = read_passwords(self._folder / PASSWORDS_FILE)
        self._write({**passwords, device: Hashed.of(password)})
        return password

    def revoke(self, device: str) -> None:
        """Remove the account of a device; a live connection is cut.

        Raises:
            UnreachableError: The broker does not run, or does not read the file.
            RefusedError: The name may not be an account.
            ConfigError: The file is not in order.

        """
        _require_device(device)
        passwords = read_passwords(self._folder / PASSWORDS_FILE)
        passwords.pop(device, None)
        self._write(passwords)

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _write(self, passwords: Mapping[str, Hashed]) -> None:
        proof = new_password()
        edited = {**passwords, PROVISIONER_USER: Hashed.of(proof)}
        replace_file(self._folder / PASSWORDS_FILE, render_passwords(edited))
        have_it_read(self._folder / PID_FILE, "its accounts")
        deadline = monotonic() + READ_SECONDS
        while knock(self._listener, PROVISIONER_USER, proof, PROVISIONER_USER) != ADMITTED:
            if monotonic() > deadline:
                raise UnreachableError(
                    f"the broker does not read {self._folder / PASSWORDS_FILE}: does it run with "
                    f"{self._folder / 'mosquitto.conf'}, as this user?"
                )
            sleep(_LOOK_SECONDS)


def _require_device(device: str) -> None:
    try:
        require_name(device, "device")
    except MalformedError as why:
        raise RefusedError(str(why)) from why
    if device in _OURS:
        raise RefusedError(f"{device} is an account of the fleet's own")
