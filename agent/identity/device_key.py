"""Who this device is: a key made here that never leaves, and the number of this life.

Rule 1: the key is made at the first start and never replaced; a factory reset (an empty
        state directory) makes another device.
Rule 2: the boot counter is on the medium before anybody hears of it, so that no two lives
        of one device ever stamp a report alike; 64 random bits tell a cloned card apart.
"""

import secrets
from dataclasses import dataclass

from nacl.signing import SigningKey, VerifyKey

from agent.contract.codec import Versioned, encode
from agent.contract.envelope import Boot, device_id
from agent.contract.messages import Count, Hex64
from agent.disk import Disk, read_versioned
from agent.errors import StoreError

IDENTITY = "identity.json"
BOOT = "boot.json"


class IdentityFile(Versioned, frozen=True, kw_only=True):
    """``identity.json``: the seed of the device's Ed25519 key, hex. Secret."""

    seed: Hex64
    device: str


class BootFile(Versioned, frozen=True, kw_only=True):
    """``boot.json``: how many lives this device has begun."""

    counter: Count


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """The device's own key."""

    signing: SigningKey

    @property
    def public(self) -> VerifyKey:
        """The public half."""
        return self.signing.verify_key

    @property
    def device(self) -> str:
        """The device id that follows from the key."""
        return device_id(self.public)


def find_key(disk: Disk) -> DeviceKey | None:
    """Return this device's key, or None before its first start.

    Raises:
        NewerStateError: A newer agent wrote it.
        StoreError: It cannot be read, or its id is not that of its key.

    """
    file = read_versioned(disk, IDENTITY, IdentityFile)
    if file is None:
        return None
    key = DeviceKey(SigningKey(bytes.fromhex(file.seed)))
    if key.device != file.device:
        raise StoreError(f"{IDENTITY} says device {file.device}, its key is of {key.device}")
    return key


def load_or_create(disk: Disk) -> DeviceKey:
    """Return this device's key; the first call makes it.

    Raises:
        NewerStateError: A newer agent wrote it.
        StoreError: It cannot be read or written.

    """
    key = find_key(disk)
    if key is None:
        key = DeviceKey(SigningKey.generate())
        disk.replace(
            IDENTITY, encode(IdentityFile(seed=bytes(key.signing).hex(), device=key.device))
        )
    return key


class Life:
    """One life of this device, which nobody may hear of before it is counted.

    Attributes:
        boot: Its name.

    """

    def __init__(self, disk: Disk, boot: Boot) -> None:
        self._disk = disk
        self._counted = False
        self.boot = boot

    def count(self) -> None:
        """Count this life durably; what is counted already stays so.

        Raises:
            StoreError: The counter cannot be written; it may be tried again.

        """
        if not self._counted:
            self._disk.replace(BOOT, encode(BootFile(counter=self.boot.counter)))
            self._counted = True


def begin_life(disk: Disk) -> Life:
    """Name a new life; it is not yet counted.

    Raises:
        NewerStateError: A newer agent wrote the counter.
        StoreError: The counter cannot be read.

    """
    last = read_versioned(disk, BOOT, BootFile)
    counter = 1 if last is None else last.counter + 1
    return Life(disk, Boot(counter=counter, salt=secrets.token_hex(8)))


def next_boot(disk: Disk) -> Boot:
    """Begin a new life: name it, and count it durably.

    Raises:
        NewerStateError: A newer agent wrote the counter.
        StoreError: The counter cannot be read or written.

    """
    life = begin_life(disk)
    life.count()
    return life.boot
