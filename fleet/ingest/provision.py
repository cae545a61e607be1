"""Who may do what at mosquitto: its configuration, first accounts, and one account a device."""

from dataclasses import dataclass
from pathlib import Path

from agent.contract.topics import Topics
from fleet.ingest.broker import Connection

MANAGER_USER = "fieldfare-manager"
PROVISIONER_USER = "fieldfare-provisioner"
ENROL_USER = "enrol"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLayout:
    """What the configuration of one mosquitto needs to know.

    Attributes:
        folder: Holds ``mosquitto.conf``, ``dynamic-security.json`` and ``data/``.
        device_port: Listener of enrolled devices and of the manager.
        enrol_port: Listener of strangers.
        bind: Address to listen on; ``127.0.0.1`` for development, empty for all.
        certificate, key: PEM files of the server; None without TLS.
        user: System user that mosquitto runs as; None keeps its own default.

    """

    folder: Path
    device_port: int = 8883
    enrol_port: int = 8884
    bind: str = ""
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The first passwords; the enrolment password is public and opens two topics."""

    manager: str
    provisioner: str
    enrol: str


def render_mosquitto_conf(layout: BrokerLayout, plugin: Path) -> str:
    """Return the configuration, each line with its reason."""
    raise NotImplementedError


def find_dynamic_security() -> Path:
    """Return mosquitto's dynamic security plugin.

    Raises:
        UnreachableError: It is not installed.

    """
    raise NotImplementedError


def prepare_broker(layout: BrokerLayout, topics: Topics) -> Accounts:
    """Write configuration and first accounts into an empty folder (mode 0700).

    Raises:
        ConflictError: The folder already holds accounts.

    """
    raise NotImplementedError


class Provisioner:
    """Gives and takes the accounts of devices through mosquitto's dynamic security."""

    def __init__(self, connection: Connection, topics: Topics) -> None:
        raise NotImplementedError

    def grant(self, device: str) -> str:
        """Make, or make anew, the account of a device and return its password.

        Raises:
            UnreachableError: The broker does not answer.
            RefusedError: The broker said no.

        """
        raise NotImplementedError

    def revoke(self, device: str) -> None:
        """Remove the account of a device; a live connection is cut at once.

        Raises:
            UnreachableError: The broker does not answer.
            RefusedError: The broker said no.

        """
        raise NotImplementedError

    def close(self) -> None:
        """Disconnect."""
        raise NotImplementedError
