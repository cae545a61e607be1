"""Which devices there are, what they say they run, and what they are wanted to run."""

from dataclasses import dataclass
from enum import StrEnum

from agent.contract.envelope import Boot
from agent.contract.messages import Assigned, Inventory, Reported


class DeviceState(StrEnum):
    """Where a device stands with the fleet."""

    PENDING = "pending"
    ENROLLED = "enrolled"
    REVOKED = "revoked"


class BootSeen(StrEnum):
    """Whether a boot counter fits what was seen of this device before."""

    OK = "ok"
    REGRESSED = "regressed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device.

    Attributes:
        id: ``d-`` and the hash of its public key.
        key: Ed25519 public key, 64 hex digits.
        presence: online, offline or sleeping; None before the first word of it.
        presence_boot, presence_epoch: The pair that ``presence`` belongs to.
        enrolled_ms, last_seen_ms: Wall clock of the manager, ms since 1970.
        quarantined_why: Why rollouts and rounds pass it over; None if they do not.

    """

    id: str
    key: str
    state: DeviceState
    group: str
    hardware: str
    created_ms: int
    enrolled_ms: int | None = None
    last_seen_ms: int | None = None
    presence: str | None = None
    presence_boot: Boot | None = None
    presence_epoch: int = 0
    inventory: Inventory | None = None
    reported: Reported | None = None
    quarantined_why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """The newest assignment document of a device, as it was published.

    Attributes:
        payload: The signed document, byte for byte.
        slots: What its body assigns.

    """

    director_epoch: int
    sequence: int
    payload: bytes
    slots: dict[str, Assigned]
    expires_ms: int


class Devices:
    """Devices with their reported and desired state."""

    def add(
        self, device: str, *, key: str, group: str, hardware: str, state: DeviceState, at_ms: int
    ) -> Device:
        """Add a device; the same device and key again changes nothing.

        Raises:
            ConflictError: The id is known with another key.

        """
        raise NotImplementedError

    def find(self, device: str) -> Device | None:
        """Return one device."""
        raise NotImplementedError

    def require(self, device: str) -> Device:
        """Return one device.

        Raises:
            NotFoundError: There is none with this id.

        """
        raise NotImplementedError

    def listing(self, state: DeviceState | None = None) -> list[Device]:
        """Return devices, oldest first."""
        raise NotImplementedError

    def approve(self, device: str, *, at_ms: int) -> Device:
        """Enrol a pending device; an enrolled one stays so.

        Raises:
            NotFoundError, ConflictError: Unknown, or revoked.

        """
        raise NotImplementedError

    def revoke(self, device: str, *, at_ms: int) -> Device:
        """Revoke a device for good; a revoked one stays so.

        Raises:
            NotFoundError: There is none with this id.

        """
        raise NotImplementedError

    def quarantine(self, device: str, why: str | None, *, at_ms: int) -> None:
        """Let rollouts and rounds pass the device over, or with None no more."""
        raise NotImplementedError

    def saw(self, device: str, at_ms: int) -> None:
        """Remember when the device was last heard; not an event of the log."""
        raise NotImplementedError

    def presence(self, device: str, boot: Boot, epoch: int, s: str, *, at_ms: int) -> bool:
        """Take presence of the newest (boot counter, epoch); False for old news."""
        raise NotImplementedError

    def inventory(self, device: str, boot: Boot, value: Inventory, *, at_ms: int) -> bool:
        """Take the inventory of the newest (boot counter, rev); False for old news."""
        raise NotImplementedError

    def reported(self, device: str, boot: Boot, value: Reported, *, at_ms: int) -> bool:
        """Take the reported state of the newest (boot counter, rev); False for old news."""
        raise NotImplementedError

    def boot_seen(self, device: str, boot: Boot, *, at_ms: int) -> BootSeen:
        """Remember a boot; one that is unknown and not newer than another looks like a clone."""
        raise NotImplementedError

    def want(self, device: str, slot: str, assigned: Assigned | None, *, at_ms: int) -> bool:
        """Set the desired release of a slot; None empties it. False if it was so already."""
        raise NotImplementedError

    def desired(self, device: str) -> dict[str, Assigned]:
        """Return the desired release of every slot."""
        raise NotImplementedError

    def assignment(self, device: str) -> Signed | None:
        """Return the newest signed assignment."""
        raise NotImplementedError

    def keep_assignment(self, device: str, signed: Signed, *, at_ms: int) -> None:
        """Keep a new signed assignment.

        Raises:
            ConflictError: Its (director_epoch, sequence) is not above the kept one's.

        """
        raise NotImplementedError

    def unsigned(self) -> list[str]:
        """Return enrolled devices whose desired state differs from the last signed one."""
        raise NotImplementedError

    def expiring(self, before_ms: int) -> list[str]:
        """Return enrolled devices whose signed assignment expires before a moment."""
        raise NotImplementedError
